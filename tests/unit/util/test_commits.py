"""The commit of a package is git's own answer, in each shape of a checkout; a built package's file wins."""

import subprocess
from pathlib import Path

import pytest

from loom.util.commits import BUILT_FROM, commit_of


def git(*arguments: str, at: Path) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=at, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "loom").mkdir(parents=True)
    (root / "loom/__init__.py").touch()
    git("init", "-q", "-b", "feature/x", at=root)
    git("add", "-A", at=root)
    git("commit", "-qm", "one", at=root)
    return root


def test_the_commit_is_that_of_the_branch_also_a_packed_one_and_of_a_worktree(checkout: Path, tmp_path: Path) -> None:
    first = git("rev-parse", "HEAD", at=checkout)
    assert commit_of(checkout / "loom") == first
    git("pack-refs", "--all", at=checkout)
    assert commit_of(checkout / "loom") == first
    git("worktree", "add", "-q", "-b", "other", str(tmp_path / "other"), at=checkout)
    git("commit", "-q", "--allow-empty", "-m", "two", at=tmp_path / "other")
    assert commit_of(tmp_path / "other/loom") == git("rev-parse", "other", at=checkout) != first
    git("checkout", "-q", "--detach", at=tmp_path / "other")
    assert commit_of(tmp_path / "other/loom") == git("rev-parse", "other", at=checkout)


def test_the_file_of_a_built_package_wins_and_without_either_nothing_is_known(checkout: Path, tmp_path: Path) -> None:
    (checkout / "loom" / BUILT_FROM).write_text("abc\n")
    assert commit_of(checkout / "loom") == "abc"
    assert commit_of(tmp_path / "site-packages/loom") is None
