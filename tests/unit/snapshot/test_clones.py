"""The git of a workspace, compared with a clone that the commands of GitLab's runner make of the same repository.

The workspace is filled that way, or filled with everything and then reduced by the script that a job runs.
"""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.clone import Clone, refs_of_head, widest
from loom.snapshot import as_cloned, discover, reduced_manifest, reduction, take, verify

from .conftest import ENVIRONMENT, NewRepo, Repo, contents, proved

pytestmark = pytest.mark.slow

PIPELINE = "refs/pipelines/77"


Make = Callable[[Repo, NewRepo], None]


class Case(Struct, frozen=True, kw_only=True):
    make: Make = lambda work, _: history(work, 5)
    clone: Clone = Clone(depth=20, submodules="none")
    variables: dict[str, str] = field(default_factory=lambda: {"CI_COMMIT_BRANCH": "main"})


def history(work: Repo, count: int) -> None:
    for number in range(count):
        work.write("file", f"{number}\n")
        work.commit(f"commit {number}")


def tags(work: Repo, _: NewRepo) -> None:
    for number in range(8):
        work.commit(f"commit {number}")
        work.git("tag", f"light-{number}")
        work.git("tag", "-a", "-m", "annotated", f"annotated,{number}")
    work.git("tag", "-a", "-m", "a tag of a tag", "outer", "annotated,6")


def merges(work: Repo, _: NewRepo) -> None:
    history(work, 2)
    for number in range(6):
        work.git("checkout", "-q", "-b", f"side-{number}", "HEAD~1")
        for step in range(number):
            work.commit(f"side {number} {step}")
        work.git("tag", f"side-tag-{number}")
        work.git("checkout", "-q", "main")
        work.git("merge", "-q", "--no-ff", "-m", f"merge {number}", f"side-{number}")
        work.git("branch", "-D", f"side-{number}")
        work.commit(f"main {number}")


def branches(work: Repo, _: NewRepo) -> None:
    history(work, 3)
    work.git("branch", "other", "HEAD~1")
    work.git("branch", "release/1")
    work.git("push", "-q", "origin", "other", "release/1", "main")
    work.git("remote", "set-head", "origin", "main")
    work.git("checkout", "-q", "-b", "feature/new")
    work.commit("never pushed")


def detached(work: Repo, _: NewRepo) -> None:
    history(work, 4)
    work.git("checkout", "-q", "--detach", "HEAD~1")


def shallow(work: Repo, _: NewRepo) -> None:
    history(work, 9)
    work.git("push", "-q", "origin", "main")
    work.git("fetch", "-q", "--depth=5", "origin", "main")
    assert work.git("rev-list", "--count", "HEAD").strip() == "5"


def modules(work: Repo, new_repo: NewRepo) -> None:
    inner = new_repo("inner")
    history(inner, 4)
    middle = new_repo("middle")
    middle.git("submodule", "add", "-q", f"file://{inner.root}", "deps/inner")
    history(middle, 3)
    for path in ("lib/middle", "vendor"):
        work.git("submodule", "add", "-q", f"file://{middle.root}", path)
    work.git("submodule", "update", "-q", "--init", "--recursive")
    history(work, 3)


CASES = {
    "as-deep": Case(clone=Clone(depth=6, submodules="none")),
    "long": Case(make=lambda work, _: history(work, 30)),
    "depth-1": Case(clone=Clone(depth=1, submodules="none")),
    "tags": Case(make=tags, clone=Clone(depth=3, submodules="none")),
    "tag": Case(make=tags, clone=Clone(depth=2, submodules="none"), variables={"CI_COMMIT_TAG": "annotated,7"}),
    "merges": Case(make=merges, clone=Clone(depth=6, submodules="none")),
    "new-branch": Case(make=branches, variables={"CI_COMMIT_BRANCH": "feature/new"}),
    "everything": Case(make=branches, clone=Clone(submodules="none"), variables={"CI_COMMIT_BRANCH": "feature/new"}),
    "merge-request": Case(make=branches, variables={"CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/1/head"}),
    "detached": Case(make=detached, variables={}),
    "shallow": Case(make=shallow, clone=Clone(depth=3, submodules="none")),
    "no-modules": Case(make=modules),
    "modules": Case(make=modules, clone=Clone(depth=2, submodules="normal", submodule_depth=2)),
    "nested": Case(make=modules, clone=Clone(depth=2, submodules="recursive", submodule_depth=3)),
    "some": Case(
        make=modules,
        clone=Clone(submodules="recursive", submodule_paths=(":(exclude)vendor",)),
    ),
    "no-files": Case(clone=Clone(depth=2, submodules="none", files=False)),
}


