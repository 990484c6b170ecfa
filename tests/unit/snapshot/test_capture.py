"""The table of docs/explanation/workspace.md, on real repositories, judged by git."""

import os
from pathlib import Path
from typing import Any

import pygit2
import pytest

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import capture, copy_files, discover, take, verify
from loom.snapshot.source import Source

from .conftest import ENVIRONMENT, Repo, Snap, check, contents, proved


@pytest.fixture
def work(repo: Repo) -> Repo:
    """A commit with a few files of every kind."""
    repo.write("README", "hello\n")
    repo.write("src/main.py", "print(1)\n")
    repo.write("src/deep/er/file.txt", "deep\n")
    repo.write("run.sh", "#!/bin/sh\n", 0o755)
    repo.write("empty", "")
    repo.link("link", "README")
    repo.link("dangling", "nowhere")
    repo.link("absolute", "/etc/hostname")
    repo.link("to-dir", "src")
    repo.write(".gitignore", "*.log\n/build/\n!keep.log\n")
    repo.write("keep.log", "kept\n")
    repo.commit("first")
    return repo


def test_clean(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    check(work, snapshot)
    assert snapshot.changed == ()
    assert snapshot.left_out == ()
    assert snapshot.tree_sha == work.git("rev-parse", "HEAD^{tree}").strip()


def test_the_source_is_never_written(work: Repo, snap: Snap) -> None:
    work.write("README", "changed\n")
    work.write("new/file", "untracked\n")
    work.write("staged", "staged\n")
    work.git("add", "staged")
    before = work.state()
    snap(work)
    assert work.state() == before


def test_every_kind_of_uncommitted_work(work: Repo, snap: Snap) -> None:
    work.write("README", "unstaged\n")
    work.write("src/main.py", "staged\n")
    work.git("add", "src/main.py")
    work.write("src/main.py", "staged, then edited\n")
    work.write("added", "a\n")
    work.git("add", "added")
    work.write("added-then-deleted", "a\n")
    work.git("add", "added-then-deleted")
    (work.root / "added-then-deleted").unlink()
    (work.root / "empty").unlink()
    work.git("rm", "-q", "dangling")
    work.git("rm", "-q", "--cached", "absolute")
    work.git("mv", "run.sh", "Run.sh")
    work.write("intent", "i\n")
    work.git("add", "--intent-to-add", "intent")
    work.write("untracked dir/un tracked", "u\n")
    work.write("ignored.log", "secret\n")
    work.write("build/out", "secret\n")
    snapshot = snap(work)
    check(work, snapshot)
    kinds = {change.path: change.kind for change in snapshot.changed}
    assert kinds["README"] == "modified"
    assert kinds["empty"] == "deleted"
    assert kinds["Run.sh"] == "added"
    assert kinds["untracked dir/un tracked"] == "added"
    assert "ignored.log" not in contents(snapshot.path)


def test_odd_names(work: Repo, snap: Snap) -> None:
    for name in (
        "with space",
        "new\nline",
        "-dash",
        "--help",
        'quo"te',
        "back\\slash",
        "tab\there",
        "ünï",
        " ",
        ":(top)x",
        "*",
    ):
        work.write(name, name)
    odd = os.fsdecode(b"not-utf8-\xff\xfe")
    work.write(odd, "bytes\n")
    work.write("d\nir/ x", "x")
    check(work, snap(work))
    work.commit("odd")
    work.write("new\nline", "edited")
    work.write(odd, "edited")
    snapshot = snap(work)
    check(work, snapshot)
    assert len(snapshot.changed) == 2
    assert snapshot.document()["changes"][1]["path"] == "not-utf8-\\xff\\xfe"


def test_what_takes_the_place_of_what(work: Repo, snap: Snap) -> None:
    (work.root / "README").unlink()
    work.write("README/now/a/dir", "d\n")
    for path in ("src/deep/er/file.txt", "src/main.py"):
        (work.root / path).unlink()
    for path in ("src/deep/er", "src/deep", "src"):
        (work.root / path).rmdir()
    work.write("src", "a file now\n")
    (work.root / "link").unlink()
    work.write("link", "a plain file now\n")
    (work.root / "empty").unlink()
    work.link("empty", "run.sh")
    snapshot = snap(work)
    check(work, snapshot)
    assert {change.path: change.kind for change in snapshot.changed}["link"] == "type_changed"
    assert snapshot.left_out == ()  # a directory is not a repository


def test_a_tracked_path_behind_a_link(work: Repo, snap: Snap, tmp_path: Path) -> None:
    (work.root / "src").rename(tmp_path / "elsewhere")
    work.link("src", str(tmp_path / "elsewhere"))
    snapshot = snap(work)
    check(work, snapshot)
    assert (snapshot.path / "src").is_symlink()


def test_modes(work: Repo, snap: Snap) -> None:
    (work.root / "README").chmod(0o600)
    (work.root / "run.sh").chmod(0o644)
    (work.root / "empty").chmod(0o777)
    work.write("private", "p\n", 0o400)
    snapshot = snap(work)
    check(work, snapshot)
    assert {c.path: c.kind for c in snapshot.changed}["run.sh"] == "mode_changed"


def test_modes_that_git_was_told_to_ignore(work: Repo, snap: Snap) -> None:
    work.git("config", "core.fileMode", "false")
    (work.root / "run.sh").chmod(0o644)
    (work.root / "README").chmod(0o755)
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit() == work.git("rev-parse", "HEAD^{tree}").strip()
    assert contents(snapshot.path)["run.sh"][0] == "100755"
    assert contents(snapshot.path)["README"][0] == "100644"
    assert Repo(snapshot.path).git("status", "--porcelain") == ""


@pytest.mark.parametrize("modes", ["true", "false"])
@pytest.mark.parametrize("links", ["true", "false"])
def test_modes_of_what_took_the_place_of_what(work: Repo, snap: Snap, modes: str, links: str) -> None:
    """Of a link, a submodule or a conflict git keeps a mode, or takes none from the disk."""
    work.link("alias", "README")
    work.link("other link", "README")
    work.write("tool", "1\n", 0o755)
    work.commit()
    for side in ("one", "other"):
        work.git("checkout", "-q", "-B", side, "main")
        for path in ("plain", "tool"):
            work.write(path, f"{side}\n", 0o755 if path == "tool" else 0o644)
        (work.root / "alias").unlink()
        work.link("alias", side)
        work.commit(side)
    with pytest.raises(AssertionError):
        work.git("merge", "-q", "one")
    work.git("config", "core.fileMode", modes)
    work.git("config", "core.symlinks", links)
    for path in ("alias", "other link"):
        (work.root / path).unlink()
        work.write(path, "README", 0o777)
    (work.root / "plain").chmod(0o777)
    (work.root / "tool").chmod(0o644)
    work.write("new", "new\n", 0o777)
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    listed = [item.split("\t") for item in work.listing.split("\0")[:-1]]
    expected = {path: about.split(" ")[0] for about, path in listed}
    assert {path: mode for path, (mode, _) in contents(snapshot.path).items()} == expected
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


@pytest.mark.parametrize("content", [b"", b"a\0b", b"x" * 5000])
def test_a_file_that_stands_for_a_link_and_can_not_be_one(work: Repo, tmp_path: Path, content: bytes) -> None:
    work.link("alias", "README")
    work.commit()
    work.git("config", "core.symlinks", "false")
    (work.root / "alias").unlink()
    work.write("alias", content)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    with pytest.raises(SnapshotError, match="no link can lead to: alias") as caught:
        take(discover(work.root, environ=work.environ), workspace, cancel=Cancel())
    assert caught.value.code == "SOURCE_LINK_INVALID"
    assert list(workspace.iterdir()) == []


def test_a_byte_order_mark_before_the_repositorys_rules(work: Repo, snap: Snap, tmp_path: Path) -> None:
    (tmp_path / "ignored").write_text("*.one\n")
    work.environ["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    work.git("config", "--global", "core.excludesFile", str(tmp_path / "ignored"))
    (work.root / ".git/info/exclude").write_bytes(b"\xef\xbb\xbf*.other\n")
    for name in ("x.one", "x.other", "x.seen"):
        work.write(name)
    snapshot = snap(work)
    check(work, snapshot)
    Repo(snapshot.path).write("y.other")
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


def test_directories_whose_files_are_gone(work: Repo, snap: Snap) -> None:
    work.write("some/where/deep/x")
    work.write("some/where/y")
    work.commit()
    work.write(".git/info/exclude", "ignored\n")
    (work.root / "some/where/deep/x").unlink()
    work.write("some/where/deep/ignored")
    snapshot = snap(work)
    check(work, snapshot)
    assert not (snapshot.path / "some/where/deep").exists()
    (work.root / "some/where/y").unlink()
    assert not (snap(work).path / "some").exists()


def test_a_path_that_is_too_long_for_git(work: Repo, snap: Snap) -> None:
    descriptor = os.open(work.root, os.O_RDONLY)
    try:
        for _ in range(18):
            os.mkdir("d" * 240, dir_fd=descriptor)
            below = os.open("d" * 240, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    snapshot = snap(work)
    check(work, snapshot)
    assert len(snapshot.left_out) == 1
    assert "File name too long" in snapshot.left_out[0].reason


def test_ignore_rules(repo: Repo, snap: Snap, tmp_path: Path) -> None:
    repo.write(".gitignore", "*.tmp\n/out\n**/cache/\n")
    repo.write("a/.gitignore", "!keep.tmp\nlocal\n")
    repo.write("forced.tmp", "tracked although ignored\n")
    repo.git("add", "-f", "forced.tmp", ".gitignore", "a/.gitignore")
    repo.git("commit", "-q", "-m", "c")
    (repo.root / ".git/info/exclude").write_text("mine\n!a/mine2\n")
    home = tmp_path / "home"
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("*.swp\nmine2\n")
    repo.environ |= {"HOME": str(home)}
    for path in (
        "x.tmp",
        "a/keep.tmp",
        "a/other.tmp",
        "a/local",
        "local",
        "out/x",
        "a/out",
        "b/cache/c",
        "mine",
        "y.swp",
        "mine2",
        "a/mine2",
    ):
        repo.write(path)
    repo.write("forced.tmp", "edited\n")
    snapshot = snap(repo)
    check(repo, snapshot)
    there = contents(snapshot.path)
    assert {"a/keep.tmp", "local", "a/out", "a/mine2", "forced.tmp"} <= set(there)
    assert not {"x.tmp", "out/x", "b/cache/c", "mine", "y.swp", "mine2"} & set(there)
    # In a container the user's own rules are not at hand: the workspace has them.
    inside = Repo(snapshot.path)
    inside.write("later.swp")
    assert "later.swp" not in inside.git("status", "--porcelain")


def test_empty_directories_and_specials(work: Repo, snap: Snap) -> None:
    (work.root / "nothing/in/here").mkdir(parents=True)
    os.mkfifo(work.root / "fifo")
    snapshot = snap(work)
    check(work, snapshot)
    assert not (snapshot.path / "nothing").exists()
    assert not (snapshot.path / "fifo").exists()
    assert snapshot.left_out == ()


def test_a_tracked_file_that_became_a_fifo(work: Repo, snap: Snap) -> None:
    # git add -A refuses it; for loom it is a deletion with a word about it.
    (work.root / "run.sh").unlink()
    os.mkfifo(work.root / "run.sh")
    snapshot = snap(work)
    assert [left.path for left in snapshot.left_out] == ["run.sh"]
    assert [(change.path, change.kind) for change in snapshot.changed] == [("run.sh", "deleted")]


def test_an_untracked_file_that_vanishes_meanwhile_is_named(
    work: Repo, snap: Snap, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.write("gone", "listed, then removed\n")
    work.write("stays", "here\n")
    listed = capture.contents.new_files

    def removed_after_the_listing(source: Source, *arguments: Any, **named: Any) -> Any:
        (source.root / "gone").unlink(missing_ok=True)
        return listed(source, *arguments, **named)

    monkeypatch.setattr(capture.contents, "new_files", removed_after_the_listing)
    snapshot = snap(work)
    why = "vanished while the workspace was being filled"
    assert [(one.path, one.reason) for one in snapshot.left_out] == [("gone", why)]
    assert [(change.path, change.kind) for change in snapshot.changed] == [("stays", "added")]
    check(work, snapshot)


def test_a_file_that_never_rests_is_named_and_counts_as_it_was_copied_last(
    work: Repo, snap: Snap, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_files.Copier._file

    def and_grow(copier: copy_files.Copier, reading: int, writing: int, name: str, *more: Any) -> int:
        size = copy(copier, reading, writing, name, *more)
        if name == "empty":
            with (work.root / "empty").open("a") as file:
                file.write("x")
        return size

    monkeypatch.setattr(copy_files.Copier, "_file", and_grow)
    snapshot = snap(work)
    why = f"changed during each of {copy_files.ATTEMPTS} attempts to copy it; the last one counts"
    assert [(one.path, one.reason) for one in snapshot.left_out] == [("empty", why)]
    assert [(change.path, change.kind) for change in snapshot.changed] == [("empty", "modified")]
    assert (snapshot.path / "empty").read_text() == "x" * (copy_files.ATTEMPTS - 1)
    assert proved(snapshot).same


def test_a_file_that_git_says_is_unmerged_is_named(work: Repo, snap: Snap) -> None:
    work.git("checkout", "-q", "-b", "other")
    work.write("README", "theirs\n")
    work.commit()
    work.git("checkout", "-q", "-")
    work.write("README", "ours\n")
    work.commit()
    with pytest.raises(AssertionError, match="CONFLICT"):
        work.git("merge", "-q", "other")
    snapshot = snap(work)
    why = "in conflict: git commits no such file; it is as on disk"
    assert [(one.path, one.reason) for one in snapshot.left_out] == [("README", why)]
    assert b"<<<<<<< HEAD" in (snapshot.path / "README").read_bytes()


def test_the_record_of_runs_is_never_copied(work: Repo, snap: Snap) -> None:
    work.write(".loom/workflow.yml", "version: v1\n")
    work.write(".loom/.runtime/logs/x", "old run\n")
    snapshot = snap(work)
    assert (snapshot.path / ".loom/workflow.yml").is_file()
    assert not (snapshot.path / ".loom/.runtime").exists()
    (snapshot.path / ".loom/.runtime").mkdir()
    (snapshot.path / ".loom/.runtime/x").write_text("x")
    assert ".runtime" not in Repo(snapshot.path).git("status", "--porcelain", "--untracked-files=all")


def test_git_is_real(work: Repo, snap: Snap) -> None:
    work.git("tag", "v1.0")
    work.git("tag", "-a", "v1.1", "-m", "annotated")
    work.git("branch", "other")
    work.git("remote", "add", "origin", "https://user:secret@example.com/x.git")
    work.write("README", "second\n")
    work.commit("second")
    work.git("update-ref", "refs/remotes/origin/main", "HEAD")
    work.git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    snapshot = snap(work)
    check(work, snapshot)
    inside = Repo(snapshot.path)
    assert inside.git("describe", "--tags", "--long") == work.git("describe", "--tags", "--long")
    assert inside.git("rev-list", "--count", "HEAD") == "2\n"
    assert inside.git("log", "--format=%H %s") == work.git("log", "--format=%H %s")
    assert inside.git("blame", "README") == work.git("blame", "README")
    assert inside.git("remote", "get-url", "origin") == "https://example.com/x.git\n"
    assert inside.git("for-each-ref") == work.git("for-each-ref")
    assert inside.git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD\n"
    assert inside.git("rev-parse", "--abbrev-ref", "origin/HEAD") == "origin/main\n"
    assert snapshot.branch == "main"


def test_libgit2_agrees(work: Repo, snap: Snap) -> None:
    # Other programs than git read a workspace; libgit2 is the one that most of them use.
    work.write("README", "edited\n")
    work.write("new", "new\n")
    (work.root / "empty").unlink()
    snapshot = snap(work)
    there = pygit2.Repository(str(snapshot.path))
    flags = pygit2.enums.FileStatus
    assert there.status() == {"README": flags.WT_MODIFIED, "new": flags.WT_NEW, "empty": flags.WT_DELETED}
    assert str(there.head.target) == snapshot.head_sha
    assert there.head_is_detached
    there.index.add_all()
    there.index.remove_all(["empty"])
    assert str(there.index.write_tree()) == snapshot.tree_sha


def test_started_from_a_subdirectory(work: Repo, snap: Snap) -> None:
    work.write("README", "edited\n")
    check(work, snap(work, work.root / "src/deep"))


def test_what_is_tracked_where_the_record_is_shown(work: Repo, snap: Snap) -> None:
    work.write(".loom/.runtime/x")
    work.write(".loom/workflow.yml")
    work.git("add", "-f", ".loom")
    work.git("commit", "-q", "-m", "c")
    snapshot = snap(work)
    assert not (snapshot.path / ".loom/.runtime").exists()
    assert [left.path for left in snapshot.left_out] == [".loom/.runtime/x"]
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


def test_names_that_mean_git_elsewhere(work: Repo, snap: Snap) -> None:
    work.write("git~1")
    with pytest.raises(AssertionError, match="invalid path"):
        work.would_commit()
    snapshot = snap(work)
    assert not (snapshot.path / "git~1").exists()
    assert [left.path for left in snapshot.left_out] == ["git~1"]
    work.git("config", "core.protectNTFS", "false")  # no server takes such a path
    assert [left.path for left in snap(work).left_out] == ["git~1"]
