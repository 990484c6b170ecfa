"""Submodules, and other repositories inside the checkout."""

import shutil
import subprocess
from pathlib import Path

import pytest

from loom.snapshot import Snapshot, discover, explain, verify

from .conftest import ENVIRONMENT, NewRepo, Repo, Snap, check, contents, proved


@pytest.mark.slow
def test_submodules(work: Repo, snap: Snap, new_repo: NewRepo) -> None:
    inner = new_repo("inner")
    inner.write("inner.txt", "inner\n")
    inner.commit()
    middle = new_repo("middle")
    middle.write("middle.txt", "middle\n")
    middle.git("submodule", "add", "-q", str(inner.root), "deps/inner")
    middle.commit()
    work.git("submodule", "add", "-q", str(middle.root), "lib/middle")
    work.git("submodule", "add", "-q", "--name", "odd name", str(inner.root), "not checked out")
    work.git("submodule", "update", "-q", "--init", "--recursive")
    work.commit("submodules")
    work.git("submodule", "deinit", "-q", "-f", "not checked out")
    check(work, snap(work))
    sub = Repo(work.root / "lib/middle")
    sub.write("middle.txt", "edited\n")
    sub.write("untracked.txt")
    sub.write(".gitignore", "*.log\n")
    sub.write("secret.log")
    subsub = Repo(work.root / "lib/middle/deps/inner")
    subsub.write("inner.txt", "another commit\n")
    subsub.commit("moved on")
    before = work.state()
    snapshot = snap(work)
    assert work.state() == before
    check(work, snapshot)
    there = contents(snapshot.path)
    assert there["lib/middle/middle.txt"][1] == b"edited\n"
    assert there["lib/middle/deps/inner/inner.txt"][1] == b"another commit\n"
    assert "lib/middle/untracked.txt" in there
    assert "lib/middle/secret.log" not in there
    assert (snapshot.path / "not checked out").is_dir()
    assert [s.path for s in snapshot.submodules] == ["lib/middle", "lib/middle/deps/inner"]
    assert snapshot.submodules[0].tree_sha == sub.would_commit()
    for path in ("lib/middle", "lib/middle/deps/inner"):
        inside, outside = Repo(snapshot.path / path), Repo(work.root / path)
        assert inside.git("status", "--porcelain") == outside.git("status", "--porcelain")
        assert inside.git("log", "--format=%H") == outside.git("log", "--format=%H")
        inside.git("fsck")
    assert Repo(snapshot.path).git("submodule", "status", "--recursive") == work.git(
        "submodule", "status", "--recursive"
    )


def test_a_submodule_that_was_deleted(work: Repo, snap: Snap, new_repo: NewRepo) -> None:
    inner = new_repo("inner")
    inner.write("x")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "sub")
    work.commit()
    subprocess.run(["rm", "-rf", str(work.root / "sub")], check=True)
    check(work, snap(work))


@pytest.mark.slow
@pytest.mark.parametrize("borrow", [False, True])
def test_line_breaks_in_the_paths_of_repositories(
    tmp_path: Path, snap: Snap, new_repo: NewRepo, monkeypatch: pytest.MonkeyPatch, borrow: bool
) -> None:
    inner = new_repo("in\nner")
    inner.write("x")
    inner.commit()
    work = new_repo("so\nurce")
    work.write("README")
    work.commit()
    work.git("submodule", "add", "-q", "--name", "sub", str(inner.root), "su\nb")
    work.commit()
    nested = Repo(work.root / "nes\nted")
    nested.root.mkdir()
    nested.git("init", "-q")
    nested.write("y")
    nested.commit()
    work.write("README", "edited\n")
    Repo(work.root / "su\nb").write("x", "edited\n")
    if borrow:
        monkeypatch.setattr("loom.snapshot.source.COPY_UP_TO_BYTES", -1)
    snapshot = snap(work)
    assert bool(snapshot.borrowed) == borrow
    check(work, snapshot, status=False)
    assert contents(snapshot.path)["su\nb/x"][1] == b"edited\n"
    assert [left.path for left in snapshot.left_out] == ["nes\nted"]
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


def test_a_repository_inside_that_is_no_submodule(work: Repo, snap: Snap) -> None:
    nested = work.root / "vendor/nested"
    nested.mkdir(parents=True)
    inside = Repo(nested)
    inside.git("init", "-q")
    inside.write("file")
    inside.commit()
    (work.root / "unborn").mkdir()
    snapshot = snap(work)
    check(work, snapshot, status=False)
    # What CI gets for it: an empty directory, and a word about it.
    assert (snapshot.path / "vendor/nested").is_dir()
    assert not any((snapshot.path / "vendor/nested").iterdir())
    assert [left.path for left in snapshot.left_out] == ["vendor/nested"]
    Repo(work.root / "unborn").git("init", "-q")
    assert [left.path for left in snap(work).left_out] == ["unborn", "vendor/nested"]