@pytest.fixture(scope="module")
def made(empty: Path, committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    """Directories with the repository `work` of a case and its `origin`, the repository `server.git`; each is made once."""

    @cache
    def of(make: Make) -> Path:
        base = tmp_path_factory.mktemp("made")
        work = Repo(shutil.copytree(committed, base / "work"))
        work.git("init", "-q", "--bare", str(base / "server.git"))
        work.git("remote", "add", "origin", f"file://{base}/server.git")
        work.write("folder/.hidden", "hidden\n")
        make(work, lambda name: Repo(shutil.copytree(empty, base / name)))
        return base

    return of


def runners(path: Path, server: Repo, work: Repo, case: Case) -> Repo:
    """What the runner makes of the commit in `work` once it is pushed, by the refs that GitLab names for such a pipeline."""
    branch, tag = case.variables.get("CI_COMMIT_BRANCH"), case.variables.get("CI_COMMIT_TAG")
    work.git("push", "-q", "--force", "--no-recurse-submodules", "origin", "--tags", f"HEAD:{PIPELINE}")
    if branch:
        work.git("push", "-q", "--no-recurse-submodules", "origin", f"HEAD:refs/heads/{branch}")
    path.mkdir()
    there, clone = Repo(path), case.clone
    refs = [f"+{PIPELINE}:{PIPELINE}"]
    if not clone.depth:
        refs += ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]
    elif tag:
        refs.append(f"+refs/tags/{tag}:refs/tags/{tag}")
    elif branch:
        refs.append(f"+refs/heads/{branch}:refs/remotes/origin/{branch}")
    there.git("-c", "init.defaultBranch=none", "init", "-q")
    there.git("remote", "add", "origin", f"file://{server.root}")
    depth = ("--depth", str(clone.depth)) if clone.depth else ()
    there.git("fetch", "-q", "origin", "--no-recurse-submodules", *refs, *depth, "--prune", "--force")
    if clone.files:
        sha = work.git("rev-parse", "HEAD").strip()
        there.git("-c", "submodule.recurse=false", "checkout", "-q", "-f", sha)
        there.git("clean", "-ffdx")
    if clone.submodules != "none":
        words = ["--recursive"] if clone.submodules == "recursive" else []
        words += ["--depth", str(clone.submodule_depth)] if clone.submodule_depth else []
        words += ["--", *(clone.submodule_paths or (".",))]
        there.git("-c", "protocol.file.allow=always", "submodule", "update", "-q", "--init", *words)
    return there


def asked(repo: Repo, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=repo.root, env=repo.environ, capture_output=True, check=False)
    return f"{done.stdout.decode()}{'failed' if done.returncode else ''}"


def state(repo: Repo) -> dict[str, object]:
    """What a job can see of its git."""
    questions: Sequence[Sequence[str]] = (
        ("for-each-ref", "--format=%(refname) %(objectname) %(*objectname)"),
        ("rev-parse", "--is-shallow-repository"),
        ("rev-list", "--topo-order", "--parents", "HEAD"),
        ("symbolic-ref", "-q", "HEAD"),
        ("describe", "--tags", "--always", "--abbrev=40"),
        ("merge-base", "HEAD", "origin/main"),
        ("diff", "--name-only", "origin/other"),
        ("config", "--get-regexp", r"^remote\..*|^submodule\.[^.]*\.active"),
        ("status", "--porcelain"),
        ("ls-files", "--stage"),
        ("fsck", "--connectivity-only", "--no-dangling"),
    )
    found: dict[str, object] = {" ".join(words): asked(repo, *words) for words in questions}
    if asked(repo, "ls-files", ".gitmodules"):
        inner = "git rev-parse HEAD --is-shallow-repository; git rev-list HEAD"
        found["foreach"] = asked(repo, "submodule", "foreach", "-q", "--recursive", inner)
        status = asked(repo, "submodule", "status", "--recursive").splitlines()
        found["submodules"] = [line.partition(" (")[0] for line in status]
    return found | {"files": contents(repo.root)}


@pytest.mark.parametrize("name", CASES)
def test_git_is_that_of_the_runners_clone(name: str, made: Callable[[Make], Path], tmp_path: Path) -> None:
    case = CASES[name]
    work, server = (
        Repo(shutil.copytree(made(case.make) / folder, tmp_path / folder, symlinks=True))
        for folder in ("work", "server.git")
    )
    work.git("remote", "set-url", "origin", f"file://{server.root}")
    work.git("update-index", "-q", "--refresh")
    names = refs_of_head({"CI_PIPELINE_ID": "77", **case.variables})
    source = discover(work.root, environ=ENVIRONMENT)
    wide = widest([case.clone])
    for folder in ("taken", "full"):
        (tmp_path / folder).mkdir()
    taken = take(as_cloned(source, wide, names), tmp_path / "taken", cancel=Cancel())
    assert taken.tree_sha == work.would_commit()
    assert proved(taken).same
    assert {module.path for module in taken.submodules} == {
        path
        for path in ("lib/middle", "lib/middle/deps/inner", "vendor", "vendor/deps/inner")
        if (taken.path / path / ".git").exists()
    }
    full = take(source, tmp_path / "full", cancel=Cancel())
    theirs = state(runners(tmp_path / "runner", server, work, case))
    for path, clone in ((taken.path, wide), (full.path, None)):
        script = reduction(as_cloned(source, case.clone, names), path, clone)
        assert (script == "") == (clone == case.clone)
        subprocess.run(["sh", "-c", script], cwd=path, env=ENVIRONMENT, check=True, capture_output=True)
        ours = state(Repo(path))
        if clone is None and case.clone.submodule_depth:  # a workspace with more of a submodule's history keeps it
            ours["foreach"] = theirs["foreach"]
        assert ours == theirs
        manifest = tmp_path / "manifest.json"
        manifest.write_bytes(reduced_manifest(path, case.clone))
        changed = verify(path, environ=ENVIRONMENT, manifest_file=manifest).changes
        assert bool(changed) != case.clone.files, "what a clone lacks is nothing that its job has deleted"
