"""Sync between a workspace and its checkout: apply the checkout's later changes, return a patch.

Changes on both sides come from the proof of `verify`: each side's tree against the snapshot's.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import RequestError, SnapshotError
from loom.snapshot.index import ancestors
from loom.snapshot.model import Change, readable
from loom.snapshot.verification import verify

Content = tuple[int, bytes]
"""A file's mode in git's terms and its bytes; of a link, where it leads."""
_GITLINK = "160000"
_LINK = 0o120000


class Patch(Struct, frozen=True, kw_only=True):
    """The workspace's changes since its snapshot, for `git apply`."""

    text: bytes
    changes: tuple[Change, ...]
    """The paths in the patch."""
    conflicts: tuple[str, ...]
    """Paths that changed differently in workspace and checkout: they are not in the patch."""
    left_out: tuple[Change, ...]
    """New files that are not source, by the caller's rule."""
    special: tuple[tuple[str, str], ...] = ()
    """(path, kind) of the workspace's sockets, FIFOs and devices, also in place of snapshot files."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of unreadable files, which may have changed."""
    before: Mapping[str, Content]
    """The checkout's changed paths before and `after`; a path without a file is in neither."""
    after: Mapping[str, Content]

    @property
    def paths(self) -> list[str]:
        return [change.path for change in self.changes]


def bring(checkout: Path, workspace: Path, *, environ: Mapping[str, str], manifest_file: Path) -> tuple[Change, ...]:
    """Apply the checkout's changes since the snapshot to the workspace, over jobs' changes.

    Return the changed workspace paths. Links in the workspace are replaced, never followed.
    """
    brought = []
    for change in verify(checkout, environ=environ, manifest_file=manifest_file).changes:
        source, target = checkout / change.path, workspace / change.path
        if change.mode == _GITLINK or _same(source, target):
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
    there = {change.path: change for change in verify(checkout, environ=environ, manifest_file=manifest_file).changes}
    wanted: list[Change] = []
    left_out: list[Change] = []
    conflicts: list[str] = []
    passed_over = {path for path, _ in (*here.special, *here.unreadable)}
    for change in here.changes:
        if change.path in passed_over or change.path in not_there:
            continue
        if change.mode == _GITLINK or leave_out(change):
            left_out.append(change)
        elif change.path in there or (change.kind == "added" and os.path.lexists(checkout / change.path)):
            if not _same(workspace / change.path, checkout / change.path):
                conflicts.append(change.path)
        else:
            wanted.append(change)
    # By kind, since a job may have put a link that leads elsewhere in the place of a deleted file's directory.
    before = _contents(checkout, [change for change in wanted if change.kind != "added"])
    after = _contents(workspace, [change for change in wanted if change.kind != "deleted"])
    return Patch(
        text=_text(before, after) if wanted else b"",
        changes=tuple(wanted),
        conflicts=tuple(conflicts),
        left_out=tuple(left_out),
        special=here.special,
        unreadable=here.unreadable,
        before=before,
        after=after,
    )


def _contents(root: Path, changes: Iterable[Change]) -> dict[str, Content]:
    found = {}
    for change in changes:
        try:
            content = _content(root / change.path)
        except OSError as error:
            raise SnapshotError(f"{root / change.path} can't be read: {error.strerror}") from error
        if content is not None:
            found[change.path] = content
    return found


def _text(before: Mapping[str, Content], after: Mapping[str, Content]) -> bytes:
    from loom.snapshot import objects

    with tempfile.TemporaryDirectory(prefix="loom-patch-") as scratch:
        return objects.patch(before, after, scratch)


def apply(patch: Patch, checkout: Path) -> None:
    """Change the checkout's files, all or none; the index is unchanged. RequestError when later edits conflict."""
    for path in patch.paths:
        if any((checkout / above).is_symlink() for above in ancestors(path)):
            raise RequestError(
                f"{readable(path)} lies behind a link in the checkout",
                hint="nothing was applied; take what you want by hand",
            )
    changed = [path for path in patch.paths if _content(checkout / path) != patch.before.get(path)]
    if conflicts := [*patch.conflicts, *changed]:
        raise RequestError(
            f"changed in the checkout since the run, and differently: {', '.join(map(readable, conflicts))}",
            hint="nothing was applied; commit or undo your edits there, or take parts of `loom pull` by hand",
            code="CHECKOUT_CHANGED",
        )
    for path in sorted(patch.paths, key=lambda path: path in patch.after):  # a directory may replace a file
        try:
            _put(patch.after.get(path), checkout, path)
        except OSError as error:
            raise SnapshotError(f"{readable(str(checkout / path))} could not be changed: {error.strerror}") from error


def _put(content: Content | None, checkout: Path, path: str) -> None:
    target = checkout / path
    target.unlink(missing_ok=True)
    if content is None:
        for above in reversed(ancestors(path)):
            try:
                (checkout / above).rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                break
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    mode, data = content
    if mode == _LINK:
        target.symlink_to(os.fsdecode(data))
        return
    allowed = 0o777 if mode & 0o100 else 0o666  # less the umask, as git does it
    with open(target, "xb", opener=lambda name, flags: os.open(name, flags, allowed)) as file:
        file.write(data)


def _content(path: Path) -> Content | None:
    """Read a file or link; None for others."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(mode):
        return _LINK, os.fsencode(path.readlink())
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
