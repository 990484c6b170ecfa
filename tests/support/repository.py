"""Repositories of tests that are not about repositories."""

import subprocess
from pathlib import Path
from typing import Any

import pygit2

SETTINGS = ("user.name=t", "user.email=t@example.org", "init.defaultBranch=main", "protocol.file.allow=always")


def git(root: Path, *words: str, **more: Any) -> str:
    """Run git as somebody with a name, who may fetch from directories; return what it prints. `more` is for its process."""
    command = ["git", *(word for one in SETTINGS for word in ("-c", one)), *words]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, **more).stdout.strip()


def commit_all(root: Path, message: str = "start") -> None:
    """Make `root` a repository whose branch `main` has one commit, of all files that are not ignored.

    Three starts of git would take five times as long.
    """
    repository = pygit2.init_repository(str(root), initial_head="main")
    repository.index.add_all()
    repository.index.write()
    author = pygit2.Signature("t", "t@example.org")
    repository.create_commit("HEAD", author, author, f"{message}\n", repository.index.write_tree(), [])
