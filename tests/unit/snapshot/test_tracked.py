"""What git tracks of a workspace that jobs may have written."""

import os
import subprocess
from pathlib import Path

import pytest

from loom import snapshot
from loom.cancel import Cancel
from loom.errors import SnapshotError


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    checkout, taken = tmp_path / "checkout", tmp_path / "workspace"
    (checkout / "src/deep").mkdir(parents=True)
    (checkout / "src/deep/ä b").write_text("x")
    git(checkout, "init", "-q")
    (checkout / ".gitignore").write_text("*.o\n")
    git(checkout, "add", ".")
    git(checkout, "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x")
    (checkout / "not").mkdir()
    (checkout / "not/committed").write_text("x")
    (checkout / "ignored.o").write_text("x")
    taken.mkdir()
    snapshot.take(snapshot.discover(checkout, environ=os.environ), taken, cancel=Cancel())
    return taken


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=root, check=True)


def test_all_of_the_snapshot_and_what_a_job_adds_to_the_index(workspace: Path) -> None:
    (workspace / "added").write_text("x")
    (workspace / "new").write_text("x")
    git(workspace, "add", "added")
    git(workspace, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/lib")
    found = snapshot.tracked(workspace, os.environ)
    assert found.paths == {
        ".gitignore", "src", "src/deep", "src/deep/ä b", "not", "not/committed", "added", "vendor", "vendor/lib",
    }  # fmt: skip
    assert found.submodules == ("vendor/lib",)
    assert ("vendor/lib/x" in found, "new" in found, "src/other" in found) == (True, False, False)


def test_no_program_that_the_workspace_names_runs(workspace: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    git(workspace, "config", "core.fsmonitor", f"touch {ran}; false")
    git(workspace, "config", "core.pager", f"touch {ran}")
    assert "src" in snapshot.tracked(workspace, os.environ)
    assert not ran.exists()


def test_a_damaged_index_is_an_error(workspace: Path) -> None:
    (workspace / ".git/index").write_bytes(b"DIRC no index")
    with pytest.raises(SnapshotError, match="git ls-files failed"):
        snapshot.tracked(workspace, os.environ)
