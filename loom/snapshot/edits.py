"""Tell what changed in a job's files since they were kept: by hand, or by a command in its container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loom.snapshot.index import lstat, walk
from loom.snapshot.model import Change
from loom.snapshot.verification import Verification
from loom.util.paths import ancestors


def changed_since(found: Verification, moment: float, *, copied: bool = False) -> Iterator[str]:
    """Yield the paths of the changes that are younger than `moment` (seconds since the epoch).

    By the times that the kernel sets, which nobody can set back; of a deleted file, by that of its directory. In a copy
    that an engine made (`copied`), by those of the content, and without deleted files: the copy has no time of them.
    """
    for change in found.changes:
        if copied and change.kind == "deleted":
            continue
        status = next(filter(None, (lstat(found.workspace / path) for path in _nearest(change))))
        if (status.st_mtime if copied else status.st_ctime) > moment:
            yield change.path


def is_untouched(root: Path, since: float) -> bool:
    """Return whether nothing below the directory changed after `since`."""
    return not any(
        (status := lstat(Path(path))) is not None and status.st_ctime > since
        for here, _, files in walk(root)
        for path in (here, *(entry.path for entry in files))
    )


def _nearest(change: Change) -> Iterator[str]:
    if change.kind != "deleted":
        yield change.path
    yield from reversed(ancestors(change.path))
    yield ""
