"""Sync between a workspace and its checkout: apply the checkout's later changes, return a patch.

Changes on both sides come from the proof of `verify`: each side's tree against the snapshot's.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.index import ancestors
from loom.snapshot.merge import GITLINK, LINK, Applied, Content, apply_to, content_at, merge
from loom.snapshot.model import Change, readable
from loom.snapshot.verification import verify


class Patch(Struct, frozen=True, kw_only=True):
    """The workspace's changes since its snapshot, for `git apply`."""

    text: bytes
    changes: tuple[Change, ...]
    """The paths that the patch is of."""
    conflicts: Mapping[str, str]
    """path -> reason, of what changed in the workspace and can't be made so in the checkout: it is not in the patch."""
    left_out: tuple[Change, ...]
    """New files that are not source, by the caller's rule."""
    special: tuple[tuple[str, str], ...] = ()
    """(path, kind) of the workspace's sockets, FIFOs and devices, also in place of snapshot files."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of unreadable files, which may have changed."""
    before: Mapping[str, Content]
    """The checkout's changed paths before and `after`; a path without a file is in neither."""
    after: Mapping[str, Content]


def bring(checkout: Path, workspace: Path, *, environ: Mapping[str, str], manifest_file: Path) -> tuple[Change, ...]:
    """Apply the checkout's changes since the snapshot to the workspace, over jobs' changes.

    Return the changed workspace paths. Links in the workspace are replaced, never followed.
    """
    brought = []
    for change in verify(checkout, environ=environ, manifest_file=manifest_file).changes:
        source, target = checkout / change.path, workspace / change.path
        if change.mode == GITLINK or _same(source, target):
            continue
        try:
            _make_way(workspace, change.path)
            _remove(target)
            if change.kind != "deleted":
                _copy(source, target)
        except OSError as error:
            raise SnapshotError(
                f"{readable(change.path)} could not be brought into the workspace: {error.strerror}"
            ) from error
        brought.append(change)
    return tuple(brought)


def patch_of(
    workspace: Path,
    checkout: Path,
    *,
    environ: Mapping[str, str],
    manifest_file: Path | None,
    leave_out: Callable[[Change], bool],
    not_there: Container[str] = (),
) -> Patch:
    """Compute the workspace's changes since the snapshot, against the present checkout.

    `not_there`: paths that the copy `workspace` lacks, which do not count as deleted.
    """
    here = verify(workspace, environ=environ, manifest_file=manifest_file)
    there = verify(checkout, environ=environ, manifest_file=manifest_file)
    wanted: list[Change] = []
    left_out: list[Change] = []
    passed_over = {path for path, _ in (*here.special, *here.unreadable)}
    for change in here.changes:
        if change.path in passed_over or change.path in not_there:
            continue
        (left_out if change.mode == GITLINK or leave_out(change) else wanted).append(change)
    changed = dict.fromkeys((change.path for change in there.changes), "changed in the checkout since the run")
    merged = merge(workspace, wanted, checkout, changed | dict(there.unreadable))
    before = _contents(checkout, merged.changes)
    after = _contents(workspace, [change for change in merged.changes if change.kind != "deleted"])
    return Patch(
        text=_text(before, after) if merged.changes else b"",
        changes=merged.changes,
        conflicts=merged.conflicts,
        left_out=tuple(left_out),
        special=here.special,
        unreadable=here.unreadable,
        before=before,
        after=after,
    )


def _contents(root: Path, changes: tuple[Change, ...] | list[Change]) -> dict[str, Content]:
    found = ((change.path, content_at(root, change.path)) for change in changes)
    return {path: content for path, content in found if content is not None}


def _text(before: Mapping[str, Content], after: Mapping[str, Content]) -> bytes:
    from loom.snapshot import objects

    with tempfile.TemporaryDirectory(prefix="loom-patch-") as scratch:
        return objects.patch(before, after, scratch)


def apply(patch: Patch, checkout: Path) -> Applied:
    """Change the checkout's files, each whole or not at all; its index stays as it is. Edits made since are not overwritten."""
    since = [change for change in patch.changes if content_at(checkout, change.path) != patch.before.get(change.path)]
    applied = apply_to(checkout, [change for change in patch.changes if change not in since], patch.after.get)
    applied.failed.update(dict.fromkeys((change.path for change in since), "changed in the checkout just now"))
    return applied


def _content(path: Path) -> Content | None:
    """Read a file or link; None for others."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return LINK, os.fsencode(path.readlink())
    if not stat.S_ISREG(mode):
        return None
    return (0o100755 if mode & 0o100 else 0o100644), path.read_bytes()


def _same(one: Path, other: Path) -> bool:
    """Whether two paths hold the same content, executable bit or link target, or are both missing."""
    content = _content(one)
    if content is None and (os.path.lexists(one) or os.path.lexists(other)):
        return False
    return content == _content(other)


def _make_way(workspace: Path, path: str) -> None:
    """Create real directories down to `path`; a job may have replaced them by links."""
    for above in ancestors(path):
        place = workspace / above
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            place.unlink()
        place.mkdir(exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(source.readlink())  # wherever it leads; `shutil` would look
    else:
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
