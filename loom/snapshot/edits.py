"""What was changed in a directory since a moment, when no step ran: by a person, or by a command in the job's place."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.index import ancestors, walk
from loom.snapshot.model import Change
from loom.snapshot.verification import verify

DIGEST_SIZE = 16


class Edited(Struct, frozen=True, kw_only=True):
    """Paths below a directory."""

    files: frozenset[str] = frozenset()
    directories: frozenset[str] | None = frozenset()
    """None: unknown."""
    before: frozenset[bytes] | None = None
    """What was there at that moment, to tell who removed a file; None: unknown, unless `layer`."""
    layer: bool = False
    """The directory is the upper layer of an overlay, where a removed file leaves a mark with a time of its own."""

    def __bool__(self) -> bool:
        return bool(self.files or self.directories is None or self.directories)

    def holds(self, change: Change) -> bool:
        """Whether it is one of these. SnapshotError when that can't be told."""
        if change.path in self.files:
            return True
        if change.kind != "deleted":
            return False
        if self.layer:
            return any(above in self.files for above in ancestors(change.path))
        if self.before is None:
            raise SnapshotError(f"it is unknown who removed {change.path}: a step, or somebody after it")
        return _digest(change.path) in self.before


def digests_in(root: Path) -> frozenset[bytes]:
    """The names of all files below a directory but those in `.git`, as digests: a name may hold a secret."""
    found = set[bytes]()
    for here, folders, entries in walk(root):
        folders[:] = [name for name in folders if name != ".git"]
        below = os.path.relpath(here, root)
        found |= {_digest(entry.name if below == "." else f"{below}/{entry.name}") for entry in entries}
    return frozenset(found)


def _digest(path: str) -> bytes:
    return hashlib.blake2b(os.fsencode(path), digest_size=DIGEST_SIZE).digest()


def edited_since(
    root: Path, since: float, *, before: frozenset[bytes] | None = None, layer: bool = False, copied: bool = False
) -> Edited | None:
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
    return Edited(
        files=frozenset(files),
        directories=None if copied else frozenset(directories),
        before=before,
        layer=layer,
    )


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
    return tuple(change for change in found if change.path in also or edited.holds(change))
