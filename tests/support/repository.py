"""A new repository without a start of git, which would take five times as long; for tests that are not about repositories."""

from pathlib import Path

import pygit2


def commit_all(root: Path, message: str = "start") -> None:
    """Make `root` a repository whose branch `main` has one commit, of all files that are not ignored."""
    repository = pygit2.init_repository(str(root), initial_head="main")
    repository.index.add_all()
    repository.index.write()
    author = pygit2.Signature("t", "t@example.org")
    repository.create_commit("HEAD", author, author, f"{message}\n", repository.index.write_tree(), [])
