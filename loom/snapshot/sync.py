"""Between a workspace and the checkout that it was made from: bring the checkout's later changes, take back a patch.

What changed on either side is told by the same proof that `verify` gives: each side's tree against the snapshot's.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Container, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import RequestError, SnapshotError
from loom.snapshot import git
from loom.snapshot.index import ancestors
from loom.snapshot.model import Change, readable
from loom.snapshot.verification import verify

_GITLINK = "160000"


class Patch(Struct, frozen=True, kw_only=True):
    """What a workspace has that its snapshot had not, as `git apply` takes it."""

    text: bytes
    changes: tuple[Change, ...]
    """The paths that the patch is of."""
    conflicts: tuple[str, ...]
    """Paths that changed in the workspace and, otherwise, in the checkout since: they are not in the patch."""
    left_out: tuple[Change, ...]
    """What was made there and is no source: the caller's rule said so."""
    special: tuple[tuple[str, str], ...] = ()
    """(path, kind) of the workspace's sockets, FIFOs and devices, also where the snapshot has a file of that name."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(path, reason) of what may not be read there: whether it changed is not known."""


def bring(checkout: Path, workspace: Path, *, environ: Mapping[str, str], manifest_file: Path) -> tuple[Change, ...]:
    """Make what changed in the checkout since the snapshot so in the workspace, over what jobs did to these files.

    Returns the paths that are different in the workspace now. Links in the workspace are replaced, never followed.
    """
    brought = []
    for change in verify(checkout, environ=environ, manifest_file=manifest_file).changes:
        source, target = checkout / change.path, workspace / change.path
        if change.mode == _GITLINK or _same(source, target):
            continue
        try:
            _make_way(workspace, change.path)
            if change.kind == "deleted":
                _remove(target)
            else:
                _remove(target)
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
    """The workspace's changes since the snapshot, against the checkout as it is now.

    `not_there`: paths that `workspace`, a copy, was made without, and that are not deleted for that.
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
    return Patch(
        text=_diff(workspace, checkout, wanted, environ),
        changes=tuple(wanted),
        conflicts=tuple(conflicts),
        left_out=tuple(left_out),
        special=here.special,
        unreadable=here.unreadable,
    )


def apply(patch: Patch, checkout: Path, *, environ: Mapping[str, str]) -> None:
    """Change the checkout's files, all or none; its index stays as it is. RequestError when edits made since are in the way."""
    if patch.conflicts:
        raise RequestError(
            f"changed in the checkout since the run, and differently: {', '.join(map(readable, patch.conflicts))}",
            hint="nothing was applied; commit or undo your edits there, or take parts of `loom pull` by hand",
            code="CHECKOUT_CHANGED",
        )
    if not patch.text:
        return
    with tempfile.TemporaryDirectory(prefix="loom-patch-") as scratch:
        # Away from the repository, whose git compares what it would store: the patch is of the bytes on disk.
        place, environment = _apart(scratch, environ)
        for change in patch.changes:
            if any((checkout / above).is_symlink() for above in ancestors(change.path)):
                raise RequestError(
                    f"{readable(change.path)} lies behind a link in the checkout",
                    hint="nothing was applied; take what you want by hand",
                )
            if os.path.lexists(checkout / change.path):
                (place / change.path).parent.mkdir(parents=True, exist_ok=True)
                _copy(checkout / change.path, place / change.path)
        process = git.Running(("apply", "--whitespace=nowarn", "-"), environment, cwd=place, given=patch.text)
        code, _, said = process.result(check=False)
        if code != 0:
            raise RequestError(
                f"git could not apply the patch, and changed nothing: {said.strip()}",
                hint="look at it without --apply, and take what you want by hand",
            )
        for change in sorted(patch.changes, key=lambda change: change.kind != "deleted"):
            _put(place / change.path, checkout, change.path)


def _put(made: Path, checkout: Path, path: str) -> None:
    target = checkout / path
    try:
        _remove(target)
        if os.path.lexists(made):
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(made, target)
        else:
            for above in reversed(ancestors(path)):
                (checkout / above).rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise SnapshotError(f"{readable(str(target))} could not be changed: {error.strerror}") from error


def _apart(scratch: str, environ: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """A directory in `scratch`, and an environment for git there: no repository around it has a say, and no program of one."""
    place = Path(os.path.realpath(scratch), "files")
    place.mkdir()
    around = {"GIT_CEILING_DIRECTORIES": str(place.parent)}
    return place, git.environment_for(environ) | git.NO_USER_CONFIG | around


def _diff(workspace: Path, checkout: Path, changes: list[Change], environ: Mapping[str, str]) -> bytes:
    if not changes:
        return b""
    with tempfile.TemporaryDirectory(prefix="loom-patch-") as scratch:
        sides, environment = _apart(scratch, environ)
        before, after = sides / "a", sides / "b"
        before.mkdir()
        after.mkdir()
        for change in changes:
            for root, side in ((checkout, before), (workspace, after)):
                if os.path.lexists(root / change.path):
                    (side / change.path).parent.mkdir(parents=True, exist_ok=True)
                    try:
                        _copy(root / change.path, side / change.path)
                    except OSError as error:
                        raise SnapshotError(f"{root / change.path} can't be read: {error.strerror}") from error
        command = (
            "-c",
            "core.autocrlf=false",
            "diff",
            "--no-index",
            "--no-prefix",
            "--binary",
            "--no-ext-diff",
            "--no-textconv",
            "a",
            "b",
        )
        code, out, said = git.Running(command, environment, cwd=sides).result(check=False)
        if code not in (0, 1):
            raise SnapshotError(f"the patch could not be made: {said.strip()}")
        return b"".join(_both_sides(line) for line in out.splitlines(keepends=True))


def _both_sides(line: bytes) -> bytes:
    """A header line naming a path as `a/... b/...` also where only one of the sides has it, as patches usually do."""
    if not line.startswith(b"diff --git "):
        return line  # nothing inside a patch can begin like that
    names = line.removeprefix(b"diff --git ").removesuffix(b"\n")
    half = (len(names) - 1) // 2
    one, other = names[:half], names[half + 1 :]
    if one != other or names[half : half + 1] != b" ":
        return line
    quote = b'"' if one.startswith(b'"') else b""
    path = one.removeprefix(quote)[1:]
    return b"diff --git " + quote + b"a" + path + b" " + quote + b"b" + path + b"\n"


def _same(one: Path, other: Path) -> bool:
    """Whether two paths hold the same: content, executable or not, where a link leads, or both nothing."""
    if not os.path.lexists(one) or not os.path.lexists(other):
        return os.path.lexists(one) == os.path.lexists(other)
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    if not (one.is_file() and other.is_file()):
        return False
    executable = [bool(path.stat().st_mode & 0o100) for path in (one, other)]
    return executable[0] == executable[1] and one.read_bytes() == other.read_bytes()


def _make_way(workspace: Path, path: str) -> None:
    """Directories down to `path`, real ones: a job may have put a link in their place that leads elsewhere."""
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
