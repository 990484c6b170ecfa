"""Overlay layers: where they can be, and the owners of what a job wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from loom.providers.docker.container.ownership import Owner
from loom.util.file_systems import file_system_of

_UPPER_FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs")
"""File systems that support an overlay's upper layer: they can store its marks."""


def can_lie_over(workspace: Path) -> bool:
    """Return whether an overlay over `workspace`, with its upper layer beside it, is possible and complete."""
    return can_be_named(workspace) and file_system_of(workspace) in _UPPER_FILE_SYSTEMS


def can_be_named(path: Path) -> bool:
    return not set(str(path)) & set(",:\\\n")


def remove_work(layers: Path) -> None:
    """Remove the overlay's work directory; the layer with the job's changes stays with the workspace."""
    own = layers / "work" / "work"
    try:
        # The kernel's own: owned by root, empty and closed, so it can be removed but not listed.
        own.rmdir()
    except OSError:
        # Not empty if a job was killed during an operation; with a rootless engine the caller can open it.
        with contextlib.suppress(OSError):
            own.chmod(0o700)
    shutil.rmtree(layers / "work", ignore_errors=True)


def foreign_paths(root: Path, me: Owner) -> Iterator[str]:
    """Yield the paths below a directory, relative to it, that belong to other users; an overlay's whiteouts do not count.

    Somebody may remove it meanwhile.
    """
    if (status := lstat(root)) is not None and status.st_uid != me.uid:
        yield "."
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(directory) / name
            status = lstat(path)
            if status is not None and status.st_uid != me.uid and not stat.S_ISCHR(status.st_mode):
                yield path.relative_to(root).as_posix()


def lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
