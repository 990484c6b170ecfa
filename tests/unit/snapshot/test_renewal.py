"""A workspace that was filled before and is brought up to date equals one that is filled now, whatever happened in between."""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import Snapshot, discover, renew, take, take_to_renew
from tests.support.effort import fuzzed
from tests.support.waiting import until

from .conftest import Repo, proved
from .test_random import do, place, steps


def laid_out(workspace: Path, without_times: frozenset[str]) -> dict[str, tuple[int, object, object]]:
    """All that is in a workspace but what says when it was made: type and mode, content, and time of a file or link."""
    found: dict[str, tuple[int, object, object]] = {}
    for path in sorted(workspace.rglob("*")):
        name, status = os.fsdecode(os.path.relpath(path, workspace)), path.lstat()
        if path.name in ("loom-snapshot.json", "index") or name.startswith(".git/objects"):
            continue
        time_ns = None if name.startswith(".git/") or name in without_times else status.st_mtime_ns
        if stat.S_ISLNK(status.st_mode):
            found[name] = (status.st_mode, str(path.readlink()), time_ns)
        elif stat.S_ISREG(status.st_mode):
            found[name] = (status.st_mode, path.read_bytes(), time_ns)
        else:
            found[name] = (status.st_mode, None, None)
    return found


def told(snapshot: Snapshot) -> dict[str, Any]:
    return {
        name: value for name, value in snapshot.document().items() if not name.startswith(("path", "duration", "left"))
    } | {"left_out": sorted(map(str, snapshot.left_out))}


def settled(root: Path) -> None:
    """Wait until the kernel's clock has left the times of all files behind: younger ones are copied again."""
    newest = max(path.lstat().st_ctime_ns for path in (root, *root.rglob("*")))
    until(lambda: time.time_ns() - newest > 50_000_000)


def equal_to_a_new_one(repo: Repo, top: Path, renewed: Snapshot) -> None:
    fresh = top / "fresh"
    fresh.mkdir()
    taken = take(discover(repo.root, environ=repo.environ), fresh, cancel=Cancel())
    assert told(renewed) == told(taken)
    listed = repo.git("ls-files", "-v", "-z").split("\0")
    hidden = frozenset(line[2:] for line in listed if line.startswith(("S", "s", "h")))  # git lays them out, now
    assert laid_out(renewed.path, hidden) == laid_out(fresh, hidden)
    assert proved(renewed).same


@pytest.mark.slow
@settings(fuzzed(12, 60), phases=(Phase.reuse, Phase.generate))  # making a failing example smaller takes minutes
@given(before=st.lists(steps, max_size=10), after=st.lists(steps, max_size=8))
def test_whatever_happened_in_between(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    with place() as top:
        (top / "source").mkdir()
        repo = Repo(top / "source")
        repo.git("init", "-q")
        for step in (("write", "dir/kept", b"kept\n", False), *before, ("add_all",), ("commit",)):
            do(repo, step)
        settled(repo.root)
        workspace = top / "workspace"
        workspace.mkdir()
        try:
            taken, files = take_to_renew(discover(repo.root, environ=repo.environ), workspace, cancel=Cancel())
        except SnapshotError:
            reject()
        assert workspace == taken.path
        for step in after:
            do(repo, step)
        try:
            source = discover(repo.root, environ=repo.environ)
            renewed = renew(source, workspace, files, cancel=Cancel())
        except SnapshotError:
            assert list(workspace.iterdir()) == []
            with pytest.raises(SnapshotError):
                take(source, workspace, cancel=Cancel())
            return
        equal_to_a_new_one(repo, top, renewed)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    (tmp_path / "source").mkdir()
    repo = Repo(tmp_path / "source")
    repo.git("init", "-q")
    for number in range(20):
        repo.write(f"dir{number % 3}/file{number}", f"{number}\n")
    repo.link("dir0/link", "file0")
    repo.write(".gitignore", "build/\n")
    repo.commit()
    settled(repo.root)
    return repo


def files_of(workspace: Path) -> dict[Path, tuple[int, int]]:
    """What tells a file from a later one, which may have its inode number again."""
    return {path: ((status := path.lstat()).st_ino, status.st_ctime_ns) for path in workspace.glob("dir*/*")}


def test_only_what_changed_is_copied_and_the_directory_stays(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    _, files = take_to_renew(discover(repo.root, environ=repo.environ), workspace, cancel=Cancel())
    directory, before = workspace.stat().st_ino, files_of(workspace)
    repo.write("dir1/file1", "changed\n")
    repo.write("dir9/new", "new\n")
    (repo.root / "dir2/file2").unlink()
    shutil.rmtree(repo.root / "dir0")
    repo.write("dir0", "a file where a directory was\n")
    repo.commit("second")
    repo.write("dir1/file4", "uncommitted\n")
    renewed = renew(discover(repo.root, environ=repo.environ), workspace, files, cancel=Cancel())
    after = files_of(workspace)
    assert workspace.stat().st_ino == directory
    assert {path.name for path in after if before.get(path) != after[path]} == {"file1", "file4", "new"}
    equal_to_a_new_one(repo, tmp_path, renewed)


def test_what_something_did_in_the_workspace_is_undone(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    _, files = take_to_renew(discover(repo.root, environ=repo.environ), workspace, cancel=Cancel())
    status = (workspace / "dir1/file1").stat()
    (workspace / "dir1/file1").write_text("0\n")  # as long as before
    os.utime(workspace / "dir1/file1", ns=(status.st_atime_ns, status.st_mtime_ns))
    (workspace / "dir1/file4").chmod(0o777)
    (workspace / "dir2/file2").unlink()
    (workspace / ".git/config").write_text("[core]\n\thooksPath = /tmp\n")
    equal_to_a_new_one(
        repo, tmp_path, renew(discover(repo.root, environ=repo.environ), workspace, files, cancel=Cancel())
    )
