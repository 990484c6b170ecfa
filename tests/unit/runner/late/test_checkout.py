"""What `actions/checkout` does to files that are the snapshot already; its scripts run in real repositories."""

import shutil
import subprocess
from pathlib import Path

import pytest

from loom.plan.late import Action
from loom.runner.late.checkout import checkout_of
from tests.support.repository import git

from .plans import step

GITHUB = {
    "workspace": "/work/own",
    "repository": "o/own",
    "ref": "refs/heads/main",
    "ref_name": "main",
    "sha": "a" * 40,
    "head_ref": "",
}


def script(*, modules: bool = False, history: bool = False, action: Action | None = None, **inputs: str) -> str:
    made = step(kind="checkout", inputs={name.replace("_", "-"): text for name, text in inputs.items()}, action=action)
    return checkout_of(made, lambda text: text, GITHUB, submodules=modules, history=history).script


def ran(text: str, directory: Path, code: int = 0) -> str:
    done = subprocess.run(("sh", "-e", "-c", text), cwd=directory, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    place = tmp_path / "work"
    place.mkdir()
    git(place, "init", "-qb", "main")
    (place / "a").write_text("old")
    git(place, "add", "-A")
    git(place, "commit", "-qm", "old")
    git(place, "branch", "old")
    git(place, "update-ref", "refs/remotes/origin/theirs", "old")
    (place / "a").write_text("new")
    git(place, "commit", "-qam", "new")
    return place


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"token": "x", "persist_credentials": "false", "lfs": "true", "clean": "true"},
        {"ref": "main"},
        {"ref": "refs/heads/main"},
        {"ref": "a" * 40},
        {"ref": ""},
        {"repository": "O/Own"},
        {"path": "."},
        {"path": "./"},
        {"path": "a/.."},
        {"path": "/work/own/"},
        {"submodules": "recursive"},
    ],
)
def test_most_inputs_change_nothing(inputs: dict[str, str]) -> None:
    assert script(**inputs) == ""


@pytest.mark.parametrize(
    ("path", "found"),
    [("", "."), ("./", "."), ("a/../b", "b"), ("${{ github.workspace }}", "."), ("${{GitHub.workspace}}/a/", "a")],
)
def test_the_path_of_a_checkout_is_known_before_it_runs(path: str, found: str) -> None:
    made = step(kind="checkout", inputs={"Path": path})
    assert (made.checkout_path, made.is_whole_checkout) == (found, found == ".")


def test_outputs() -> None:
    made = step(kind="checkout", inputs={"ref": "main"})
    found = checkout_of(made, lambda text: text, GITHUB, submodules=False, history=False)
    assert found.outputs == {"commit": "a" * 40, "ref": "main"}
    other = Action(uses="o/other@v1", repository="o/other", commit="b" * 40, directory="/d")
    made = step(kind="checkout", inputs={"repository": "o/other", "path": "p", "ref": "v1"}, action=other)
    found = checkout_of(made, str, GITHUB, submodules=False, history=False)
    assert found.outputs == {"commit": "b" * 40, "ref": "v1"}
    assert (found.script, found.target, found.other) == ("", "p", "/d")


@pytest.mark.parametrize(
    ("ref", "content"), [("topic", "old"), ("refs/heads/topic", "old"), ("head", "old"), ("", "new")]
)
def test_a_pull_request_is_on_its_merge_or_on_its_head_by_name(repository: Path, ref: str, content: str) -> None:
    newest, head = git(repository, "rev-parse", "HEAD", "old").split()
    github = {**GITHUB, "sha": newest, "ref": "refs/pull/1/merge", "ref_name": "1/merge", "head_ref": "topic"}
    github["event"] = {"pull_request": {"head": {"ref": "topic", "sha": head}}}
    made = step(kind="checkout", inputs={"ref": head if ref == "head" else ref})
    ran(checkout_of(made, str, github, submodules=False, history=False).script, repository)
    assert (repository / "a").read_text() == content


@pytest.mark.parametrize("ref", ["old", "refs/heads/old", "theirs", "refs/heads/theirs", "commit"])
def test_another_ref_of_the_history(repository: Path, ref: str) -> None:
    ran(script(ref=git(repository, "rev-parse", "old") if ref == "commit" else ref), repository)
    assert (repository / "a").read_text() == "old"


@pytest.mark.parametrize("ref", ["none", "$(touch made)", "--help", "a b'c"])
def test_a_ref_that_is_not_there(repository: Path, ref: str) -> None:
    said = ran(script(ref=ref), repository, code=1)
    assert f"does not hold {ref}" in said
    assert [path.name for path in repository.iterdir() if path.name != ".git"] == ["a"]


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../x"])
def test_a_path_out_of_the_workspace_is_refused(repository: Path, path: str) -> None:
    assert "is not under '/work/own'" in ran(script(path=path), repository, code=1)


