"""Whose caches they are, and under which key."""

from pathlib import Path

import pytest

from loom.errors import CacheError
from loom.plan.model import Cache, CacheKeyFiles
from loom.storage.cache_keys import key_of, project_of
from tests.support.repository import commit_all, git


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("https://user:pw@GitLab.example:8443/a/b.git", "gitlab.example/a/b"),
        ("ssh://git@gitlab.example/a/b/", "gitlab.example/a/b"),
        ("git@gitlab.example:a/b.git", "gitlab.example/a/b"),
        ("gitlab.example:a/b", "gitlab.example/a/b"),
        ("/srv/git/a.git", "srv/git/a"),
        ("https://[::1/a", "https://[::1/a"),
    ],
)
def test_a_repository_is_its_location_and_its_origin(tmp_path: Path, origin: str, name: str) -> None:
    assert project_of(origin, tmp_path) == f"{tmp_path.resolve()} ({name})"


def test_without_an_origin_it_is_the_location(tmp_path: Path) -> None:
    assert project_of(None, tmp_path) == project_of("", tmp_path) == str(tmp_path.resolve())


def test_a_linked_worktree_is_its_repository_if_both_say_so(tmp_path: Path) -> None:
    main = tmp_path.resolve() / "main"
    commit_all(main)
    git(main, "worktree", "add", "-q", "../linkedX")
    assert project_of(None, tmp_path / "linkedX") == str(main)
    forged = tmp_path / "forged"
    forged.mkdir()
    (forged / ".git").write_text((tmp_path / "linkedX" / ".git").read_text())
    assert project_of(None, forged) == str(forged.resolve())
    (forged / ".git").write_text("gitdir: ../main/.git")
    assert project_of(None, forged) == str(forged.resolve())
    (forged / ".git").write_text("something else")
    assert project_of(None, forged) == str(forged.resolve())


def test_a_key_of_files_is_that_of_their_names_and_content(tmp_path: Path) -> None:
    spec = Cache(key=CacheKeyFiles(files=("*.lock", "dir"), prefix="deps"), paths=("x",))
    assert key_of(spec, tmp_path) == "deps-none"
    (tmp_path / "a.lock").write_text("1")
    (tmp_path / "dir").mkdir()
    first = key_of(spec, tmp_path)
    assert first.startswith("deps-")
    assert len(first) == len("deps-") + 40
    seen = {first}
    for change in (
        lambda: (tmp_path / "a.lock").write_text("2"),
        lambda: (tmp_path / "a.lock").rename(tmp_path / "b.lock"),
        lambda: (tmp_path / "dir" / "link").symlink_to("x"),
        lambda: ((tmp_path / "dir" / "link").unlink(), (tmp_path / "dir" / "link").symlink_to("y")),
        lambda: (tmp_path / "dir" / "file").write_text("1"),
    ):
        change()
        seen.add(key_of(spec, tmp_path))
    assert len(seen) == 6
    (tmp_path / "other").write_text("1")
    (tmp_path / "dir" / "empty").mkdir()
    assert key_of(spec, tmp_path) in seen
    without = Cache(key=CacheKeyFiles(files=("*.lock",)), paths=("x",))
    assert len(key_of(without, tmp_path)) == 40


@pytest.mark.parametrize(
    ("key", "why"), [("  ", "empty"), ("x" * 1001, "longer than 1000 characters"), ("a\0b", "has a NUL byte")]
)
def test_a_key_that_is_none(tmp_path: Path, key: str, why: str) -> None:
    with pytest.raises(CacheError, match=why) as error:
        key_of(Cache(key=key, paths=("x",)), tmp_path)
    assert error.value.code == "CACHE_KEY_INVALID"
    assert key_of(Cache(key="x" * 1000, paths=("x",)), tmp_path) == "x" * 1000
