"""Repositories that are not plain: worktrees, submodules, sparse, shallow, partial, in the middle of something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import RequestError, SnapshotError
from loom.snapshot import Snapshot, discover, explain, take, verify

from .conftest import ENVIRONMENT, Repo, check, contents

Snap = Callable[..., Snapshot]
NewRepo = Callable[[str], Repo]


@pytest.fixture
def work(repo: Repo) -> Repo:
    repo.write("README", "hello\n")
    repo.write("src/main.py", "print(1)\n")
    repo.write("docs/page.md", "page\n")
    repo.commit("first")
    return repo


def clone(repo: Repo, path: Path, *arguments: str) -> Repo:
    subprocess.run(["git", "clone", "-q", *arguments, str(path)], env=repo.environ, check=True, capture_output=True)
    return Repo(path)


def test_linked_worktree(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.git("worktree", "add", "-q", "-b", "side", str(tmp_path / "linked"))
    linked = Repo(tmp_path / "linked")
    linked.write("README", "edited there\n")
    linked.write("new")
    (work.root / ".git/info/exclude").write_text("hidden\n")
    linked.write("hidden")
    before = work.state(), linked.state()
    snapshot = snap(linked)
    assert (work.state(), linked.state()) == before
    check(linked, snapshot)
    assert snapshot.branch == "side"
    assert Repo(snapshot.path).git("rev-parse", "refs/heads/main") == work.git("rev-parse", "main")


def test_worktree_of_a_bare_repository(work: Repo, snap: Snap, tmp_path: Path) -> None:
    bare = clone(work, tmp_path / "bare.git", "--bare", str(work.root))
    bare.git("worktree", "add", "-q", str(tmp_path / "tree"), "main")
    tree = Repo(tmp_path / "tree")
    tree.write("README", "edited\n")
    check(tree, snap(tree))


def test_detached_head(work: Repo, snap: Snap) -> None:
    work.git("checkout", "-q", "--detach")
    snapshot = snap(work)
    check(work, snapshot)
    assert snapshot.branch is None


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
    assert [left.path for left in snapshot.left_out] == ["nes\\nted"]
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


def test_shallow_clone(work: Repo, snap: Snap, tmp_path: Path) -> None:
    for number in range(3):
        work.write("README", f"{number}\n")
        work.commit()
    shallow = clone(work, tmp_path / "shallow", "--depth", "2", f"file://{work.root}")
    snapshot = snap(shallow)
    check(shallow, snapshot)
    assert Repo(snapshot.path).git("rev-list", "--count", "HEAD") == "2\n"


def test_partial_clone(work: Repo, snap: Snap, tmp_path: Path) -> None:
    for number in range(3):
        work.write("README", f"{number}\n")
        work.commit()
    work.git("config", "uploadpack.allowFilter", "true")
    partial = clone(work, tmp_path / "partial", "--filter=blob:none", f"file://{work.root}")
    partial.write("README", "edited\n")
    before = partial.state()
    snapshot = snap(partial)
    assert partial.state() == before
    check(partial, snapshot)
    # Old content arrives from the same place as in the source.
    assert Repo(snapshot.path).git("show", "HEAD~2:README") == "0\n"


def test_sparse_partial_clone_fetches_into_the_workspace(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.git("config", "uploadpack.allowFilter", "true")
    partial = clone(work, tmp_path / "partial", "--filter=blob:none", "--sparse", f"file://{work.root}")
    assert not (partial.root / "docs").exists()
    before = partial.state()
    snapshot = snap(partial)
    assert contents(snapshot.path)["docs/page.md"][1] == b"page\n"
    assert partial.state() == before


def test_merge_with_conflicts(work: Repo, snap: Snap) -> None:
    work.git("checkout", "-q", "-b", "side")
    work.write("README", "side\n")
    work.git("rm", "-q", "docs/page.md")
    work.write("both", "side\n")
    work.commit()
    work.git("checkout", "-q", "main")
    work.write("README", "main\n")
    work.write("docs/page.md", "edited\n")
    work.write("both", "main\n")
    work.commit()
    with pytest.raises(AssertionError, match="CONFLICT"):
        work.git("merge", "side")
    snapshot = snap(work)
    check(work, snapshot)
    assert b"<<<<<<<" in contents(snapshot.path)["README"][1]
    with pytest.raises(AssertionError):
        work.git("rebase", "side")
    work.git("merge", "--abort")
    with pytest.raises(AssertionError, match="CONFLICT"):
        work.git("rebase", "side")
    (work.root / "both").unlink()
    check(work, snap(work))


def test_sha256(tmp_path: Path, snap: Snap) -> None:
    root = tmp_path / "sha256"
    root.mkdir()
    repo = Repo(root)
    repo.git("init", "-q", "--object-format=sha256")
    repo.write("a/b")
    repo.commit()
    repo.write("a/c")
    (root / "a/b").unlink()
    snapshot = snap(repo)
    check(repo, snapshot)
    assert len(snapshot.tree_sha) == 64


def test_reftable(tmp_path: Path, snap: Snap) -> None:
    root = tmp_path / "reftable"
    root.mkdir()
    repo = Repo(root)
    done = subprocess.run(["git", "init", "-q", "--ref-format=reftable"], cwd=root, env=repo.environ, check=False)
    if done.returncode != 0:
        pytest.skip("this git has no reftable")
    repo.write("a")
    repo.commit()
    repo.git("tag", "v1")
    snapshot = snap(repo)
    check(repo, snapshot)
    assert snapshot.branch == "main"
    assert Repo(snapshot.path).git("tag") == "v1\n"


@pytest.mark.parametrize(
    "settings",
    [
        {"core.splitIndex": "true"},
        {"core.untrackedCache": "true"},
        {"index.version": "4"},
        {"feature.manyFiles": "true"},
        {"core.fsmonitor": "/bin/false"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_indexes_of_every_make(work: Repo, snap: Snap, settings: dict[str, str]) -> None:
    for key, value in settings.items():
        work.git("config", key, value)
    work.write("more")
    work.git("add", "more")
    work.git("status")
    work.write("README", "edited\n")
    before = work.state()
    snapshot = snap(work)
    assert work.state() == before
    work.git("config", "--unset-all", "core.fsmonitor") if "core.fsmonitor" in settings else None
    check(work, snapshot)


def test_a_repository_that_borrows_its_objects(work: Repo, snap: Snap, tmp_path: Path) -> None:
    shared = clone(work, tmp_path / "shared", "--shared", str(work.root))
    shared.write("new")
    shared.commit()
    source = discover(shared.root, environ=shared.environ)
    assert source.read_only_mounts == (shared.root / ".git/objects", work.root / ".git/objects")
    snapshot = snap(shared)
    check(shared, snapshot)
    assert snapshot.borrowed == source.read_only_mounts


def test_a_big_store_is_borrowed_and_a_private_one_copied(
    work: Repo, snap: Snap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loom.snapshot.source.COPY_UP_TO_BYTES", 1)
    snapshot = snap(work)
    assert snapshot.borrowed == (work.root / ".git/objects",)
    check(work, snapshot)
    (work.root / ".git/objects").chmod(0o700)
    snapshot = snap(work)
    assert snapshot.borrowed == ()
    check(work, snapshot)


def test_git_variables_in_the_environment(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write("README", "edited\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    snapshot = snap(work, elsewhere, GIT_DIR=str(work.root / ".git"), GIT_WORK_TREE=str(work.root))
    check(work, snapshot)
    # As in a hook: relative, and with an index of git's own.
    other = tmp_path / "index"
    other.write_bytes((work.root / ".git/index").read_bytes())
    snapshot = snap(work, work.root, GIT_DIR=".git", GIT_INDEX_FILE=str(other), GIT_PREFIX="", GIT_TRACE="1")
    check(work, snapshot)
    snapshot = snap(
        work, GIT_LITERAL_PATHSPECS="0", GIT_ICASE_PATHSPECS="1", GIT_OBJECT_DIRECTORY=str(work.root / ".git/objects")
    )
    check(work, snapshot)


def test_git_dir_elsewhere(tmp_path: Path, snap: Snap) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    repo = Repo(root)
    repo.git("init", "-q", f"--separate-git-dir={tmp_path / 'repository'}")
    repo.write("a")
    repo.commit()
    repo.write("b")
    check(repo, snap(repo))


def test_without_an_index(work: Repo, snap: Snap) -> None:
    (work.root / ".git/index").unlink()
    snapshot = snap(work)
    assert snapshot.tree_sha == work.git("rev-parse", "HEAD^{tree}").strip()


def test_hooks_never_run(work: Repo, snap: Snap, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "post-index-change", "pre-commit", "reference-transaction", "fsmonitor-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-{name}\n")
        (hooks / name).chmod(0o755)
    work.write("README", "edited\n")
    work.write("new")
    work.git("update-index", "--skip-worktree", "src/main.py")
    work.git("config", "core.fsmonitor", str(hooks / "fsmonitor-watchman"))
    work.git("config", "core.hooksPath", str(hooks))
    snap(work)
    assert not list(tmp_path.glob("ran-*"))


def test_line_endings(work: Repo, snap: Snap) -> None:
    work.write(".gitattributes", "*.txt text eol=crlf\n*.auto text=auto\n*.bin -text\n")
    work.write("a.txt", "one\r\ntwo\r\n")
    work.write("b.auto", "one\r\n")
    work.commit()
    for autocrlf in ("false", "true", "input"):
        work.git("config", "core.autocrlf", autocrlf)
        work.write("a.txt", f"{autocrlf}\r\n")
        work.write("new.txt", "new\r\n")
        work.write("c.auto", "x\r\ny\r\n")
        work.write("d.bin", "x\r\n")
        work.write("plain", "x\r\ny\r\n")
        work.write("README", "now with\r\nother endings\r\n")
        check(work, snap(work))


def test_filters(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.rot.clean", "tr a-z n-za-m")
    work.git("config", "filter.rot.smudge", "tr n-za-m a-z")
    work.write(".gitattributes", "*.rot filter=rot\n")
    work.write("a.rot", "clear\n")
    work.commit()
    work.write("b.rot", "also clear\n")
    work.write("a.rot", "edited\n")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    assert contents(snapshot.path)["a.rot"][1] == b"edited\n"


def test_large_files_without_git_lfs(work: Repo, snap: Snap) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"
    known = pointer.format("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", 6)
    work.write(".gitattributes", "*.big filter=lfs diff=lfs merge=lfs -text\n")
    work.write("pointer.big", known)
    work.write("smudged.big", known)
    work.commit()
    for key, value in {
        "clean": "git-lfs clean -- %f",
        "smudge": "git-lfs smudge -- %f",
        "process": "git-lfs filter-process",
        "required": "true",
    }.items():
        work.git("config", f"filter.lfs.{key}", value)
    work.write("smudged.big", "hello\n")  # what the pointer stands for
    work.write("new.big", "hello\n")
    snapshot = snap(work)
    assert contents(snapshot.path)["smudged.big"][1] == b"hello\n"
    assert contents(snapshot.path)["pointer.big"][1] == known.encode()
    assert [(change.path, change.kind) for change in snapshot.changed] == [("new.big", "added")]
    assert snapshot.changed[0].sha == work.git("rev-parse", "HEAD:pointer.big").strip()


def test_a_filter_that_can_not_run(work: Repo, snap: Snap) -> None:
    work.write(".gitattributes", "*.enc filter=gone\n")
    work.commit()
    work.git("config", "filter.gone.clean", "no-such-program-anywhere")
    work.git("config", "filter.gone.required", "true")
    work.write("a.enc", "x\n")
    snapshot = snap(work)
    assert contents(snapshot.path)["a.enc"][1] == b"x\n"
    assert any("filter" in left.reason for left in snapshot.left_out)


# What is refused


def refusal(start: Path, **environ: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        discover(start, environ=ENVIRONMENT | environ)
    assert caught.value.hint
    return caught.value


def test_refused(repo: Repo, tmp_path: Path) -> None:
    assert refusal(repo.root).code == "REPOSITORY_UNBORN"
    assert refusal(tmp_path / "nowhere").code == "NO_REPOSITORY"
    assert refusal(tmp_path, GIT_CEILING_DIRECTORIES=str(tmp_path.parent)).code == "NO_REPOSITORY"
    repo.write("a")
    repo.commit()
    assert refusal(repo.root / ".git").code == "NO_REPOSITORY"
    bare = clone(repo, tmp_path / "bare.git", "--bare", str(repo.root))
    assert refusal(bare.root).code == "REPOSITORY_BARE"
    repo.git("checkout", "-q", "--orphan", "fresh")
    assert refusal(repo.root).code == "REPOSITORY_UNBORN"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to make a directory of another user")
def test_another_owner(repo: Repo, snap: Snap, tmp_path: Path) -> None:
    repo.write("a")
    repo.commit()
    subprocess.run(["chown", "-R", "12345:12345", str(repo.root)], check=True)
    error = refusal(repo.root)
    assert error.code == "REPOSITORY_NOT_TRUSTED"
    assert "safe.directory" in (error.hint or "")
    config = tmp_path / "gitconfig"
    config.write_text(f"[safe]\n\tdirectory = {repo.root}\n")
    repo.environ["GIT_CONFIG_GLOBAL"] = str(config)
    repo.write("b")
    check(repo, snap(repo))


def test_without_git(repo: Repo) -> None:
    program = (
        "import os, sys; from pathlib import Path; from loom.snapshot import discover\n"
        f"try: discover(Path({str(repo.root)!r}), environ={{'PATH': '/nonexistent'}})\n"
        "except Exception as error: print(type(error).__name__, error.code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/nonexistent", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "SnapshotError GIT_MISSING", done.stderr


# What lies beside the files: objects, refs, configuration, attributes


def test_packs_of_other_names(work: Repo, snap: Snap) -> None:
    for _ in range(2):  # the first makes the pack, the second removes what is in it
        work.git("maintenance", "run", "--task=loose-objects")
    assert [path for path in (work.root / ".git/objects/pack").iterdir() if path.name.startswith("loose-")]
    check(work, snap(work))


@pytest.mark.parametrize("what", ["HEAD", "HEAD^{tree}"])
def test_replaced_objects(work: Repo, snap: Snap, what: str) -> None:
    first = work.git("rev-parse", what).strip()
    work.write("README", "second\n")
    work.commit("second")
    work.git("replace", what, first)
    work.write("new")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert [change.path for change in snapshot.changed] == ["new"]
    assert verify(snapshot.path, environ=work.environ, tree_sha=snapshot.tree_sha).same


def test_a_ref_of_a_missing_object(work: Repo, snap: Snap) -> None:
    work.git("tag", "fine")
    (work.root / ".git/refs/heads/lost").write_text("deadbeef" * 5 + "\n")
    source = discover(work.root, environ=work.environ)
    assert (source.branch, source.tags) == ("main", ("fine",))
    inside = Repo(snap(work).path)
    assert inside.git("describe", "--tags").strip() == "fine"


def test_a_head_without_its_objects(work: Repo) -> None:
    head = work.git("rev-parse", "HEAD").strip()
    (work.root / ".git/objects" / head[:2] / head[2:]).unlink()
    error = refusal(work.root)
    assert error.code == "REPOSITORY_UNREADABLE"
    assert head in str(error)


def test_configuration_in_the_environment(work: Repo, snap: Snap, tmp_path: Path) -> None:
    (tmp_path / "ignored").write_text("hidden\n")
    work.write("hidden")
    work.write("seen")
    given = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.excludesFile",
        "GIT_CONFIG_VALUE_0": str(tmp_path / "ignored"),
    }
    work.environ |= given
    check(work, snap(work))
    hidden, seen = explain(discover(work.root, environ=work.environ), ["hidden", "seen"], start=work.root)
    assert (hidden.included, seen.included) == (False, True)
    assert hidden.rule is not None
    assert hidden.rule.pattern == "hidden"
    work.environ = ENVIRONMENT | {"GIT_CONFIG_PARAMETERS": f"'core.excludesfile'='{tmp_path / 'ignored'}'"}
    check(work, snap(work))


def test_attributes_outside_of_the_work_tree(work: Repo, snap: Snap, new_repo: NewRepo, tmp_path: Path) -> None:
    (tmp_path / "attributes").write_text("*.unix text eol=crlf\n*.loud filter=quiet\n")
    (tmp_path / "config").write_text(
        f'[core]\n\tattributesFile = {tmp_path / "attributes"}\n[filter "quiet"]\n\tclean = tr A-Z a-z\n'
    )
    work.environ["GIT_CONFIG_GLOBAL"] = str(tmp_path / "config")
    inner = new_repo("inner")
    inner.write("a")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "inner")
    work.commit("submodule")
    (work.root / ".git/info/attributes").write_text("*.own text\n")
    for directory in ("", "inner/"):
        work.write(f"{directory}x.unix", "a\r\nb\r\n")
        work.write(f"{directory}x.loud", "LOUD\n")
    work.write("x.own", "a\r\nb\r\n")
    snapshot = snap(work)
    check(work, snapshot)
    assert [sub.tree_sha for sub in snapshot.submodules] == [Repo(work.root / "inner", work.environ).would_commit()]
    verified = verify(snapshot.path, environ=work.environ, tree_sha=snapshot.tree_sha)
    assert verified.same, verified.changes


def test_a_filter_that_need_not_work_and_does_not(work: Repo, snap: Snap) -> None:
    work.git("config", "filter.broken.clean", "false")
    work.write(".gitattributes", "*.b filter=broken\n")
    work.write("x.b")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert ["external filter 'false' failed" in left.reason for left in snapshot.left_out] == [True]


def test_a_filter_that_no_longer_works_where_a_workspace_is_verified(work: Repo, snap: Snap, tmp_path: Path) -> None:
    script = work.write("../filter", "#!/bin/sh\ntr a-z A-Z\n", 0o755)
    work.git("config", "filter.up.clean", str(script))
    work.git("config", "filter.up.required", "true")
    work.write(".gitattributes", "*.up filter=up\n")
    work.write("x.up")
    snapshot = snap(work)
    check(work, snapshot, status=False)
    script.unlink()
    with pytest.raises(SnapshotError) as caught:
        verify(snapshot.path, environ=work.environ)
    assert caught.value.code == "FILTER_FAILED"


# Sparse checkouts, submodules and workspaces in odd places


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


def test_workspaces_in_the_checkout_are_no_part_of_it(work: Repo) -> None:
    work.write("tmp/file")
    trees = set()
    for number in range(2):
        workspace = work.root / f"tmp/loom-run-local-170000000000000000{number}-1234"
        workspace.mkdir()
        snapshot = take(discover(work.root, environ=work.environ), workspace, cancel=Cancel())
        trees.add(snapshot.tree_sha)
        assert (workspace / "tmp/file").is_file()
        assert snapshot.left_out == ()
    assert len(trees) == 1
