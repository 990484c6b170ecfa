"""Read overlay layers: the paths that a job changed, and their owners."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from loom.providers.base import ViewChange
from loom.providers.docker.container.ownership import Owner
from loom.util.file_systems import file_system_of

if TYPE_CHECKING:
    pass
_UPPER_FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs")
"""File systems that support an overlay's upper layer: they can store its marks."""


def can_lie_over(workspace: Path) -> bool:
    """Whether an overlay over `workspace`, with its upper layer beside it, is possible and complete."""
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


def foreign_paths(upper: Path, me: Owner) -> Iterator[str]:
    """Yield the paths of an upper layer, relative to it, that belong to other users; whiteouts do not count.

    Somebody may remove it meanwhile.
    """
    if (status := lstat(upper)) is not None and status.st_uid != me.uid:
        yield "."
    for directory, names, files in os.walk(upper, onerror=None):
        for name in (*names, *files):
            path = Path(directory) / name
            status = lstat(path)
            if status is not None and status.st_uid != me.uid and not stat.S_ISCHR(status.st_mode):
                yield path.relative_to(upper).as_posix()


def differences(lower: Path, upper: Path) -> Iterator[ViewChange]:
    """Yield an upper layer's changes except `.git`: files and links, and empty directories."""
    pending: list[tuple[str, str | None, bool]] = [("", "", False)]
    while pending:
        path, below, moved = pending.pop()
        try:
            with os.scandir(upper / path) as scanned:
                entries = list(scanned)
        except PermissionError:
            continue
        names = {entry.name for entry in entries}
        if moved and below is not None:
            yield from _moved_here(lower / below, path, names)
        elif _is_opaque(upper / path):
            yield from _deleted_below(lower, path, names)
        for entry in entries:
            here = f"{path}/{entry.name}" if path else entry.name
            if here != ".git":
                yield from _difference(lower, entry, here, below, moved, pending)


def _difference(
    lower: Path,
    entry: os.DirEntry[str],
    path: str,
    below: str | None,
    moved: bool,
    pending: list[tuple[str, str | None, bool]],
) -> Iterator[ViewChange]:
    """`below`: the lower layer's directory under this one, whether it was `moved` or not."""
    status = entry.stat(follow_symlinks=False)
    under = None if below is None else f"{below}/{entry.name}" if below else entry.name
    before = None if under is None else lstat(lower / under)
    if stat.S_ISDIR(status.st_mode):
        source = _redirect(Path(entry.path), below or "")
        pending.append((path, source or (under if before else None), moved or source is not None))
        if before is None and source is None and _is_empty(Path(entry.path)):
            yield ViewChange(path=path, kind="added")
    elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        if not moved:
            yield ViewChange(path=path, kind="deleted")
    elif before is None or moved:
        yield ViewChange(path=path, kind="added")
    elif not _looks_the_same(status, before):
        yield ViewChange(path=path, kind="modified")


def _redirect(directory: Path, below: str) -> str | None:
    """Return the original place of a directory that the job moved. Only root can read the mark."""
    with contextlib.suppress(OSError):
        mark = os.fsdecode(os.getxattr(directory, "trusted.overlay.redirect", follow_symlinks=False))
        return mark.lstrip("/") if mark.startswith("/") else f"{below}/{mark}".lstrip("/")
    return None


def _moved_here(source: Path, path: str, changed: set[str]) -> Iterator[ViewChange]:
    """Yield the unchanged files of a directory that was moved to `path`."""
    for directory, _, files in os.walk(source):
        relative = Path(directory).relative_to(source)
        if relative.parts[:1] and relative.parts[0] in changed:
            continue
        for name in files:
            if relative.parts or name not in changed:
                yield ViewChange(path=(Path(path) / relative / name).as_posix(), kind="added")


def _looks_the_same(one: os.stat_result, other: os.stat_result) -> bool:
    # A mere change of owner copies a file up with its times; loom did that, not the job.
    return (one.st_mode, one.st_size, one.st_mtime_ns) == (other.st_mode, other.st_size, other.st_mtime_ns)


def lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_empty(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is None
    except PermissionError:
        return False


def _is_opaque(directory: Path) -> bool:
    """Whether a directory hides the lower one of its name. Only root can read the mark, except with a rootless engine."""
    for mark in ("trusted.overlay.opaque", "user.overlay.opaque"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, mark, follow_symlinks=False) == b"y":
                return True
    return False


def _deleted_below(lower: Path, directory: str, kept: set[str]) -> Iterator[ViewChange]:
    try:
        names = os.listdir(lower / directory)  # noqa: PTH208
    except OSError:
        return  # a new directory
    for name in set(names) - kept:
        yield ViewChange(path=f"{directory}/{name}", kind="deleted")
