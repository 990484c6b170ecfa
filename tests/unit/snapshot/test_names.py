"""Names that may become paths: those that git refuses, and those of submodules below `.git/modules`."""

from pathlib import Path

import pytest

from loom.errors import SnapshotError
from loom.snapshot.contents import module_directory
from loom.snapshot.names import checked_listing, is_refused

REFUSED = [
    *("..", "a/../b", "./a", "/a", "a//b", "a/", "a\0b", ".git", "a/.GIT/b", ".g\u200cit", ".git ", ".git.", ".git:x"),
    *("git~1", "a/git~1/b", "a\\.git\\b"),
]
ALLOWED = ["a", "...", "a..b", ".github/a", "git", ".gita", "git~2", "a.git", "a b", "x/.gitignore"]


@pytest.mark.parametrize("path", REFUSED)
def test_a_path_that_git_refuses(path: str) -> None:
    assert is_refused(path)
    if "\0" not in path:
        with pytest.raises(SnapshotError, match="it holds the path") as caught:
            checked_listing(f"100644 a\tfine\x00100644 b\t{path}\x00".encode(), Path("index"))
        assert caught.value.code == "INDEX_PATH_REFUSED"


@pytest.mark.parametrize("path", ALLOWED)
def test_a_path_that_git_takes(path: str) -> None:
    assert not is_refused(path)
    items = [f"100644 a\t{path}", "100644 b\té~\\"]
    assert checked_listing("".join(f"{one}\0" for one in items).encode(), Path("index")) == items


@pytest.mark.parametrize(
    ("name", "taken", "directory"),
    [
        ("a", [], "a"),
        ("a/b", ["c"], "a/b"),
        ("a", ["a"], "loom-1"),
        ("a/b", ["a"], "loom-1"),
        ("a", ["x", "a/b"], "loom-2"),
        ("ab", ["a"], "ab"),
        ("a//b", [], "loom-0"),
        ("a" * 199, [], "a" * 199),
        ("é" * 100, [], "loom-0"),
    ],
)
def test_the_git_directory_of_a_submodule(name: str, taken: list[str], directory: str) -> None:
    before = list(taken)
    assert module_directory(name, taken) == directory
    assert taken == [*before, directory]
