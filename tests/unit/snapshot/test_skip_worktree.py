"""Files that git was told not to look at: sparse checkouts, skip-worktree, assume-unchanged."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from loom.errors import SnapshotError
from loom.snapshot import contents as snapshot_contents
from loom.snapshot import discover, explain, git_dir, verify
from loom.snapshot.model import Source

from .conftest import ENVIRONMENT, NewRepo, Repo, Snap, clone, contents


@pytest.mark.parametrize("cone", ["--cone", "--no-cone"])
@pytest.mark.parametrize("index", ["--sparse-index", "--no-sparse-index"])
def test_sparse_checkout_is_filled_in(work: Repo, snap: Snap, cone: str, index: str) -> None:
    work.write("docs/more/x.md")
    work.write("docs/run.sh", "#!/bin/sh\n", 0o755)
    work.link("docs/link", "page.md")
    work.commit()
    if cone == "--cone":
        work.git("sparse-checkout", "init", "--cone", index)
        work.git("sparse-checkout", "set", "src")
    else:
        work.git("sparse-checkout", "set", "--no-cone", "/src/")
    work.write("src/main.py", "edited\n")
    assert not (work.root / "docs").exists()
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    there = contents(snapshot.path)
    assert there["docs/page.md"] == ("100644", b"page\n")
    assert there["docs/run.sh"][0] == "100755"
    assert there["docs/link"] == ("120000", b"page.md")
    assert Repo(snapshot.path).git("status", "--porcelain") == " M src/main.py\n"


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
def test_files_only_intended_to_be_added_and_hidden(work: Repo, snap: Snap, mark: str) -> None:
    work.git("rm", "-q", "--cached", "src/main.py")
    for path in ("new", "empty"):
        work.write(path, "" if path == "empty" else "new\n")
    work.git("add", "--intent-to-add", "new", "empty", "src/main.py")
    work.write("really empty", "")
    work.git("add", "really empty")
    work.git("update-index", mark, "new", "empty", "src/main.py", "really empty")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert "really empty" in work.listing
    assert contents(snapshot.path)["really empty"] == ("100644", b"")
    why = f"intended to be added, but {mark.removeprefix('--')} hides it from git"
    for path in ("new", "empty", "src/main.py"):
        assert not (snapshot.path / path).exists()
        assert (path, why) in [(left.path, left.reason) for left in snapshot.left_out]
        (answer,) = explain(discover(work.root, environ=work.environ), [path], start=work.root)
        assert (answer.included, answer.reason) == (False, why)
    inside = Repo(snapshot.path)
    assert inside.git("status", "--porcelain") == work.git("status", "--porcelain")
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
def test_edits_that_git_was_told_not_to_see(work: Repo, snap: Snap, mark: str) -> None:
    work.git("update-index", mark, "README", "docs/page.md")
    work.write("README", "only on this machine\n")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit() == work.git("rev-parse", "HEAD^{tree}").strip()
    assert contents(snapshot.path)["README"][1] == b"hello\n"
    assert [left.path for left in snapshot.left_out] == ["README"]
    assert Repo(snapshot.path).git("status", "--porcelain") == ""


def test_nothing_is_fetched_for_a_sparse_partial_clone(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.git("config", "uploadpack.allowFilter", "true")
    partial = clone(work, tmp_path / "partial", "--filter=blob:none", "--sparse", f"file://{work.root}")
    assert not (partial.root / "docs").exists()
    before = partial.state()
    with pytest.raises(SnapshotError, match="loom fetches nothing") as refused:
        snap(partial)
    assert refused.value.code == "OBJECTS_NOT_FETCHED"
    assert partial.state() == before
    assert refused.value.hint is not None
    subprocess.run(refused.value.hint.partition(": ")[2].split(), env=partial.environ, check=True)
    assert contents(snap(partial).path)["docs/page.md"][1] == b"page\n"


@pytest.mark.parametrize("index", ["--no-sparse-index", "--sparse-index"])
@pytest.mark.parametrize("age", [0, 100])
def test_files_that_a_sparse_checkout_should_not_have(work: Repo, snap: Snap, index: str, age: int) -> None:
    work.write("docs/other.md", "other\n")
    work.commit("other")
    work.git("sparse-checkout", "set", "--cone", index, "src")
    changed = work.write("docs/page.md", "changed\n")
    os.utime(changed, (time.time() - age, time.time() - age))
    work.write("docs/new.md")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert contents(snapshot.path)["docs/page.md"] == ("100644", b"changed\n")
    inside = Repo(snapshot.path)
    assert (
        inside.git("status", "--porcelain") == work.git("status", "--porcelain") == " M docs/page.md\n?? docs/new.md\n"
    )
    assert verify(snapshot.path, environ=work.environ, tree_sha=snapshot.tree_sha).same
    # Nothing of it is hidden from git there any more.
    inside.write("docs/page.md", "by a job\n")
    assert " M docs/page.md\n" in inside.git("status", "--porcelain")


@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
@pytest.mark.parametrize("inside", ["file", "nothing", "ignored", "repository"])
def test_a_hidden_file_that_a_directory_replaced(work: Repo, snap: Snap, mark: str, inside: str) -> None:
    work.git("update-index", mark, "README")
    (work.root / "README").unlink()
    (work.root / "README").mkdir()
    match inside:
        case "file":
            work.write("README/new")
        case "ignored":
            work.write(".git/info/exclude", "/README/new\n")
            work.write("README/new")
        case "repository":
            Repo(work.root / "README").git("init", "-q")
            Repo(work.root / "README").git("commit", "-q", "--allow-empty", "-m", "inner")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert (snapshot.path / "README").is_dir() == (inside in ("file", "repository"))
    assert (snapshot.path / "README/new").exists() == (inside == "file")
    assert (
        Repo(snapshot.path).git("status", "--porcelain") == work.git("status", "--porcelain") or inside == "repository"
    )
    there = contents(snapshot.path)
    for answer in explain(discover(work.root, environ=work.environ), ["README", "README/new"], start=work.root):
        below = [path for path in there if path == answer.path or path.startswith(f"{answer.path}/")]
        assert answer.included == bool(below), answer
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


@pytest.mark.parametrize("how", ["--skip-worktree", "--assume-unchanged", "sparse", "sparse index"])
@pytest.mark.parametrize("what", ["file", "link", "ignored file"])
def test_a_directory_of_hidden_files_that_something_replaced(work: Repo, snap: Snap, how: str, what: str) -> None:
    if how.startswith("sparse"):
        work.git(
            "sparse-checkout",
            "set",
            "--cone",
            "--sparse-index" if how == "sparse index" else "--no-sparse-index",
            "src",
        )
    else:
        work.git("update-index", how, "docs/page.md")
        shutil.rmtree(work.root / "docs")
    if what == "link":
        work.link("docs", "src")
    else:
        work.write("docs", "a file\n")
    if what.startswith("ignored"):
        work.write(".git/info/exclude", "/docs\n")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert (snapshot.path / "docs/page.md").exists() == what.startswith("ignored")
    answers = explain(discover(work.root, environ=work.environ), ["docs", "docs/page.md"], start=work.root)
    assert answers[0].included
    assert answers[1].included == what.startswith("ignored")
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


def test_ignore_rules_that_only_the_index_has(work: Repo, snap: Snap) -> None:
    work.write("docs/.gitignore", "*.log\n/out/\n")
    work.write(".gitignore", "*.tmp\n")
    work.write("docs/kept.log")
    work.git("add", "-f", "docs/kept.log")
    work.commit()
    work.git("sparse-checkout", "set", "--no-cone", "/src/")
    for path in ("x.tmp", "docs/x.log", "docs/out/x", "docs/seen"):
        work.write(path)
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert snapshot.left_out == ()
    there = contents(snapshot.path)
    asked = ["x.tmp", "docs/x.log", "docs/out/x", "docs/out", "docs/seen", "docs/kept.log", "docs"]
    for answer in explain(discover(work.root, environ=work.environ), asked, start=work.root):
        assert answer.included == any(path == answer.path or path.startswith(f"{answer.path}/") for path in there), (
            answer
        )


def test_an_object_that_is_half_copied_is_not_read(work: Repo, snap: Snap, monkeypatch: pytest.MonkeyPatch) -> None:
    work.write(".gitignore", "*.tmp\n")
    work.commit()
    work.git("sparse-checkout", "set", "--no-cone", "/src/")
    work.write("x.tmp")
    blob = work.git("rev-parse", ":.gitignore").strip()
    name = f"objects/{blob[:2]}/{blob[2:]}"
    half: list[Path] = []
    copy_index, new_files = git_dir.copy_index, snapshot_contents.new_files

    def before(source: Source, git_dir: Path) -> bytes:
        half.append(git_dir / name)
        half[0].parent.mkdir(parents=True)
        half[0].touch()
        return copy_index(source, git_dir)

    def after(source: Source, listed: bytes, *, outermost: bool) -> snapshot_contents.New:
        half[0].write_bytes((work.root / ".git" / name).read_bytes())
        return new_files(source, listed, outermost=outermost)

    monkeypatch.setattr(git_dir, "copy_index", before)
    monkeypatch.setattr(snapshot_contents, "new_files", after)
    assert "x.tmp" not in contents(snap(work).path)


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["--skip-worktree", "--assume-unchanged"])
@pytest.mark.parametrize("what", ["as it was", "moved on", "deleted", "a file"])
def test_a_hidden_submodule(work: Repo, snap: Snap, new_repo: NewRepo, mark: str, what: str) -> None:
    inner = new_repo("inner")
    inner.write("a")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "s")
    work.commit()
    work.git("update-index", mark, "s")
    if what == "moved on":
        work.write("s/a", "later\n")
        Repo(work.root / "s").commit()
    elif what != "as it was":
        shutil.rmtree(work.root / "s")
        if what == "a file":
            work.write("s", "a file\n")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert (snapshot.path / "s/a").exists() == (what == "as it was")
    assert (snapshot.path / "s").is_dir()
    assert [left.path for left in snapshot.left_out] == (["s"] if what == "moved on" else [])
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same
    answers = explain(discover(work.root, environ=work.environ), ["s", "s/a"], start=work.root)
    assert [answer.included for answer in answers] == [True, what == "as it was"]
