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

from collections.abc import Sequence
from typing import Any, ClassVar

from loom.addresses import hide_credentials
from loom.values import Immutable


def reason_of(error: OSError) -> str:
    """Return the system's words, for the middle of a sentence."""
    return (error.strerror or str(error)).lower()


class LoomError(Exception):
    """An error whose message a user reads: the position, the reason, the next move.

    `code` is a stable upper-case name for machines, `hint` the next move (one or more lines), `exit_code` what the
    process ends with. Addresses in both lose their credentials: libraries and programs repeat those that they were given.
    """

    exit_code: ClassVar[int] = 70
    default_code: ClassVar[str] = "LOOM_ERROR"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None) -> None:
        self.message = hide_credentials(message)
        self.hint = hide_credentials(hint) if hint else hint
        super().__init__(self.message)
        self.code = code or self.default_code

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class RequestError(LoomError):
    exit_code = 2
    default_code = "REQUEST_INVALID"


class NoJobRuns(RequestError):
    """No job runs here for this event. `left_out`: the jobs of the workflow, some of which a server may run."""

    default_code = "NO_JOB_RUNS"
    left_out: Sequence[Any] = ()


class Problem(Immutable):
    """One thing wrong (or doubtful) in a file a user wrote. Lines and columns count from 1."""

    file: str
    line: int
    column: int
    pointer: str
    """The value's position in its file (JSON pointer, RFC 6901); `/`: the whole file."""
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
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(map(str, self.problems)), hint=hint)


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

    def named_at(self, position: str) -> ImageError:
        """Return the same error with the position that names the image, if known."""
        message = f"{self.message} (image: {position})" if position else self.message
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
