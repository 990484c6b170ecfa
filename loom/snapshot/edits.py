"""What was changed in a directory since a moment, when no step ran: by a person, or by a command in the job's place."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.index import ancestors, walk
from loom.snapshot.model import Change
from loom.snapshot.verification import verify


class Edited(Struct, frozen=True):
    """Paths below a directory. A changed directory may be one that a file was removed from."""

    files: frozenset[str] = frozenset()
    directories: frozenset[str] | None = frozenset()
    """None: unknown, and so is who removed a file."""

    def __bool__(self) -> bool:
        return bool(self.files or self.directories is None or self.directories)

    def holds(self, change: Change, files: Path) -> bool:
        """Whether it is one of these changes of `files`."""
        if change.kind != "deleted":
            return change.path in self.files
        # Of a removed directory, only the one above it is left.
        if self.directories is None:
            return False
        left = (above for above in reversed(ancestors(change.path)) if (files / above).is_dir())
        return next(left, "") in self.directories


def edited_since(root: Path, since: float, *, copied: bool = False) -> Edited | None:
    """Everything but `.git` that changed after `since` (seconds since the epoch).

    By the times that the kernel sets, which nobody can set back. In a copy that an engine made (`copied`), by those of their
    content, of which it gives whole seconds; None if a file changed in the second of `since`, before or after it.
    """
    files, directories = set[str](), set[str]()
    if copied:
        second = float(int(since))
        untold = any(
            _time(entry.path, copied=True) == second
            for here, _, entries in walk(root)
            for entry in entries
            if f"{os.sep}.git{os.sep}" not in f"{here}{os.sep}"
        )
        if untold:
            return None

    def changed(path: str) -> bool:
        return _time(path, copied=copied) > since

    for here, folders, entries in walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        below = os.path.relpath(here, root)
        if changed(str(here)):
            directories.add("" if below == "." else below)
        for entry in entries:
            if changed(entry.path):
                files.add(entry.name if below == "." else f"{below}/{entry.name}")
    return Edited(frozenset(files), None if copied else frozenset(directories))


def _time(path: str, *, copied: bool) -> float:
    try:
        status = os.lstat(path)
    except OSError:
        return 0.0
    return status.st_mtime if copied else status.st_ctime


def changes_among(
    files: Path, edited: Edited, also: Container[str], *, environ: Mapping[str, str], manifest_file: Path | None
) -> tuple[Change, ...]:
    """What differs from the snapshot in `files`, of what was edited and of `also`. SnapshotError when that can't be told."""
    found = verify(files, environ=environ, manifest_file=manifest_file).changes
    if edited.directories is None and any(change.kind == "deleted" and change.path not in also for change in found):
        raise SnapshotError("it is unknown who removed files: a step, or somebody after it")
    return tuple(change for change in found if change.path in also or edited.holds(change, files))
