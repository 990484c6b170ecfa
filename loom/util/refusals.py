"""Convert the machine's refusals (space, descriptors, processes, memory) to errors of the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loom.errors import InfrastructureError
from loom.util.paths import RUN_PREFIX

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
    """Return the error for what the machine refuses: no space, descriptors, processes or memory. None for a bug.

    Also for the workspace of a run that somebody removed.
    """
    if isinstance(error, OSError) and error.errno in _USED_UP:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return InfrastructureError(f"{where}{error.strerror}", hint=_USED_UP[error.errno])
    if isinstance(error, FileNotFoundError) and (workspace := _removed_workspace(str(error.filename))) is not None:
        hint = "something removed the run's workspace while it was used"
        return InfrastructureError(f"{workspace}: the workspace is gone", hint=hint, code="WORKSPACE_MISSING")
    if isinstance(error, ImportError) and os.strerror(errno.EMFILE) in str(error):  # of a compiled module
        return InfrastructureError(str(error), hint=_USED_UP[errno.EMFILE])
    if isinstance(error, MemoryError):
        return InfrastructureError("no memory left", hint=_USED_UP[errno.ENOMEM])
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return InfrastructureError(str(error), hint=_USED_UP[errno.EAGAIN])
    return None


def _removed_workspace(missing: str) -> Path | None:
    """Return the run's workspace, or directory of its jobs, that the path is in and that is no longer there."""
    path = Path(missing)
    workspace = next((one for one in (path, *path.parents) if one.name.startswith(RUN_PREFIX)), None)
    return workspace if workspace is not None and not os.path.lexists(workspace) else None


@contextmanager
def refusals() -> Iterator[None]:
    """Raise what the machine refuses in the block as InfrastructureError."""
    try:
        yield
    except (OSError, ImportError, MemoryError, RuntimeError) as error:
        if (refused := refusal(error)) is None:
            raise
        raise refused from error
