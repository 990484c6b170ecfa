"""Directories that hold what loom believes later (caches, records): the user's own, and written by nobody else."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make a directory with mode 0700 where there is none. OSError when that can't be done, or when it is not private."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_private(directory)


def check_private(directory: Path) -> None:
    """OSError for a directory that is there and that another user made, may write to, or may replace.

    A link to such a directory counts when the user (or root) made it.
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
        return  # what is not there holds nothing; who makes it learns why it can't be made
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    if status.st_uid != me:
        raise _refused(directory, f"belongs to another user (uid {status.st_uid})")
    if status.st_mode & 0o022:
        raise _refused(
            directory, f"may be written by others (mode {status.st_mode & 0o777:o}; remove it, or chmod 700)"
        )
    if above.st_uid not in (me, 0):
        raise _refused(directory, f"lies in a directory of another user (uid {above.st_uid})")
    if above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX:
        raise _refused(directory, "lies in a directory where anybody may replace it")


def _refused(directory: Path, why: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"it {why}, so nothing in it is believed", str(directory))
