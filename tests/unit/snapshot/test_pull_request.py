"""A pull request's workspace, compared with the merge that git makes of the base branch and the committed work."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import RequestError
from loom.runner.late.checkout import checkout_of
from loom.snapshot import Source, discover, patch_of, take, verify, with_merge
from loom.snapshot.renewal import files_in, take_known
from tests.unit.runner.late.plans import step

from .conftest import ENVIRONMENT, Repo, clone, contents, proved

pytestmark = pytest.mark.slow

Change = Callable[[Repo], object]
LINES = "".join(f"line {number}\n" for number in range(20))


def renamed(repo: Repo) -> None:
    repo.git("mv", "lines", "moved")


def edited(repo: Repo) -> None:
    repo.write("lines", LINES.replace("line 3\n", "line three\n"))


def all_kinds(repo: Repo) -> None:
    repo.write("new/deep/file", "new\n")
    repo.write("bin/tool", "#!/bin/sh\n", mode=0o755)
    repo.link("link", "README")
    repo.git("rm", "-rq", "docs")
    (repo.root / "src/main.py").chmod(0o755)
    repo.write("sub.txt", b"\xff\0binary")


def kinds_changed(repo: Repo) -> None:
    repo.git("rm", "-rq", "docs", "src", "README")
    repo.write("docs", "a file now\n")
    repo.write("README/inside", "a directory now\n")
    repo.link("src", "docs")


def uncommitted(repo: Repo) -> None:
    repo.write("untracked", "new\n")
    repo.write("lines", LINES.replace("line 17\n", "line seventeen\n"))
    (repo.root / "gone").unlink()
    repo.write("staged", "staged\n")
    repo.git("add", "staged")


def nothing(_: Repo) -> None: ...


def windows(repo: Repo) -> None:
    repo.write("new.bat", "echo\r\n")
    repo.write("other", "other\n")


CASES: dict[str, tuple[Change, Change, Change]] = {
    "plain": (lambda repo: repo.write("theirs"), lambda repo: repo.write("ours"), nothing),
    "kinds": (all_kinds, lambda repo: repo.write("ours"), uncommitted),
    "types": (kinds_changed, lambda repo: repo.write("ours"), nothing),
    "renamed-here": (edited, renamed, nothing),
    "renamed-there": (renamed, edited, uncommitted),
    "same-file": (edited, nothing, uncommitted),
    "same-change": (edited, edited, nothing),
    "endings": (windows, nothing, uncommitted),
    "already": (lambda repo: repo.write("untracked", "new\n"), lambda repo: repo.write("ours"), uncommitted),
}


def forked(work: Repo, there: Change, here: Change) -> Source:
    work.write("lines", LINES)
    work.write("gone")
    work.write(".gitattributes", "*.bat text eol=crlf\n")
    work.commit("fork")
    work.git("checkout", "-q", "-b", "topic")
    here(work)
    work.commit("ours")
    work.git("checkout", "-q", "main")
    there(work)
    work.commit("theirs")
    work.git("checkout", "-q", "topic")
    return discover(work.root, environ=ENVIRONMENT)


def without_times(repo: Repo) -> dict[str, tuple[int, bytes]]:
    return {path: (mode, data) for path, (mode, _, data) in repo.state().items()}


def tip_of(source: Source) -> str:
    return next(sha for name, sha, _ in source.refs if name == "refs/heads/main")


def script_of(source: Source, **given: str) -> str:
    """What `actions/checkout` does, with these inputs."""
    assert source.pull_request is not None
    inputs = {name.replace("_", "-"): text for name, text in given.items()}
    github = {"ref": "refs/pull/1/merge", "ref_name": "1/merge", "sha": source.pull_request.sha, "head_ref": "topic"}
    event = {"pull_request": {"number": 1, "head": {"sha": source.head_sha, "ref": "topic"}}}
    github |= {"workspace": "/w", "event": event}
    return checkout_of(step(kind="checkout", inputs=inputs), str, github, submodules=False, history=True).script


@pytest.mark.parametrize("name", CASES)
def test_the_workspace_has_the_merge_of_git(name: str, work: Repo, tmp_path: Path) -> None:
    there, here, also = CASES[name]
    source = forked(work, there, here)
    also(work)
    before = without_times(work)
    merged = with_merge(source, "main", tip := tip_of(source))
    assert isinstance(merged, Source)
    assert merged.pull_request is not None
    (tmp_path / "workspace").mkdir()
    known = tmp_path / "known"
    kept = take(merged, tmp_path / "workspace", cancel=Cancel(), known=known).path / ".gitattributes"
    (tmp_path / "workspace/moved").write_text("of a job\n")
    (tmp_path / "workspace/lines").unlink(missing_ok=True)
    copied = kept.stat()
    taken = take(merged, tmp_path / "workspace", cancel=Cancel(), known=known)
    assert kept.stat() == copied, "the workspace was renewed"
    assert (copies := take_known(known))
    assert files_in(copies.files).keys().isdisjoint(taken.brought)
    assert without_times(work) == before, "nothing is written to the source"
    ours = Repo(taken.path)

    theirs = clone(work, tmp_path / "server", "--no-hardlinks", str(work.root))
    theirs.git("checkout", "-q", "--detach", tip)
    theirs.git("merge", "-q", "--no-ff", "-m", f"Merge {source.head_sha} into {tip}", "origin/topic")
    committed = theirs.git("rev-parse", "HEAD^{tree}")
    also_committed = clone(work, tmp_path / "committed", "--no-hardlinks", str(work.root))
    also(also_committed)
    also_committed.commit("work")
    theirs.git("checkout", "-q", "--detach", tip)
    theirs.git("fetch", "-q", str(also_committed.root), "HEAD")
    theirs.git("merge", "-q", "--no-ff", "-m", "with the work", "FETCH_HEAD")
    assert f"{taken.tree_sha}\n" == theirs.git("rev-parse", "HEAD^{tree}")
    assert contents(taken.path) == contents(theirs.root)

    questions = ("log", "-1", "--format=%H %T %P%n%s%n%cn", "HEAD")
    head = f"{merged.pull_request.sha} {committed.strip()} {tip} {source.head_sha}"
    assert ours.git(*questions) == f"{head}\nMerge {source.head_sha} into {tip}\nGitHub\n"
    assert ours.git("diff") == ours.git("ls-files", "--others", "--exclude-standard") == ""
    assert (ours.git("status", "--porcelain") == "") == (committed.strip() == taken.tree_sha)
    ours.git("fsck", "--strict")
    assert proved(taken).same
    assert {
        change.path
        for change in verify(
            work.root, environ=ENVIRONMENT, manifest_file=taken.path / ".git/loom-snapshot.json"
        ).changes
    } == {*taken.brought}

    if also is uncommitted:  # `actions/checkout` checks out the branch, not the merge
        subprocess.run(["sh", "-ec", script_of(merged, ref="topic")], cwd=ours.root, env=ENVIRONMENT, check=True)
        assert contents(ours.root) == contents(also_committed.root)


def test_a_job_s_change_to_what_the_merge_brought_is_a_conflict(work: Repo, tmp_path: Path) -> None:
    source = forked(work, lambda repo: repo.write("theirs"), nothing)
    merged = with_merge(source, "main", tip_of(source))
    assert isinstance(merged, Source)
    (tmp_path / "workspace").mkdir()
    taken = take(merged, tmp_path / "workspace", cancel=Cancel())
    for path in ("theirs", "lines"):
        Repo(taken.path).write(path, "by the job\n")
    found = patch_of(
        taken.path,
        work.root,
        environ=ENVIRONMENT,
        manifest_file=taken.path / ".git/loom-snapshot.json",
        leave_out=lambda _: False,
    )
    assert [change.path for change in found.changes] == ["lines"]
    assert found.conflicts == {"theirs": "of the base branch, which the checkout has not merged"}


def conflicting(repo: Repo) -> None:
    repo.write("lines", LINES.replace("line 3\n", "line drei\n"))


def test_files_in_conflict_are_named(work: Repo, tmp_path: Path) -> None:
    source = forked(work, edited, conflicting)
    with pytest.raises(RequestError, match=r"in conflict with main \(\w{12}\).*: lines\n") as error:
        with_merge(source, "main", tip_of(source))
    assert error.value.code == "MERGE_CONFLICT"
    work.git("reset", "-q", "--hard", "main~1")
    source = discover(work.root, environ=ENVIRONMENT)
    conflicting(work)  # and not committed
    merged = with_merge(source, "main", tip_of(source))
    assert isinstance(merged, Source)
    (tmp_path / "workspace").mkdir()
    with pytest.raises(RequestError, match="in conflict with main"):
        take(merged, tmp_path / "workspace", cancel=Cancel())
    assert not list((tmp_path / "workspace").iterdir())


@pytest.mark.parametrize("path", [".github/workflows/ci.yml", "sub/.gitattributes", "tool/action.yml"])
def test_what_decides_about_the_plan_is_not_brought(work: Repo, path: str) -> None:
    source = forked(work, lambda repo: repo.write(path), nothing)
    assert with_merge(source, "main", tip_of(source)) == f"which changes {path}"


def test_a_submodule_that_the_base_moved_is_not_brought(work: Repo) -> None:
    def moved(repo: Repo) -> None:
        repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor")
        (repo.root / "vendor").mkdir()

    source = forked(work, moved, nothing)
    assert with_merge(source, "main", tip_of(source)) == "which changes vendor"


def test_histories_without_a_common_commit_are_not_merged(work: Repo) -> None:
    work.git("checkout", "-q", "--orphan", "other")
    work.commit("alone")
    source = discover(work.root, environ=ENVIRONMENT)
    assert "refusing to merge unrelated histories" in str(with_merge(source, "main", tip_of(source)))


CHECKOUTS: dict[str, dict[str, str]] = {
    "one": {},
    "two": {"fetch-depth": "2"},
    "all": {"fetch-depth": "0"},
    "branch": {"ref": "topic", "fetch-depth": "0"},
    "head": {"ref": "HEAD-SHA"},
}


def checked_out(root: Path, server: str, sha: str, given: dict[str, str]) -> Repo:
    """What the commands of `actions/checkout` make of the merge, or of the head."""
    root.mkdir()
    there, depth, ref = Repo(root), given.get("fetch-depth", "1"), given.get("ref", "")
    there.git("-c", "init.defaultBranch=none", "init", "-q")
    there.git("remote", "add", "origin", server)
    wanted = [f"+{sha}:refs/remotes/pull/1/merge"] if not ref else [] if depth == "0" else [sha]
    words = ["--no-tags"] if depth != "0" else ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
    deep = [f"--depth={depth}"] if depth != "0" else []
    there.git("fetch", "-q", "--prune", "--no-recurse-submodules", *deep, "origin", *words, *wanted)
    which = ("--detach", sha) if ref != "topic" else ("-B", "topic", "refs/remotes/origin/topic")
    there.git("checkout", "-q", "--force", *(which if ref else ("refs/remotes/pull/1/merge",)))
    return there


@pytest.mark.parametrize("name", CHECKOUTS)
def test_git_is_that_of_a_checkout_of_the_request(name: str, work: Repo, tmp_path: Path) -> None:
    server = tmp_path / "server.git"
    work.git("init", "-q", "--bare", str(server))
    work.git("tag", "-a", "-m", "annotated", "v1")
    work.git("remote", "add", "origin", f"file://{server}")
    forked(work, all_kinds, edited)
    work.git("branch", "never-pushed")
    work.git("push", "-q", "--tags", "origin", "main", "topic")
    source = discover(work.root, environ=ENVIRONMENT)
    merged = with_merge(source, "main", tip_of(source))
    assert isinstance(merged, Source)
    assert merged.pull_request is not None
    (tmp_path / "workspace").mkdir()
    taken = take(merged, tmp_path / "workspace", cancel=Cancel())
    ours, sha, head = Repo(taken.path), merged.pull_request.sha, source.head_sha
    ours.git("push", "-q", "origin", f"{sha}:refs/pull/1/merge")
    ours.git("--git-dir", str(server), "config", "uploadpack.allowAnySHA1InWant", "true")
    given = {key: head if text == "HEAD-SHA" else text for key, text in CHECKOUTS[name].items()}
    theirs = checked_out(tmp_path / "theirs", f"file://{server}", head if "ref" in given else sha, given)
    script = script_of(merged, **{key.replace("-", "_"): text for key, text in given.items()})
    subprocess.run(["sh", "-ec", script], cwd=taken.path, env=ENVIRONMENT, check=True, capture_output=True)
    questions = (
        ("for-each-ref", "--format=%(refname) %(objectname) %(*objectname)"),
        ("rev-parse", "HEAD", "--is-shallow-repository"),
        ("rev-list", "--topo-order", "--parents", "HEAD"),
        ("branch", "--show-current"),
        ("describe", "--tags", "--always", "--abbrev=40"),
        ("status", "--porcelain"),
        ("ls-files", "--stage"),
    )
    assert {words: ours.git(*words) for words in questions} == {words: theirs.git(*words) for words in questions}
    assert contents(ours.root) == contents(theirs.root)
    ours.git("fsck", "--connectivity-only", "--no-dangling")


def test_no_merge_driver_of_a_configuration_runs(work: Repo, tmp_path: Path) -> None:
    work.write(".git/info/attributes", "lines merge=own\n")
    forked(work, edited, lambda repo: repo.write("lines", LINES.replace("line 17\n", "line seventeen\n")))
    work.git("config", "merge.own.driver", f"touch {tmp_path}/ran")
    user = tmp_path / "config"
    user.write_text(f'[merge "own"]\n\tdriver = touch {tmp_path}/ran\n')
    source = discover(work.root, environ=ENVIRONMENT | {"GIT_CONFIG_GLOBAL": str(user)})
    assert isinstance(with_merge(source, "main", tip_of(source)), Source)
    assert not (tmp_path / "ran").exists()
