"""Repositories that are not plain: worktrees, submodules, sparse, shallow, partial, in the middle of something."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import RequestError
from loom.snapshot import discover, explain, take, verify
from loom.snapshot.repository import find, parse

from .conftest import ENVIRONMENT, Repo, Snap, check, clone, contents


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
    # It may be anybody's, until it leads back.
    assert refusal(root).code == "REPOSITORY_ELSEWHERE"
    repo.git("config", "core.worktree", str(root))
    check(repo, snap(repo))


def test_a_repository_is_looked_for_as_git_does_and_must_lead_back(work: Repo, tmp_path: Path) -> None:
    inner = work.root / "inner"
    inner.mkdir()
    found = find(inner, ENVIRONMENT)
    assert found is not None
    assert (found.root, found.git_dir) == (work.root, work.root / ".git")
    elsewhere = find(inner, ENVIRONMENT | {"GIT_WORK_TREE": "."})
    assert elsewhere is not None
    assert elsewhere.root == inner
    assert find(inner, ENVIRONMENT | {"GIT_CEILING_DIRECTORIES": str(work.root)}) is None
    for text in ("no git file", "gitdir: ../docs"):  # neither is passed over
        (inner / ".git").write_text(text)
        assert find(inner, ENVIRONMENT) is None
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / ".git").symlink_to(work.root / ".git")
    with pytest.raises(RequestError, match="does not lead back"):
        find(linked, ENVIRONMENT)
    work.git("config", "core.worktree", str(linked))
    led_back = find(linked, ENVIRONMENT)
    assert led_back is not None
    assert (led_back.root, led_back.git_dir) == (linked, work.root / ".git")
    with pytest.raises(RequestError, match=r"core\.worktree names"):
        find(work.root, ENVIRONMENT)
    given = find(work.root, ENVIRONMENT | {"GIT_WORK_TREE": "."})
    assert given is not None
    assert given.root == work.root
    linked = linked.rename(tmp_path / "moved")
    moved = find(linked, ENVIRONMENT, modules=(work.root,))  # as a submodule's
    assert moved is not None
    assert moved.root == linked
    assert find(work.root / ".git", ENVIRONMENT) is None


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
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/.git").write_text(f"gitdir: {tmp_path}/moved/.git/worktrees/tree\n")
    gone = refusal(tmp_path / "tree")
    assert f".git leads to {tmp_path}/moved/.git/worktrees/tree, where no repository is" in gone.message
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


# Sparse checkouts, submodules and workspaces in odd places


def test_workspaces_in_the_checkout_are_no_part_of_it(work: Repo, snap: Snap) -> None:
    work.write("tmp/file")
    trees = set()
    for number in range(2):
        workspace = work.root / f"tmp/loom-run-local-170000000000000000{number}-1234"
        workspace.mkdir()
        snapshot = take(discover(work.root, environ=work.environ), workspace, cancel=Cancel())
        trees.add(snapshot.tree_sha)
        assert (workspace / "tmp/file").is_file()
        assert snapshot.left_out == ()
        assert sorted(str(path.relative_to(workspace)) for path in workspace.glob("tmp/*")) == ["tmp/file"]
    own = work.root / "tmp/any name"  # not one that loom gives
    own.mkdir()
    snapshot = take(discover(work.root, environ=work.environ), own, cancel=Cancel())
    assert (snapshot.tree_sha in trees, snapshot.left_out) == (True, ())
    shutil.rmtree(own)
    assert len(trees) == 1
    # From anywhere else they are known by their manifests; what is only called like one is the user's.
    work.write("loom-run-local-1-2/file")
    snapshot = snap(work)
    assert snapshot.left_out == ()
    assert not [*snapshot.path.glob("tmp/loom-*")]
    assert (snapshot.path / "loom-run-local-1-2/file").is_file()
    source = discover(work.root, environ=work.environ)
    asked = ["tmp/loom-run-local-1700000000000000000-1234/README", "tmp", "loom-run-local-1-2", "tmp/file"]
    for tmp_dir in (None, work.root / "tmp"):
        answers = explain(source, asked, start=work.root, tmp_dir=tmp_dir)
        assert [answer.included for answer in answers] == [False, True, True, True]


def test_a_configuration_is_read_or_refused_as_git_does(tmp_path: Path) -> None:
    file = tmp_path / "config"
    texts = (
        "[a]\n\tb\n",
        "[a]\n\tb c\n",
        "[a]\n\tb ; c\n",
        "[a]\n\tb = c d\n",
        '[a "x"]\nb="c ; d" # e\n',
        "[a] b\n",
    )
    for text in texts:
        file.write_text(text)
        told = subprocess.run(["git", "config", "-f", str(file), "--list", "-z"], capture_output=True, text=True)
        try:
            found = [(key, "" if value == "true" else value) for key, value in parse(text)]
        except ValueError:
            found = None
        pairs = (entry.partition("\n") for entry in told.stdout.split("\0") if entry)
        assert found == ([(key, value) for key, _, value in pairs] if told.returncode == 0 else None), text
