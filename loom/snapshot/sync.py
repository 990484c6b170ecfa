"""Sync between a workspace and its checkout: apply the checkout's later changes, return a patch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Container, Iterable, Mapping
from functools import partial
from pathlib import Path

from loom.errors import SnapshotError
from loom.snapshot.manifest import read_manifest
from loom.snapshot.merge import GITLINK, Applied, Content, Merge, apply_to, content_at, merge
from loom.snapshot.model import Change, readable
from loom.snapshot.verification import changes_between, verify
from loom.values import Environ, Immutable


class SavedFiles(Immutable):
    """A job's changes since its snapshot that were saved."""

    files: tuple[tuple[Change, Content | None], ...]
    """Each change, with the content that it left."""
    left_out: tuple[tuple[str, str], ...]
    """(path, reason) of files that were not saved."""


class Patch(Immutable):
    """The workspace's changes since its snapshot, for `git apply`."""

    text: bytes
    changes: tuple[Change, ...]
    """The paths that the patch is of."""
    conflicts: Mapping[str, str]
    """path -> reason, for changes in the workspace that can't be applied to the checkout: they are not in the patch."""
    left_out: tuple[Change, ...]
    """New files that are not source, by the caller's rule."""
    special: tuple[tuple[str, str], ...] = ()
    """(path, kind) of the workspace's sockets, FIFOs and devices, also in place of snapshot files."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of unreadable files, which may have changed."""
    before: Mapping[str, Content]
    """The checkout's changed paths before and `after`; a path without a file is in neither."""
    after: Mapping[str, Content]


def compare(taken: Path, files: Path, *, environ: Environ, manifest_file: Path, not_there: Iterable[str] = ()) -> Merge:
    """Compare a new snapshot of the checkout and a job's files with the snapshot that both were before.

    `manifest_file` has that snapshot's manifest; `not_there` as in `patch_of`.
    """
    before, now = read_manifest(files, manifest_file), read_manifest(taken)
    here = verify(files, environ=environ, manifest_file=manifest_file)
    changed = dict.fromkeys(
        (*(change.path for change in here.changes), *not_there), "changed in the job's files as well"
    )
    brought = changes_between(before, now, environ=environ)
    return merge(partial(content_at, taken), brought, files, changed | dict(here.unreadable))


def bring(taken: Path, files: Path, found: Merge, *, theirs: bool) -> Applied:
    """Make in the job's files what was compared, with the modes of `taken`; `theirs`: conflicts too.

    SnapshotError where a file can't be written.
    """
    changes = (*found.changes, *(found.both if theirs else ()))
    umask = 0o777 & ~taken.stat().st_mode
    force = found.conflicts if theirs else ()
    applied = apply_to(files, changes, partial(content_at, taken), force=force, umask=umask)
    if applied.failed:
        path, reason = next(iter(applied.failed.items()))
        raise SnapshotError(f"{readable(path)} could not be brought into the workspace: {reason}")
    return applied


def patch_of(
    workspace: Path,
    checkout: Path,
    *,
    environ: Environ,
    manifest_file: Path | None,
    leave_out: Callable[[Change], bool],
    not_there: Container[str] = (),
    saved: SavedFiles | None = None,
) -> Patch:
    """Compute the workspace's changes since the snapshot, against the present checkout.

    `not_there`: paths that the copy `workspace` lacks, which do not count as deleted. `saved`: its changes, when
    the workspace is gone.
    """
    left = {} if saved is None else {change.path: (change, content) for change, content in saved.files}
    content_of = partial(content_at, workspace) if saved is None else lambda path: left[path][1]
    here = verify(workspace, environ=environ, manifest_file=manifest_file) if saved is None else None
    there = verify(checkout, environ=environ, manifest_file=manifest_file)
    wanted: list[Change] = []
    left_out: list[Change] = []
    special, unreadable = (here.special, here.unreadable) if here is not None else ((), ())
    passed_over = {path for path, _ in (*special, *unreadable)}
    for change in here.changes if here is not None else (change for change, _ in left.values()):
        if change.path in passed_over or change.path in not_there:
            continue
        (left_out if change.mode == GITLINK or leave_out(change) else wanted).append(change)
    changed = dict.fromkeys((change.path for change in there.changes), "changed in the checkout since the run")
    manifest = read_manifest(workspace, manifest_file)
    changed |= dict.fromkeys(manifest.brought, "of the base branch, which the checkout has not merged")
    kept = dict.fromkeys(manifest.kept, "changed in the checkout before --sync=ours")
    merged = merge(content_of, wanted, checkout, kept | changed | dict(there.unreadable))
    before = _contents(partial(content_at, checkout), merged.changes)
    after = _contents(content_of, [change for change in merged.changes if change.kind != "deleted"])
    return Patch(
        text=_text(before, after) if merged.changes else b"",
        changes=merged.changes,
        conflicts=merged.conflicts,
        left_out=tuple(left_out),
        special=special,
        unreadable=unreadable,
        before=before,
        after=after,
    )


def _contents(content_of: Callable[[str], Content | None], changes: Iterable[Change]) -> dict[str, Content]:
    found = ((change.path, content_of(change.path)) for change in changes)
    return {path: content for path, content in found if content is not None}


def _text(before: Mapping[str, Content], after: Mapping[str, Content]) -> bytes:
    from loom.snapshot import objects

    with tempfile.TemporaryDirectory(prefix="loom-patch-") as scratch:
        return objects.patch(before, after, scratch)


def apply(patch: Patch, checkout: Path) -> Applied:
    """Change the checkout's files, each whole or not at all; its index stays as it is. Edits made since are not overwritten."""
    return apply_to(checkout, patch.changes, patch.after.get, before=patch.before)
