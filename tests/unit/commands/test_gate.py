"""Which commit and event each ref of a push is, and which earlier run counts for a job; jobs run on this machine."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from loom.commands.gate.checked_commit import CommitFinder
from loom.commands.gate.gate import _grown
from loom.commands.gate.hook import _pushed, gate_install, gate_pre_push, gate_uninstall
from loom.commands.plan.contexts import NO_COMMIT
from loom.commands.project import open_project
from loom.errors import RequestError
from loom.plan.model import Job, Plan, Step
from loom.record.proofs import JobProof, RunProof
from loom.status import Status
from tests.support.loom_process import run_loom

NONE = "0" * 40


class Checkout:
    def __init__(self, folder: Path) -> None:
        self.root, self.home = folder / "root", folder / "home"
        self.root.mkdir()
        self.home.mkdir()
        self.git("init", "-q", "-b", "main")

    @property
    def environ(self) -> dict[str, str]:
        who = {f"GIT_{role}_{part}": "a" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        accept = "not-isolated,other-commit"
        home = {"HOME": str(self.home), "TMPDIR": str(self.home), "PATH": os.environ["PATH"]}
        return {**home, **who, "LOOM_CONTAINER": "0", "LOOM_GATE_ACCEPT": accept}

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ("git", *words), cwd=self.root, env=self.environ, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout.strip()

    def commit(self, text: str) -> str:
        (self.root / "file").write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", text)
        return self.git("rev-parse", "HEAD")

    def loom(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_loom(words, cwd=self.root, environ=self.environ)

    def gate(self, *words: str) -> dict[str, str]:
        """Return what counted for each job."""
        done = self.loom("gate", "--json", *words)
        assert done.stdout, done.stderr
        return {one["job_id"]: one["text"].partition(";")[0] for one in json.loads(done.stdout)["jobs"]}

    def runs(self) -> list[str]:
        """Return the runs, the oldest first."""
        return sorted(path.name for path in (self.home / ".local/state/loom/runs").iterdir())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_each_ref_of_a_push_is_an_event_of_its_own(checkout: Checkout) -> None:
    one, two = checkout.commit("one"), checkout.commit("two")
    checkout.git("tag", "-a", "-m", "v", "v1", one)
    annotated = checkout.git("rev-parse", "v1")
    finder = CommitFinder(open_project(root=checkout.root))

    def pushed(*lines: str) -> list[tuple[str, ...]]:
        found = _pushed(finder, [f"local {line}" for line in lines])
        return [(each.sha, each.event, each.branch, each.tag, each.base) for each in found]

    to_main = (two, "push", "main", "", one)
    assert pushed(f"{two} refs/heads/main {one}") == [to_main]
    assert pushed(f"{two} refs/heads/a/b {NONE}") == [(two, "push", "a/b", "", NO_COMMIT)]
    assert pushed(f"{one} refs/heads/main {two}") == [(one, "push", "main", "", NO_COMMIT)], "forced"
    assert pushed(f"{two} refs/heads/main {two}") == [(two, "push", "main", "", NO_COMMIT)]
    assert pushed(f"{annotated} refs/tags/v1 {NONE}") == [(one, "tag", "", "v1", NO_COMMIT)]
    nothing = (f"{NONE} refs/heads/main {one}", f"{two} refs/notes/loom {NONE}", "")
    assert pushed(f"{two} refs/heads/main {one}", *nothing[:2], f"{two} refs/heads/main {one}") == [to_main]
    [commit] = _pushed(finder, [f"local {two} refs/heads/main {one}"])
    assert [commit.request(accepted, trust=False, workflow=None).no_cache for accepted in ((), ("cache",))] == [
        True,
        False,
    ]
    with pytest.raises(RequestError, match="no UTF-8"):
        pushed(f"{two} refs/heads/\udcff {one}")
    with pytest.raises(RequestError, match="no line of a pre-push hook"):
        pushed("something else")


def test_a_hook_comes_and_goes_and_leaves_what_was_there(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checkout.commit("one")
    monkeypatch.chdir(checkout.root)
    monkeypatch.setenv("HOME", str(checkout.home))
    hook = checkout.root / ".git/hooks/pre-push"
    hook.unlink(missing_ok=True)
    gate_install()
    assert hook.stat().st_mode & 0o111 == 0o111
    capfd.readouterr()
    monkeypatch.setattr(sys, "stdin", StringIO())
    assert gate_pre_push(trust=False) == 0
    assert capfd.readouterr() == ("", ""), "nothing is pushed"
    gate_uninstall()
    assert not hook.exists()
    text = "#!/bin/sh -e\nexit 0\n"
    hook.write_text(text)
    hook.chmod(0o750)
    for _ in range(2):  # the second one changes nothing
        gate_install()
        assert hook.read_text().count("gate pre-push") == 1
    gate_uninstall()
    assert (hook.read_text(), hook.stat().st_mode & 0o777) == (text, 0o751)
    for other in (text, f"{text}# >>> loom gate\n"):
        hook.write_text(other)
        with pytest.raises(RequestError, match="does not ask loom gate"):
            gate_uninstall()
        assert hook.read_text() == other


@pytest.mark.slow
def test_the_last_run_of_the_same_job_decides(checkout: Checkout, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("good")
    (checkout.root / ".gitlab-ci.yml").write_text(f"unit: {{script: [grep good file, 'grep good {outside}']}}\n")
    checkout.commit("good")
    assert checkout.gate()["unit"].startswith("passed in run ")
    (first,) = checkout.runs()
    checkout.commit("wrong")
    assert checkout.gate()["unit"].startswith("failure")
    checkout.commit("good")
    assert checkout.gate("--dry-run")["unit"] == f"shown by run {first}", "a failure of other files says nothing"
    assert checkout.loom("run", "--reuse").returncode == 0
    assert checkout.gate("--dry-run")["unit"] == f"shown by run {first}", (
        "a result that was taken over is not another one"
    )
    outside.write_text("bad")
    assert checkout.loom("run").returncode == 1
    assert checkout.gate("--dry-run")["unit"] == "has to run"
    outside.write_text("good")
    assert checkout.loom("run").returncode == 0
    assert checkout.gate("--dry-run")["unit"] == f"shown by run {checkout.runs()[-1]}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("git@github.com:a/b.git", {"on-github": "has to run"}),
        ("https://gitlab.example/a/b", {"on-gitlab": "has to run"}),
        ("/srv/b.git", {"own": "has to run"}),
    ],
)
def test_of_several_workflows_the_one_of_the_server_counts(
    checkout: Checkout, url: str, expected: dict[str, str]
) -> None:
    for path, text in {
        ".loom/workflow.yml": "version: v1\nstages: [build]\nown: {stage: build, script: [echo]}\n",
        ".gitlab-ci.yml": "on-gitlab: {script: [echo]}\n",
        ".github/workflows/ci.yml": "on: push\njobs: {on-github: {runs-on: ubuntu-latest, steps: [{run: true}]}}\n",
    }.items():
        (checkout.root / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout.root / path).write_text(text)
    checkout.commit("all")
    checkout.git("remote", "add", "origin", url)
    assert checkout.gate("--dry-run") == expected


def test_what_a_gate_foretells_of_each_job(checkout: Checkout) -> None:
    (checkout.root / ".gitlab-ci.yml").write_text("""\
