"""Reach a directory below another one, never through a link, also while somebody else changes both."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loom.snapshot.copy_files import Directories, WriteFailed


@contextmanager
def directory_in(root: Path, path: str, *, umask: int | None = None) -> Iterator[Path]:
    """Yield a path that reaches the directory `path` below `root` during the block; with an `umask`, create it.

    OSError for a link or a file on the way, and for a path that leads out of `root`.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    directories = Directories(descriptor, umask=umask, since_ns=0)
    try:
        yield Path(f"/proc/self/fd/{directories.enter(path)[0]}")
    except WriteFailed as error:
        raise OSError(error.args[1], os.strerror(error.args[1]), str(root / path)) from error
    finally:
        directories.close()
        os.close(descriptor)


@contextmanager
def parent_in(root: Path, path: str, *, umask: int | None = None) -> Iterator[Path]:
    """Yield a path that reaches `path` itself, by way of the directory above it, as in `directory_in`."""
    above, _, name = path.rpartition("/")
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(root / path))
    with directory_in(root, above, umask=umask) as directory:
        yield directory / name


def remove_empty(root: Path, path: str) -> bool:
    """Remove a directory if nothing is in it; return whether it is gone."""
    with suppress(OSError), parent_in(root, path) as opened:
        opened.rmdir()
        return True
    return False
