"""git in a job's container, whoever its user is, on a workspace with copied and with borrowed objects."""

import os
import subprocess
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.snapshot import discover, take

pytestmark = pytest.mark.docker

IMAGE = "loom/base:latest"
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/dev/null/home",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    **{f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
ASK = """set -e
git status --porcelain; echo --; git describe --tags; git rev-list --count HEAD; git blame -s README; git diff --stat
git remote get-url origin; git branch -a; git tag; git log --format=%H; git fsck 2>&1; echo -- ; git stash list"""


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize(
    ("user", "borrow", "linked"),
    [("0:0", False, False), ("12345:23456", False, True), ("0:0", True, True), ("12345:23456", True, False)],
    ids=["copied checkout", "anothers copied worktree", "borrowed worktree", "anothers borrowed checkout"],
)
def test_git_works_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str, borrow: bool, linked: bool
) -> None:
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{IMAGE} is not built (scripts/test builds it)")
    if borrow:
        monkeypatch.setattr("loom.snapshot.source.COPY_UP_TO_BYTES", -1)
    root = tmp_path / "source"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "README").write_text("one\ntwo\n")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    git(root, "tag", "v1")
    git(root, "remote", "add", "origin", "https://example.com/x.git")
    if linked:
        git(root, "worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
        root = tmp_path / "linked"
    (root / "README").write_text("one\nedited\n")
    (root / "untracked").write_text("u\n")
    source = discover(root, environ=ENVIRONMENT)
    assert bool(source.read_only_mounts) == borrow
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    take(source, workspace, cancel=Cancel())
    mounts = [f"type=bind,src={path},dst={path},readonly" for path in source.read_only_mounts]
    done = subprocess.run(
        ["docker", "run", "--rm", "--network=none", "--label", "loom.test=snapshot", "--user", user, "-w", "/workspace"]
        + ["--mount", f"type=bind,src={workspace},dst=/workspace"]
        + [part for mount in mounts for part in ("--mount", mount)]
        + ["-e", "GIT_CONFIG_COUNT=1", "-e", "GIT_CONFIG_KEY_0=safe.directory", "-e", "GIT_CONFIG_VALUE_0=/workspace"]
        + ["--entrypoint", "sh", IMAGE, "-c", ASK],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status, answers, stashes = done.stdout.split("--\n")
    assert status == git(root, "status", "--porcelain")
    assert answers.startswith("v1\n1\n")
    assert "https://example.com/x.git" in answers
    assert "main" in answers
    assert stashes == ""