def test_a_tracked_file_in_a_directory_that_became_another_repository(work: Repo, snap: Snap) -> None:
    Repo(work.root / "docs").git("init", "-q")
    Repo(work.root / "docs").git("commit", "-q", "--allow-empty", "-m", "inner")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    paths = ["docs/page.md", "docs"]
    answers = explain(discover(work.root, environ=work.environ), paths, start=work.root)
    assert answers[0].included == (snapshot.path / "docs/page.md").exists()


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_submodule_that_became_a_file(work: Repo, snap: Snap, new_repo: NewRepo, kind: str) -> None:
    inner = new_repo("inner")
    inner.write("a")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "inner")
    work.commit("submodule")
    shutil.rmtree(work.root / "inner")
    if kind == "file":
        work.write("inner", "a file\n")
    else:
        work.link("inner", "README")
    check(work, snap(work), status=kind == "file")  # git's own status fails on the link, here and there
    (answer,) = explain(discover(work.root, environ=work.environ), ["inner"], start=work.root)
    assert answer.included
    assert "submodule" not in answer.reason


def test_a_submodule_without_a_commit_is_named(work: Repo, snap: Snap, new_repo: NewRepo) -> None:
    inner = new_repo("inner")
    inner.write("a")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "inner")
    work.commit("submodule")
    Repo(work.root / "inner").git("checkout", "-q", "--orphan", "fresh")
    snapshot = snap(work)
    assert list((snapshot.path / "inner").iterdir()) == []
    assert [left.path for left in snapshot.left_out] == ["inner"]


@pytest.fixture
def outer(work: Repo, new_repo: NewRepo) -> Repo:
    """With a submodule at `s`."""
    inner = new_repo("inner")
    inner.write("a", "one\n")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "s")
    work.commit("submodule")
    return work


@pytest.mark.parametrize("told", [False, True])
def test_a_submodule_that_was_moved(outer: Repo, snap: Snap, told: bool) -> None:
    (outer.root / "s").rename(outer.root / "u")
    if told:
        outer.git("config", "--file", ".gitmodules", "submodule.s.path", "u")
    outer.write("u/a", "edited\n")
    state = outer.state()
    snapshot = snap(outer)
    assert outer.state() == state
    assert snapshot.tree_sha == outer.would_commit()
    assert (snapshot.path / "u").is_dir()
    assert not (snapshot.path / "s").exists()
    if told:
        assert (snapshot.path / "u/a").read_text() == "edited\n"
        assert snapshot.left_out == ()
        assert Repo(snapshot.path / "u").git("status", "--porcelain") == " M a\n"
        assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same
    else:
        assert list((snapshot.path / "u").iterdir()) == []
        assert [left.path for left in snapshot.left_out] == ["u"]
    answers = explain(discover(outer.root, environ=outer.environ), ["u", "u/a", "s"], start=outer.root)
    assert [answer.included for answer in answers] == [told, told, False]