stages: [build, test, deploy]
by-hand: {script: x, stage: build, when: manual, allow_failure: false}
if-wanted: {script: x, stage: build, when: manual}
lint: {script: x, stage: build, allow_failure: true}
report: {script: x, stage: build, when: on_failure}
unit: {script: x, stage: test}
pack: {script: x, stage: deploy, needs: [unit]}
docs: {script: x, stage: test, needs: [if-wanted]}
windows: {script: x, needs: [], tags: [windows]}
asks: {script: x, needs: [], rules: [{if: $OF_THE_SERVER}]}
release: {script: x, stage: deploy, needs: [], environment: production}
""")
    checkout.commit("one")
    assert checkout.gate("--dry-run") == {
        "by-hand": "manual: nobody starts it",
        "if-wanted": "manual: nobody starts it",
        "lint": "may fail",
        "report": "runs after a failure alone",
        "unit": "waits for by-hand, which is manual, as in CI",
        "pack": "waits for by-hand, which is manual, as in CI",
        "docs": "has to run",
        "windows": "left out: its tag windows is of runners with Windows",
        "asks": "left out: none of its rules matches: $OF_THE_SERVER is not set",
        "release": "left out: it deploys",
    }


def test_jobs_that_came_into_being_in_a_run_are_judged_too() -> None:
    done = Step(phase="script", number=1, script=":")
    plan = Plan(
        workflow_path="",
        stages=("s",),
        jobs=(Job(id="known", name="known", stage="s", steps=(done,), provider="host"),),
    )
    jobs = (
        JobProof(job_id="known", status=Status.FAILURE),
        JobProof(job_id="good", status=Status.SUCCESS),
        JobProof(job_id="skipped", status=Status.SKIPPED),
        JobProof(job_id="allowed", status=Status.FAILURE, allowed=True),
        JobProof(job_id="accepted", status=Status.SUCCESS, unlike=("cache",)),
        JobProof(job_id="unlike", status=Status.SUCCESS, unlike=("cache", "edited")),
        JobProof(job_id="bad", status=Status.FAILURE, unlike=("edited",)),
    )
    proof = RunProof(run_id="7", tree="", commit="", record="", jobs=jobs)
    assert [(one.job_id, one.state, one.run_id) for one in _grown(plan, proof, frozenset({"cache"}))] == [
        ("good", "passed", "7"),
        ("skipped", "passed", "7"),
        ("allowed", "passed", "7"),
        ("accepted", "passed", "7"),
        ("unlike", "doubtful", "7"),
        ("bad", "failed", "7"),
    ]
    assert not [*_grown(plan, None, frozenset())]


@pytest.mark.slow
def test_a_submodule_that_was_not_pushed_is_no_green(checkout: Checkout, tmp_path: Path) -> None:
    allow = ("-c", "protocol.file.allow=always")
    checkout.commit("one")
    for name in ("deep", "lib"):
        checkout.git("clone", "-q", "--bare", ".", str(tmp_path / name))
        checkout.git(*allow, "clone", "-q", str(tmp_path / name), str(tmp_path / f"{name}.work"))
    lib = str(tmp_path / "lib.work")
    checkout.git(*allow, "-C", lib, "submodule", "--quiet", "add", str(tmp_path / "deep"), "deep")
    checkout.git("-C", lib, "commit", "-q", "-m", "with deep")
    checkout.git("-C", lib, "push", "-q")
    checkout.git(*allow, "submodule", "--quiet", "add", str(tmp_path / "lib"), "a b")
    checkout.git(*allow, "submodule", "--quiet", "update", "--init", "--recursive")
    (checkout.root / ".gitlab-ci.yml").write_text("unit: {script: ['true']}\n")
    checkout.commit("with submodules")
    assert checkout.loom("gate").returncode == 0
    for inner in ("a b/deep", "a b"):
        checkout.git("-C", inner, "commit", "-q", "--allow-empty", "-m", "here alone")
        for above in ["a b"] if inner != "a b" else []:
            checkout.git("-C", above, "commit", "-q", "-a", "-m", "with it")
            checkout.git("-C", above, "push", "-q", "origin", "HEAD:main")
        checkout.commit(f"with {inner}")
        done = checkout.loom("gate")
        assert (done.returncode, f"git -C '{inner}' push" in done.stdout) == (1, True), done.stdout
        assert done.stdout.count("git -C") == 1
        checkout.git("-C", inner, "push", "-q", "origin", "HEAD:main")
        assert checkout.loom("gate").returncode == 0
