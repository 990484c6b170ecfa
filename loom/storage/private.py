"""Create and check private directories, for data that loom trusts (caches, records, trust) and for jobs' files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from loom.errors import InfrastructureError


def make_private(directory: Path) -> None:
    """Create a directory with mode 0700 if missing. OSError on failure, or when it is not private."""
    for missing in reversed([place for place in (directory, *directory.parents) if not os.path.lexists(place)]):
        missing.mkdir(mode=0o700 if missing == directory else 0o755, exist_ok=True)
    check_private(directory)


def make_own(directory: Path) -> None:
    """Create a directory with mode 0700 in a shared place (/tmp). OSError if another user created it."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise _refused(directory, "is a link, a file or another user's directory") from None


def check_private(directory: Path) -> None:
    """Check that no other user created or can write to the directory or one above it; OSError otherwise.

    A link counts by its owner: the user (or root).
    """
    me = os.geteuid()
    try:
        status = directory.lstat()
        if stat.S_ISLNK(status.st_mode):
            if status.st_uid not in (me, 0):
                raise _refused(directory, "is a link that another user made")
            directory = directory.resolve()
            status = directory.lstat()
        above = directory.parent.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return  # a missing directory holds nothing; its creation will report the cause
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if status.st_uid != me:
        raise _refused(directory, f"belongs to another user (uid {status.st_uid})")
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()):
        raise _refused(
            directory, f"may be written by others (mode {status.st_mode & 0o777:o}; remove it, or chmod 700)"
        )
    if above.st_uid not in (me, 0):
        raise _refused(directory, f"lies in a directory of another user (uid {above.st_uid})")


def own_state(directory: Path) -> Path:
    """Return the state directory if it is the user's own. InfrastructureError if somebody else may have filled it."""
    try:
        check_private(directory)
    except OSError as error:
        raise InfrastructureError(
            f"the state directory {directory} can't be used: {error.strerror or error}",
            hint="remove it if you do not know it, or name another place with LOOM_STATE_DIR",
            code="STATE_DIR_NOT_PRIVATE",
        ) from error
    return directory


def _refused(directory: Path, why: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"it {why}, so nothing in it is believed", str(directory))
