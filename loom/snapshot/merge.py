"""The merge of two directories that were made from one snapshot: what one changed since, made so in the other, by path.

A path is a file or a link with its executable bit, or nothing; a directory is what its files make it. Nothing is compared
by name or likeness, so a rename is a path that goes and a path that comes. `git apply` would do the writing, but follows a
link that a job puts in its way between its check and its write, and leaves the files half changed after an error.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.copy_files import umask_here
from loom.snapshot.index import lstat, walk
from loom.snapshot.inside import parent_in, remove_empty
from loom.snapshot.model import Change
from loom.snapshot.names import is_refused
from loom.util import atomic
from loom.util.paths import ancestors, is_below
from loom.util.untrusted_files import open_regular
from loom.values import Immutable

Content = tuple[int, bytes]
"""A file's mode in git's terms and its bytes; of a link, where it leads."""
LINK = 0o120000
GITLINK = "160000"


class Merge(Immutable):
    """The changes that can be made in the target."""

    changes: tuple[Change, ...]
    conflicts: Mapping[str, str]
    """path -> why it stays as it is in the target."""
    both: tuple[Change, ...]
    """The changes of these paths."""


def merge(
    content_of: Callable[[str], Content | None],
    changes: Iterable[Change],
    target: Path,
    changed_there: Mapping[str, str],
) -> Merge:
    """Compare `changes`, after which the files have these contents, with the target.

    `changed_there` has the paths that the target changed since, or that can't be read there, and what to call that.
    SnapshotError for a file that can't be read.
    """
    everything = {change.path: change for change in changes if change.mode != GITLINK}
    conflicts = {path: "git allows no file of that name" for path in everything if is_refused(path)}
    everything = {path: change for path, change in everything.items() if path not in conflicts}
    wanted = dict(everything)
    for path, change in everything.items():
        there = content_at(target, path)
        if there == content_of(path):
            del wanted[path]
        elif path in changed_there or (change.kind == "added" and there is not None):
            conflicts[path] = changed_there.get(path, "another file of that name is there")
            del wanted[path]
    while found := _obstacles(target, wanted):
        for path, reason in found.items():
            # Changes above and below a path in conflict are in conflict as well.
            for other in [one for one in wanted if is_below(one, path) or is_below(path, one)]:
                conflicts[other] = reason
                del wanted[other]
    return Merge(
        changes=tuple(wanted.values()),
        conflicts=dict(sorted(conflicts.items())),
        both=tuple(everything[path] for path in sorted(conflicts) if path in everything),
    )


def _obstacles(target: Path, wanted: Mapping[str, Change]) -> dict[str, str]:
    """Return the paths that can't come to be, and why: something stays where they or their directories would be."""
    goes = {path for path, change in wanted.items() if change.kind == "deleted"}
    return {path: reason for path in wanted if path not in goes and (reason := _obstacle(target, path, goes))}


def _obstacle(target: Path, path: str, goes: Collection[str]) -> str | None:
    for above in ancestors(path):
        status = lstat(target / above)
        if status is None:
            return None
        if not stat.S_ISDIR(status.st_mode):
            kind = "a link" if stat.S_ISLNK(status.st_mode) else "no directory"
            return None if above in goes else f"{above} is {kind} there"
    status = lstat(target / path)
    if status is None or stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        return None
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a file there"
    stays = next((name for name in _names_below(target, path) if name not in goes), None)
    return None if stays is None else f"it is a directory there, with {stays}"


def _names_below(target: Path, path: str) -> Iterator[str]:
    return (os.path.relpath(entry.path, target) for _, _, files in walk(target / path) for entry in files)


class Applied(Struct):
    """The changes of a directory. Paths of directories stand for all that is in them."""

    removed: list[str] = []
    written: list[str] = []
    failed: dict[str, str] = {}
    """path -> why it is as it was."""