@pytest.mark.parametrize("checked_out", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_submodule_in_conflict(outer: Repo, snap: Snap, checked_out: bool) -> None:
    sub = Repo(outer.root / "s")
    for branch in ("one", "other"):
        outer.git("checkout", "-q", "-B", branch, "main")
        sub.git("checkout", "-q", "--detach", "main")
        sub.write("a", f"{branch}\n")
        sub.commit(branch)
        outer.commit(branch)
    try:
        outer.git("merge", "-q", "one")
    except AssertionError:
        pass  # in conflict
    assert "UU s" in outer.git("status", "--porcelain")
    if checked_out:
        sub.write("a", "resolving\n")
        snapshot = snap(outer)
        assert snapshot.tree_sha == outer.would_commit()
        assert (snapshot.path / "s/a").read_text() == "resolving\n"
        assert [sub.path for sub in snapshot.submodules] == ["s"]
        assert snapshot.left_out == ()
    else:
        shutil.rmtree(outer.root / "s")
        (outer.root / "s").mkdir()
        with pytest.raises(AssertionError, match="does not have a commit checked out"):
            outer.would_commit()
        snapshot = snap(outer)
        assert [(left.path, left.reason) for left in snapshot.left_out] == [
            ("s", "a submodule in conflict that is not checked out: git can't add it")
        ]
        assert (snapshot.path / "s").is_dir()
    answers = explain(discover(outer.root, environ=outer.environ), ["s", "s/a"], start=outer.root)
    assert [answer.included for answer in answers] == [True, checked_out]


def test_files_in_a_submodule_that_is_not_checked_out(outer: Repo, snap: Snap) -> None:
    outer.git("submodule", "deinit", "-q", "-f", "s")
    outer.write("s/stray")
    snapshot = snap(outer)
    check(outer, snapshot)
    assert [(left.path, left.reason) for left in snapshot.left_out] == [
        ("s", "files in a submodule that is not checked out: git does not look at them")
    ]
    answers = explain(discover(outer.root, environ=outer.environ), ["s", "s/stray"], start=outer.root)
    assert [answer.included for answer in answers] == [True, False]


def test_a_tracked_file_that_another_repository_replaced(work: Repo, snap: Snap) -> None:
    (work.root / "README").unlink()
    Repo(work.root).git("init", "-q", "README")
    Repo(work.root / "README").git("commit", "-q", "--allow-empty", "-m", "inner")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    assert (snapshot.path / "README").is_dir()


@pytest.mark.slow
def test_rules_of_submodules(outer: Repo, snap: Snap) -> None:
    """What the submodule's own git ignores and converts counts there, also when it is verified."""
    modules = outer.root / ".git/modules/s"
    (modules / "info/exclude").write_text("*.own\n")
    (outer.root / ".git/info/exclude").write_text("*.outer\n")
    Repo(outer.root / "s").git("config", "core.autocrlf", "true")
    outer.write("s/new", "a\r\nb\r\n")
    outer.write("s/x.own")
    outer.write("s/x.outer")
    snapshot = snap(outer)
    assert snapshot.submodules[0].tree_sha == Repo(outer.root / "s").would_commit()
    assert sorted(path.name for path in (snapshot.path / "s").iterdir()) == [".git", "a", "new", "x.outer"]
    assert proved(snapshot).same
    (snapshot.path / "s/y.own").touch()
    assert proved(snapshot).same
    (snapshot.path / "s/y.outer").touch()
    assert [change.path for change in proved(snapshot).changes] == ["s/y.outer"]


@pytest.mark.parametrize("value", ["all", "dirty"])
def test_submodules_that_status_is_to_ignore(outer: Repo, snap: Snap, value: str) -> None:
    outer.git("config", "submodule.s.ignore", value)
    sub = Repo(outer.root / "s")
    sub.write("a", "changed\n")
    sub.commit()
    sub.write("a", "dirty\n")
    inside = Repo(snap(outer).path)
    assert inside.git("status", "--porcelain") == outer.git("status", "--porcelain")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s", "s/objects", "s/config", "n" * 300, "/abs", "loom-0"])
def test_names_of_submodules_that_are_in_each_others_way(outer: Repo, snap: Snap, name: str) -> None:
    inner = Repo(outer.root.parent / "inner")
    outer.git("submodule", "add", "-q", str(inner.root), "t")
    outer.git("config", "--file", ".gitmodules", "--rename-section", "submodule.t", f"submodule.{name}")
    outer.commit()
    outer.write("t/a", "edited\n")
    snapshot = snap(outer)
    assert snapshot.tree_sha == outer.would_commit()
    assert [sub.path for sub in snapshot.submodules] == ["s", "t"]
    assert (snapshot.path / "t/a").read_text() == "edited\n"
    assert proved(snapshot).same
    assert Repo(snapshot.path / "t").git("status", "--porcelain") == " M a\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["..", "a/../b", "a\\..\\b"])
def test_names_of_submodules_that_git_refuses(outer: Repo, snap: Snap, name: str) -> None:
    text = (outer.root / ".gitmodules").read_text()
    outer.write(".gitmodules", text.replace('"s"', '"' + name.replace("\\", "\\\\") + '"'))
    snapshot = snap(outer)
    assert snapshot.tree_sha == outer.would_commit()
    assert [left.path for left in snapshot.left_out] == ["s"]
    assert list((snapshot.path / "s").iterdir()) == []


@pytest.mark.slow
def test_submodules_that_the_workspace_names(outer: Repo, snap: Snap) -> None:
    """A sparse checkout may hide .gitmodules, and an ignored one is not there for CI."""
    outer.write("d/d")
    outer.commit()
    outer.git("sparse-checkout", "set", "--no-cone", "/d/", "/s")
    assert not (outer.root / ".gitmodules").exists()
    lays_out(outer, snap(outer), named=True)
    outer.git("sparse-checkout", "disable")
    outer.git("rm", "-q", "--cached", ".gitmodules")
    outer.write(".gitignore", ".gitmodules\n")
    outer.commit()
    lays_out(outer, snap(outer), named=False)


def lays_out(outer: Repo, snapshot: Snapshot, *, named: bool) -> None:
    assert snapshot.tree_sha == outer.would_commit()
    assert (snapshot.path / "s/a").exists() == named
    answers = explain(discover(outer.root, environ=outer.environ), ["s", "s/a"], start=outer.root)
    assert [answer.included for answer in answers] == [True, named]


def test_an_ignored_repository_that_is_named(outer: Repo, snap: Snap) -> None:
    outer.git("rm", "-q", "--cached", "s")
    outer.write(".gitignore", "s\n")
    snapshot = snap(outer)
    assert snapshot.tree_sha == outer.would_commit()
    assert not (snapshot.path / "s").exists()
    answers = explain(discover(outer.root, environ=outer.environ), ["s", "s/a"], start=outer.root)
    assert [answer.included for answer in answers] == [False, False]


def test_the_records_place_in_a_submodule_is_like_any_other(outer: Repo, snap: Snap) -> None:
    outer.write("s/.loom/.runtime/x")
    snapshot = snap(outer)
    assert (snapshot.path / "s/.loom/.runtime/x").exists()
    (answer,) = explain(discover(outer.root, environ=outer.environ), ["s/.loom/.runtime/x"], start=outer.root)
    assert answer.included
