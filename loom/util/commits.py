"""The commit that a package's code is of, without a git process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

BUILT_FROM = "commit.txt"
"""The file in a built package that has its commit; `scripts/build_hook.py` writes it."""


def commit_of(package: Path) -> str | None:
    """Return the commit that a package was built from, or that its checkout is at; None where nothing tells."""
    with suppress(OSError):
        return (package / BUILT_FROM).read_text().strip()
    with suppress(OSError, UnicodeDecodeError):
        return _head_of(package.parent / ".git")
    return None


def _head_of(git: Path) -> str | None:
    if git.is_file():  # a linked worktree
        git = git.parent / git.read_text().removeprefix("gitdir:").strip()
    head = (git / "HEAD").read_text().strip()
    branch = head.removeprefix("ref: ")
    if branch == head:
        return head
    shared = git / (git / "commondir").read_text().strip() if (git / "commondir").exists() else git
    with suppress(FileNotFoundError):
        return (shared / branch).read_text().strip()
    packed = (line.partition(" ") for line in (shared / "packed-refs").read_text().splitlines())
    return next((commit for commit, _, name in packed if name == branch), None)
