"""Create and check private directories, for data that loom trusts (caches, records, trust) and for jobs' files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from loom.errors import InfrastructureError, SnapshotError


def make_private(directory: Path) -> None:
    """Create a directory and those above it with mode 0700, if missing, and take the others' rights to one that is there.

    OSError on failure, or when it is not private; nothing is made in a directory of somebody else's.
    """
    check_private(directory)
    _make_all(directory)
    check_private(directory)
    if directory.stat().st_mode & 0o077:
        directory.chmod(0o700)


def make_in_shared(directory: Path) -> None:
    """Create a directory in one that is closed to others, in a temporary one; these are created if missing.

    SnapshotError on failure, or if somebody else could replace it there: only the sticky bit keeps others from that.
    """
    own, why = directory.parent, None
    above = own.parent
    try:
        _make_all(above)
        status = above.stat()
        if not status.st_mode & stat.S_ISVTX:
            if status.st_uid not in (os.geteuid(), 0):
                why = f"{above} belongs to another user (uid {status.st_uid})"
            elif _others_may_write(status):
                why = f"others may replace what is in {above} (mode {status.st_mode & 0o777:o}, without the sticky bit)"
        if why is not None:
            raise PermissionError(errno.EPERM, why, str(above))
        make_own(own)
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise SnapshotError(
            f"the isolated workspace can't be made at {directory}: {error.strerror or error}",
            hint="name another directory with LOOM_TMP_DIR or TMPDIR",
        ) from error


def _make_all(directory: Path) -> None:
    for missing in reversed([path for path in (directory, *directory.parents) if not os.path.lexists(path)]):
        missing.mkdir(mode=0o700, exist_ok=True)


def _others_may_write(status: os.stat_result) -> bool:
    return bool(status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()))


def make_own(directory: Path) -> None:
    """Create a directory with mode 0700 in a shared directory (/tmp). OSError if another user created it."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise _refused(directory, "is a link, a file or another user's directory") from None
        if status.st_mode & 0o077:
            directory.chmod(0o700)


def check_private(directory: Path) -> None:
    """Check that no other user created or can write to the directory or one above it; OSError otherwise.

    A link counts by its owner: the user (or root). Of a missing directory, the one counts in which it would be made.
    """
    me = os.geteuid()
    if not os.path.lexists(directory):
        _check_above(directory, next(path for path in directory.parents if os.path.lexists(path)).stat())
        return
    status = directory.lstat()
    if stat.S_ISLNK(status.st_mode):
        if status.st_uid not in (me, 0):
            raise _refused(directory, "is a link that another user made")
        directory = directory.resolve()
        status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if status.st_uid != me:
        raise _refused(directory, f"belongs to another user (uid {status.st_uid})")
    if _others_may_write(status):
        raise _refused(
            directory, f"may be written by others (mode {status.st_mode & 0o777:o}; remove it, or chmod 700)"
        )
    _check_above(directory, directory.parent.lstat())


def _check_above(directory: Path, above: os.stat_result) -> None:
    if above.st_uid not in (os.geteuid(), 0):
        raise _refused(directory, f"lies in a directory of another user (uid {above.st_uid})")


def check_own(directory: Path, what: str) -> None:
    """Check the `state` or `cache` directory, if it is there. InfrastructureError if somebody else may have filled it."""
    try:
        check_private(directory)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it holds nothing; its creation will report the cause
    except OSError as error:
        raise InfrastructureError(
            f"the {what} directory {directory} can't be used: {error.strerror or error}",
            hint=f"remove it if you do not know it, or name another directory with LOOM_{what.upper()}_DIR",
            code="STATE_DIR_NOT_PRIVATE" if what == "state" else "CACHE_DIR_NOT_PRIVATE",
        ) from error


def make_in_cache(directory: Path) -> None:
    """Create a private directory of loom's cache, if it is missing. InfrastructureError if that can't be done."""
    try:
        make_private(directory)
    except OSError as error:
        raise InfrastructureError(
            f"{directory} can't be made: {error.strerror or error}", hint="name another cache with XDG_CACHE_HOME"
        ) from error


def _refused(directory: Path, why: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"it {why}, so loom trusts nothing in it", str(directory))
