"""Every way loom can fail, each with its exit code and the next move.

    LoomError                 what the boundary in `cli` prints; everything else is a bug of ours (70)
    ├── RequestError      2   the command line, the configuration or the repository asked for is wrong
    │   └── WorkflowError 2   the workflow file is wrong; carries every problem found, in file order
    └── InfrastructureError 3 the engine, an image or the snapshot is unavailable
        ├── SnapshotError
        ├── ProviderError     a job's session broke (caught for each job by the runner)
        │   └── EngineUnavailable
        ├── ImageError
        ├── ServiceError
        ├── SecretError
        ├── ArtifactError
        ├── CacheError
        └── RecordError       a run's record is missing, damaged or of another schema

A failing step raises none of these: it is a value (`status.Exit`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from msgspec import Struct


class LoomError(Exception):
    """An error whose message a user reads: the place, the reason, the next move.

    `code` is a stable upper-case name for machines, `hint` the next move (one or more lines), `exit_code` what the
    process ends with.
    """

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "LOOM_ERROR"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.default_code

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class RequestError(LoomError):
    exit_code = 2
    default_code = "REQUEST_INVALID"


class Problem(Struct, frozen=True, kw_only=True):
    """One thing wrong (or doubtful) in a file a user wrote. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    pointer: str
    message: str
    code: str = "WF_SCHEMA_V1"
    severity: str = "error"
    source_line: str | None = None
    length: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.code} {self.pointer}: {self.message}"


class WorkflowError(RequestError):
    default_code = "WF_SCHEMA_V1"

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        super().__init__("\n".join(str(problem) for problem in problems), hint=hint)
        self.problems = tuple(problems)


class InfrastructureError(LoomError):
    exit_code = 3
    default_code = "INFRASTRUCTURE"


class SnapshotError(InfrastructureError):
    default_code = "SNAPSHOT_FAILED"


class ProviderError(InfrastructureError):
    default_code = "PROVIDER_FAILED"


class EngineUnavailable(ProviderError):
    default_code = "ENGINE_UNAVAILABLE"


class ImageError(InfrastructureError):
    default_code = "IMAGE_UNAVAILABLE"

    def named_at(self, place: str) -> ImageError:
        """Return the same error with the place that names the image, if known."""
        message = f"{self.message} (image: {place})" if place else self.message
        return ImageError(message, hint=self.hint, code=self.code)


class ServiceError(InfrastructureError):
    default_code = "SERVICE_FAILED"


class NotServing(ServiceError):
    """A service that started, and ended or was not ready in time."""


class SecretError(InfrastructureError):
    default_code = "SECRETS_PROVIDER_UNAVAILABLE"


class ArtifactError(InfrastructureError):
    default_code = "ARTIFACT_FAILED"


class CacheError(InfrastructureError):
    default_code = "CACHE_FAILED"


class RecordError(InfrastructureError):
    default_code = "RECORD_UNREADABLE"


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_USED_UP = {
    **dict.fromkeys(_NO_ROOM, "free some space there"),
    errno.EMFILE: "allow more open files: ulimit -n",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOMEM: "the machine has no memory left",
    errno.EAGAIN: "the machine or its limit (ulimit -u, pids) allows no more processes",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "see the kernel's messages: dmesg",
}


def refusal(error: BaseException) -> InfrastructureError | None:
    """Return the error for what the machine refuses: no space, descriptors, processes or memory. None for a bug."""
    if isinstance(error, OSError) and error.errno in _USED_UP:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return InfrastructureError(f"{where}{error.strerror}", hint=_USED_UP[error.errno])
    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):  # of a compiled module
        return InfrastructureError(str(error), hint=_USED_UP[errno.EMFILE])
    if isinstance(error, MemoryError):
        return InfrastructureError("no memory left", hint=_USED_UP[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return InfrastructureError(str(error), hint=_USED_UP[errno.EAGAIN])
    return None


@contextmanager
def refusals() -> Iterator[None]:
    """Raise what the machine refuses in the block as InfrastructureError."""
    try:
        yield
    except (OSError, ImportError, MemoryError, RuntimeError) as error:
        if (refused := refusal(error)) is None:
            raise
        raise refused from error
