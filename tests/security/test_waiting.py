"""A job leaves a FIFO where git expects a file: nothing that loom does with the workspace waits for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loom import snapshot
from loom.cancel import Cancel
from loom.commands.project import CheckoutRoot, checkout
from loom.errors import SnapshotError
from loom.snapshot import git as git_processes
from tests.support.repository import git
from tests.support.waiting import promptly

pytestmark = pytest.mark.slow


def repository(root: Path) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "-q")
    (root / "file").write_text("1")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(git_processes, "IDLE_S", 1.5)
    source = snapshot.discover(repository(tmp_path / "source"), environ=os.environ)
    directory = tmp_path / "loom-run-local-1700000000000000000-123456"
    directory.mkdir()
    snapshot.take(source, directory, cancel=Cancel())
    return directory


def elsewhere(workspace: Path, name: str) -> None:
    """A repository in the workspace whose own directory lies outside, with a FIFO in it."""
    outside = repository(workspace.parent / "outside")
    (workspace / "nested").mkdir()
    (workspace / "nested/.git").write_text(f"gitdir: {outside}/.git\n")
    (outside / ".git" / name).unlink(missing_ok=True)
    os.mkfifo(outside / ".git" / name)


def head_elsewhere(workspace: Path) -> None:
    elsewhere(workspace, "HEAD")


def config_elsewhere(workspace: Path) -> None:
    elsewhere(workspace, "config")


def ref_elsewhere(workspace: Path) -> None:
    elsewhere(workspace, "refs/heads/main")


def common_elsewhere(workspace: Path) -> None:
    elsewhere(workspace, "commondir")


def included(workspace: Path) -> None:
    nested = repository(workspace / "nested")
    os.mkfifo(workspace.parent / "included")
    git(nested, "config", "include.path", str(workspace.parent / "included"))


def nested_config(workspace: Path) -> None:
    nested = repository(workspace / "nested")
    (nested / ".git/config").unlink()
    os.mkfifo(nested / ".git/config")


def nested_gitfile(workspace: Path) -> None:
    (workspace / "nested").mkdir()
    os.mkfifo(workspace / "nested/.git")


def own_alternates(workspace: Path) -> None:
    store = workspace.parent / "store"
    (store / "pack").mkdir(parents=True)
    (store / "info").mkdir()
    os.mkfifo(store / "info/alternates")
    (workspace / ".git/objects/info").mkdir(exist_ok=True)
    (workspace / ".git/objects/info/alternates").write_text(f"{store}\n")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "trap",
    [
        head_elsewhere,
        config_elsewhere,
        ref_elsewhere,
        common_elsewhere,
        included,
        nested_config,
        nested_gitfile,
        own_alternates,
    ],
)
def test_verify_ends(workspace: Path, trap: Callable[[Path], None]) -> None:
    """With an error, or without one where git does not read the FIFO."""
    trap(workspace)
    codes = []
    with promptly():
        try:
            snapshot.verify(workspace, environ=os.environ)
        except SnapshotError as refused:
            codes = [refused.code]
    assert set(codes) <= {"WORKSPACE_UNREADABLE", "GIT_WAITS"}


def test_after_a_git_that_waits_no_other_question_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_processes, "IDLE_S", 1.5)
    root = repository(tmp_path / "repo")
    (root / ".git/refs/heads/main").unlink()
    os.mkfifo(root / ".git/refs/heads/main")
    with pytest.raises(SnapshotError) as refused:
        checkout.git(CheckoutRoot(root=root, environ=os.environ), "rev-parse", "HEAD")
    assert refused.value.code == "GIT_WAITS"


def test_git_that_works_is_not_taken_for_one_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that takes its time is a process of git's, for which git may wait."""
    monkeypatch.setattr(git_processes, "IDLE_S", 1.5)
    root = repository(tmp_path / "repo")
    git(root, "config", "filter.slow.clean", "sleep 4; cat")
    (root / ".gitattributes").write_text("*.slow filter=slow\n")
    (root / "a.slow").write_text("content")
    environment = git_processes.environment_for(os.environ, git_dir=root / ".git")
    assert git_processes.run(("hash-object", "a.slow"), environment, cwd=root)