def displaced(target: Path, paths: Iterable[str]) -> Iterator[tuple[str, Content]]:
    """Yield the files and links of `target` that give way where these paths get other content by force."""
    for path in paths:
        found = [
            (name, content) for name in (*ancestors(path), path) if (content := content_at(target, name)) is not None
        ]
        yield from found
        if not found and (status := lstat(target / path)) is not None and stat.S_ISDIR(status.st_mode):
            for name in _names_below(target, path):
                if (content := content_at(target, name)) is not None:
                    yield name, content


def apply_to(
    target: Path,
    changes: Iterable[Change],
    content_of: Callable[[str], Content | None],
    *,
    force: Collection[str] = (),
    before: Mapping[str, Content] | None = None,
    umask: int | None = None,
) -> Applied:
    """Give these paths their content in `target`, each whole or not at all. Links are replaced, never followed.

    Their modes are what `umask` leaves (None: that of this process). What is written belongs to the owner of `target`, if this
    process is root; else to its user. `force`: paths that get it whatever stands in their way. `before`: what is replaced; a
    path that has something else now fails.
    """
    applied = Applied()
    for change in sorted(changes, key=lambda change: change.kind != "deleted"):  # a file may give way to a directory
        path = change.path
        try:
            content = None if change.kind == "deleted" else content_of(path)
            if before is not None and content_at(target, path) != before.get(path):
                applied.failed[path] = "changed in the checkout just now"
                continue
            if path in force:
                _clear(target, path, applied)
            if content is None:
                _take_away(target, path, applied)
            else:
                _put(target, path, content, applied, umask_here() if umask is None else umask)
        except OSError as error:
            applied.failed[path] = error.strerror or str(error)
        except SnapshotError as error:
            applied.failed[path] = error.message
    return applied


def _clear(target: Path, path: str, applied: Applied) -> None:
    for above in (*ancestors(path), path):
        if (status := lstat(target / above)) is None:
            return
        if stat.S_ISDIR(status.st_mode):
            if above == path:
                with parent_in(target, path) as opened:
                    shutil.rmtree(opened)
                applied.removed.append(above)
        elif above != path or not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            with parent_in(target, above) as opened:
                opened.unlink()
            applied.removed.append(above)


def _take_away(target: Path, path: str, applied: Applied) -> None:
    with suppress(FileNotFoundError), parent_in(target, path) as opened:
        opened.unlink(missing_ok=True)
    applied.removed.append(path)
    for above in reversed(ancestors(path)):
        if not remove_empty(target, above):
            return  # something else is in it
        applied.removed.append(above)


def _put(target: Path, path: str, content: Content, applied: Applied, umask: int) -> None:
    made = next((above for above in ancestors(path) if lstat(target / above) is None), path)
    with parent_in(target, path, umask=umask) as opened:
        if opened.is_dir() and not opened.is_symlink():
            for here, _, _ in reversed(list(walk(opened))):  # empty ones alone: a file in one would be in the way
                Path(here).rmdir()
            applied.removed.append(path)
        mode, data = content
        if mode == LINK:
            opened.unlink(missing_ok=True)
            opened.symlink_to(os.fsdecode(data))
        else:
            bits = (0o777 if mode & 0o100 else 0o666) & ~umask
            atomic.write(opened, data, mode=bits)
            opened.chmod(bits)
    if os.geteuid() == 0:  # else a job of another user, or whoever owns the checkout, could not change them
        owner = target.stat()
        for one in (*ancestors(path), path):
            if is_below(one, made):
                with parent_in(target, one) as opened:
                    os.chown(opened, owner.st_uid, owner.st_gid, follow_symlinks=False)
    applied.written.append(made)


def content_at(root: Path, path: str) -> Content | None:
    """Return the content of a file or a link; None for all else, and for what lies behind a link. SnapshotError if unreadable."""
    try:
        with parent_in(root, path) as opened:
            mode = opened.lstat().st_mode
            if stat.S_ISLNK(mode):
                return LINK, os.fsencode(opened.readlink())
            if not stat.S_ISREG(mode):
                return None
            with open_regular(opened) as file:
                return (0o100755 if mode & 0o100 else 0o100644), file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SnapshotError(f"{root / path} can't be read: {error.strerror}") from error
