"""`loom bisect`: the commit since which a job fails, without touching the checkout."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jsonschema
import pytest

from loom.analysis.bisection import Order, Verdict, left_of
from loom.commands.record.schema import record_schema
from tests.unit.commands.test_gitlab_runs import Project
from tests.unit.commands.test_gitlab_runs import project as project

pytestmark = pytest.mark.slow

WORKFLOW = """
test:
  script:
    - if [ "$(cat n.yml)" = 5 ]; then exit 125; fi
    - if [ "$(cat n.yml)" -ge 7 ]; then echo "error. n is $(cat n.yml)"; exit 3; fi
"""


def history(project: Project, numbers: Iterable[int] = range(1, 11)) -> None:
    """Make commits of which number 4 has no valid workflow, 5 is skipped, and 7 is the first bad one."""
    for number in numbers:
        project.write(n=f"{number}\n", gitlab="test: {script: 3}" if number == 4 else WORKFLOW)


def subject(project: Project, commit: str) -> str:
    asked = ["git", "show", f"{commit}:n.yml"]
    return subprocess.run(asked, check=True, cwd=project.root, capture_output=True, text=True).stdout.strip()


def test_the_first_bad_commit_is_found_in_checkouts_apart(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    history(project)
    monkeypatch.setenv("GIT_DIR", str(project.root / ".git"))  # as in a hook of git's
    (project.root / "n.yml").write_text("0\n")
    (project.root / "not committed").touch()
    (project.root / ".loom").mkdir()
    (project.root / ".loom" / "workflow.yml").write_text("of today: no workflow")
    code, out, err = project.loom("bisect", "test", "HEAD~9", "--no-container", "--json", "-j", "2")
    assert code == 0, err
    found = json.loads(out)
    jsonschema.validate(found, record_schema("output"))
    verdicts = {subject(project, each["commit"]): each["verdict"] for each in found["tested"]}
    assert subject(project, found["first_bad"]["sha"]) == "7"
    assert all(
        verdict == ("skip" if number in "45" else "bad" if int(number) >= 7 else "good")
        for number, verdict in verdicts.items()
    )
    assert {"6", "7"} <= verdicts.keys()
    assert found["diagnosis"]["telling_line"] == "error. n is 7"
    assert (project.root / "n.yml").read_text() == "0\n"
    assert project.runs() == []  # none of them is a run of this checkout
    status = subprocess.run(
        ["git", "status", "--short", "--branch"], cwd=project.root, capture_output=True, text=True, check=True
    )
    assert status.stdout == '## main\n M n.yml\n?? .loom/\n?? "not committed"\n'


def test_where_all_others_are_skipped_the_candidates_are_named(project: Project) -> None:
    history(project, (3, 4, 5, 9))
    code, out, err = project.loom("bisect", "test", "HEAD~3", "--no-container")
    assert (code, "one of:" in out) == (2, True), out + err
    assert out.count("skip ") == 2
    assert "GL_INVALID" in out
    assert "exit code 125" in out


def test_commits_that_are_not_as_they_were_named_are_told(project: Project) -> None:
    history(project, (1, 2, 7, 8))
    for words, says in ((("HEAD~1", "HEAD"), "named as good, is bad"), (("HEAD~3", "HEAD~2"), "named as bad, is good")):
        code, out, err = project.loom("bisect", "test", *words, "--no-container")
        assert (code, says in err) == (2, True), out + err


def test_an_interrupted_bisection_goes_on(project: Project) -> None:
    history(project, (6, 7, 8))
    words = ["bisect", "test", "HEAD~2", "--no-container"]
    with subprocess.Popen(
        [sys.executable, "-m", "loom", *words],
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "the same command goes on from here" in rest
    code, out, _ = project.loom(*words)
    assert code == 0
    assert "goes on with" in out
    assert first not in out
    assert "first bad commit" in out
    assert "goes on with" not in project.loom(*words)[1]  # it is over


def test_each_commit_has_its_own_submodules(project: Project, tmp_path: Path) -> None:
    inner = Project(tmp_path / "home", project._capsys)
    for number in range(1, 5):
        inner.write(n=f"{number}\n")
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.root), "lib/inner")
    for number in range(1, 5):
        project.git("-C", "lib/inner", "checkout", "-q", f"main~{4 - number}")
        project.write(
            gitlab="test: {variables: {GIT_SUBMODULE_STRATEGY: normal}, script: [test $(cat lib/inner/n.yml) -lt 3]}",
            n=f"{number}\n",
        )
    code, out, err = project.loom("bisect", "test", "HEAD~3", "--no-container", "--json")
    assert (code, subject(project, json.loads(out)["first_bad"]["sha"])) == (0, "3"), err
    shutil.rmtree(project.root / "lib")
    code, _, err = project.loom("bisect", "test", "HEAD~3", "--no-container")
    assert (code, "submodule lib/inner of commit" in err) == (3, True), err


def test_a_range_without_sense_is_refused(project: Project) -> None:
    history(project, (1, 2, 3))
    for good, bad in (("HEAD", "HEAD~1"), ("HEAD", "HEAD"), ("nowhere", "HEAD")):
        code, out, err = project.loom("bisect", "test", good, bad, "--no-container")
        assert code == 2, out + err
    code, _, err = project.loom("bisect", "test", "HEAD~1", "--no-container")
    assert (code, "which you named as bad, is good" in err) == (2, True), err


@pytest.fixture(scope="module")
def long_history(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Order]:
    tmp_path = tmp_path_factory.mktemp("history")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    stream = "".join(
        f"commit refs/heads/main\nmark :{n}\ncommitter t <t@e> {n} +0000\ndata {len(str(n))}\n{n}\n"
        for n in range(1, 502)
    )
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "fast-import", "--quiet"], input=stream.encode(), check=True)
    listed = subprocess.run([*git, "rev-list", "--reverse", "main"], check=True, capture_output=True, text=True)
    commits = listed.stdout.split()

    def order(bad: str, good: Sequence[str]) -> list[str]:
        asked = [*git, "rev-list", "--bisect-all", bad, "--not", *good]
        found = subprocess.run(asked, check=True, capture_output=True, text=True)
        return [line.split()[0] for line in found.stdout.splitlines()]

    return commits, order


def test_500_commits_take_nine_runs(long_history: tuple[list[str], Order]) -> None:
    commits, order = long_history
    for first_bad in (1, 137, 500):
        for at_once, most in ((1, 9), (3, 6)):
            results: dict[str, Verdict] = {}
            rounds = 0
            while (left := left_of(order, commits[0], commits[-1], results, at_once)).next:
                results |= {each: "bad" if commits.index(each) >= first_bad else "good" for each in left.next}
                rounds += 1
            assert left.candidates == [commits[first_bad]]
            assert rounds <= most


def test_skipped_commits_are_jumped_over(long_history: tuple[list[str], Order]) -> None:
    """200 commits, of which 100 are broken; where the first bad one is not among them, few of these run."""
    commits, order = long_history
    commits = commits[:201]
    for first_bad in (20, 45, 160, 199):
        results: dict[str, Verdict] = {}
        while (left := left_of(order, commits[0], commits[-1], results, 1)).next:
            (one,) = left.next
            number = commits.index(one)
            results[one] = "skip" if 50 <= number < 150 else "bad" if number >= first_bad else "good"
        assert left.candidates == [commits[first_bad]]
        assert len(results) <= 16


def test_another_failure_and_an_image_that_is_gone_are_skipped(project: Project) -> None:
    """The bad commit is run first: its failure is the one that is looked for, also of a job that may fail."""
    for number in range(1, 10):
        says = "a" if number >= 7 else "b"
        fails = number in (4, 5) or number >= 7
        script = f"echo 'FAILED t.py::{says} - assert {number} == 1'; exit 3" if fails else "true"
        builds = "{dockerfile: Dockerfile}" if number == 3 else "none"
        project.write(gitlab=f'test: {{allow_failure: true, script: ["{script}"]}} # {builds}', n=f"{number}\n")
    code, out, err = project.loom("bisect", "test", "HEAD~8", "--no-container", "--json")
    found = json.loads(out)
    tested = {subject(project, each["commit"]): each for each in found["tested"]}
    assert (code, subject(project, found["first_bad"]["sha"])) == (0, "7"), err
    assert [subject(project, each["commit"]) for each in found["tested"]][:2] == ["9", "1"]
    assert all(each["verdict"] == "skip" for number, each in tested.items() if number in "45")
    skipped = next(each for number, each in tested.items() if number in "45")
    assert "another failure: other failures" in skipped["reason"]
    assert "only here: t.py::b" in skipped["reason"]