def test_a_repository_that_is_not_known(repository: Path) -> None:
    action = Action(uses="o/other@v1", repository="o/other", commit="b" * 40, directory="/d")
    assert "not known before" in ran(script(repository="o/third", path="sub", action=action), repository, code=1)


@pytest.mark.parametrize(
    ("more", "there"),
    [
        ({}, ["a", "b/deep/f", "b/f", "b/new"]),
        ({"sparse_checkout_cone_mode": "true"}, ["a", "b/deep/f", "b/f", "b/new"]),
        ({"sparse_checkout_cone_mode": "false"}, ["b/f", "it's/f"]),
    ],
)
def test_a_sparse_checkout_has_these_files_alone(repository: Path, more: dict[str, str], there: list[str]) -> None:
    for name in ("b/deep/f", "b/f", "c/f", "it's/f"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "more")
    (repository / "c/f").write_text("changed")
    for name in ("b/new", "c/new"):
        (repository / name).write_text("")
    wanted = "\n  b  \n\n" if more.get("sparse_checkout_cone_mode") != "false" else "/b/f\n/it's/"
    ran(script(sparse_checkout=wanted, **more), repository)
    files = (path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
    assert sorted(name for name in files if not name.startswith(".git/")) == there


def test_submodules_are_there_only_if_asked_for(repository: Path, tmp_path: Path) -> None:
    git(repository, "submodule", "add", "-q", str(repository), "module")
    git(repository, "commit", "-qm", "module")
    ran(script(modules=True), repository)
    assert list((repository / "module").iterdir()) == []


@pytest.fixture
def snapshot(repository: Path) -> Path:
    """A repository with three commits as a snapshot has it: HEAD detached, all refs in one file."""
    git(repository, "commit", "-qm", "newest", "--allow-empty")
    git(repository, "tag", "-a", "-m", "annotated", "v1")
    git(repository, "checkout", "-q", "--detach")
    git(repository, "pack-refs", "--all")
    return repository


def refs(directory: Path) -> list[str]:
    return git(directory, "for-each-ref", "--format=%(refname)").splitlines()


BOTH = ["refs/heads/main", "refs/remotes/origin/main"]


@pytest.mark.parametrize(
    ("depth", "commits"), [("", 1), ("1", 1), ("2", 2), ("9", 3), ("0", 3), ("none", 3), (" 1 ", 1), ("-1", 3)]
)
def test_history_is_as_deep_as_the_step_says(snapshot: Path, depth: str, commits: int) -> None:
    text = script(history=True, fetch_depth=depth)
    ran(text, snapshot)
    assert len(git(snapshot, "log", "--oneline").splitlines()) == commits
    assert git(snapshot, "status", "--porcelain", "--branch").splitlines()[0].startswith("## main")
    found = [*BOTH, "refs/remotes/origin/theirs", "refs/tags/v1"]
    assert refs(snapshot) == (BOTH if depth.strip() in ("", "1", "2", "9") else found)
    ran(text, snapshot)  # a second checkout changes nothing
    assert len(git(snapshot, "log", "--oneline").splitlines()) == commits


@pytest.mark.parametrize(
    ("ref", "given", "branch", "there"),
    [
        ("refs/heads/it's/$x", {}, "it's/$x", ["refs/heads/it's/$x", "refs/remotes/origin/it's/$x"]),
        ("refs/tags/v1", {}, "", ["refs/tags/v1"]),
        ("refs/pull/1/merge", {}, "", ["refs/remotes/pull/1/merge"]),
        ("refs/pull/1/merge", {"ref": "topic"}, "topic", ["refs/heads/topic", "refs/remotes/origin/topic"]),
        ("refs/heads/main", {"ref": "a" * 40}, "", []),
        ("refs/heads/main", {"ref": "old"}, "", []),
    ],
)
@pytest.mark.parametrize("path", ["", pytest.param("deep/sub", marks=pytest.mark.slow)])
@pytest.mark.parametrize("tags", [False, True])
def test_one_ref_is_fetched(
    snapshot: Path, ref: str, given: dict[str, str], branch: str, there: list[str], path: str, tags: bool
) -> None:
    made = step(kind="checkout", inputs={**given, "path": path, "fetch-tags": str(tags)})
    github = {**GITHUB, "ref": ref, "ref_name": ref.split("/", 2)[2], "head_ref": "topic" if "pull" in ref else ""}
    shutil.copytree(snapshot, snapshot / path) if path else None
    ran(checkout_of(made, str, github, submodules=False, history=True).script, snapshot)
    assert refs(snapshot / path) == sorted({*there, *(["refs/tags/v1"] if tags else [])})
    assert not tags or git(snapshot / path, "cat-file", "-t", "refs/tags/v1") == "tag", "as it is there"
    assert git(snapshot / path, "branch", "--show-current") == branch
    assert git(snapshot / path, "log", "-1", "--format=%s") == ("old" if given.get("ref") == "old" else "newest")
    assert not path or git(snapshot, "log", "-1", "--format=%s") == "newest", "above it, nothing has changed"
