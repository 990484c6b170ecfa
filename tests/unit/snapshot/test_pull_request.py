"""A pull request's workspace, compared with the merge that git makes of the base branch and the committed work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import RequestError
from loom.runner.late.checkout import _WORK
from loom.snapshot import Source, discover, take, verify, with_merge

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
    taken = take(merged, tmp_path / "workspace", cancel=Cancel())
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
        ours.git("checkout", "-q", "--force", "--detach", source.head_sha)
        ours.git("read-tree", "--reset", "-u", "LOOM_WORK")
        assert "LOOM_WORK" in _WORK
        assert contents(ours.root) == contents(also_committed.root)


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
