"""resume and rerun, by jobs on this machine: which jobs, which steps, which options; the files are in test_sync and test_debug."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.loom_process import run_loom

from .conftest import Make, Project
from .test_contract import validate

pytestmark = pytest.mark.slow

TWO = """
version: v1
stages: [test, publish]
a:
  stage: test
  script: [echo in a, test -e fix-a]
b:
  stage: test
  script: [echo in b, 'echo why b failed; test -e fix-b']
after:
  stage: publish
  script: [echo after]
"""


def test_a_job_that_failed_earlier_and_does_not_run_again_still_counts(make: Make) -> None:
    project = make(TWO)
    project.loom("run", "--local", code=1)
    first = project.last().run_id
    (project.root / "fix-a").touch()
    resumed = project.loom("resume", "--from", "a", "--sync", code=1)
    assert f"b does not run again: it failed in run {first}" in resumed
    assert "✓ a" in resumed
    assert "jobs failed" not in resumed
    receipt = project.last().receipt
    assert receipt is not None
    assert (receipt.status, receipt.error) == ("failure", f"b: failed in run {first}, and did not run again")
    for arguments in ((), ("last", "b")):
        found = json.loads(project.loom("diagnose", *arguments, "--json"))
        assert (found["run_id"], found["job_id"], found["lines"]) == (first, "b", ["why b failed"])
        assert (found["others"], found["same_failure"]) == ([], [])
    assert project.loom("exec", "--", "sh", "-c", "echo $LOOM_JOB_NAME") == "b\n"
    (project.root / "fix-b").touch()
    healed = project.loom("resume", "--sync")
    assert "b goes on from script/02" in healed
    assert "✓ after" in healed
    assert "▸ a  " not in healed
    assert project.loom("diagnose").startswith(f"run {project.last().run_id} passed")


def test_rerun_fresh_asks_for_the_same_as_the_run(make: Make) -> None:
    workflow = """
version: v1
stages: [test, publish]
variables: {WHO: nobody}
a:
  stage: test
  script: ['echo for $WHO']
b:
  stage: publish
  script: [echo in b]
"""
    project = make(workflow)
    project.loom("run", "--local", "--var", "WHO=you", "--stage", "test")
    (project.root / ".loom/workflow.yml").write_text(workflow + "c:\n  stage: test\n  script: ['echo c for $WHO']\n")
    fresh = project.loom("rerun", "--fresh", "--stream")
    assert "for you" in fresh
    assert "c for you" in fresh
    assert "in b" not in fresh
    project.loom("rerun", "--fresh", "--failed", code=2)


MENDED = """
version: v1
stages: [build, test, publish]
before:
  stage: build
  script: [echo in before]
unit:
  stage: test
  variables: {COLOUR: green}
  before_script: [echo made > made.txt]
  script:
    - echo one
    - echo the old step; exit 3
    - echo three
after:
  stage: publish
  script: [echo the old after]
"""


def workflow_of(project: Project, text: str) -> None:
    (project.root / ".loom/workflow.yml").write_text(text)


def test_sync_runs_the_present_steps_from_the_failing_one_on(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    mended = MENDED.replace("echo the old step; exit 3", "cat made.txt; echo mended\n    - echo added").replace(
        "old after", "new after"
    )
    workflow_of(project, "# one line more\n" + mended)
    told = project.loom("resume", "--stream", code=1)
    assert "the workflow has changed since the run (unit: step script/02 (.loom/workflow.yml:14)): resume runs" in told
    assert "the old step" in told
    healed = project.loom("resume", "--sync", "--stream")
    assert "the present workflow runs from here on (unit: step script/02 (.loom/workflow.yml:14))" in healed
    assert [line for line in ("mended", "added", "three", "the new after") if line not in healed] == []
    assert "unit │ one" not in healed
    project.loom("resume", "--from", "unit:2", "--sync")  # of the plan that the last run had


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("echo one", "echo another", "unit: step script/01 (.loom/workflow.yml:12) has changed"),
        (
            "[echo made > made.txt]",
            "[echo made > made.txt, 'true']",
            "unit: step script/01 (.loom/workflow.yml:10) has changed",
        ),
        ("green", "blue", "unit: variables has changed"),
        ("[echo in before]", "[echo in before, 'true']", "before: step script/02 (.loom/workflow.yml:6) has changed"),
        ("\nunit:", "\nunits:", "unit: the present workflow does not run it"),
        ("    - echo the old step; exit 3\n    - echo three\n", "", "unit: no step is left from script/02 on"),
    ],
)
def test_sync_names_what_has_changed_of_what_ran_already(make: Make, old: str, new: str, message: str) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    (project.root / "new").touch()
    workflow_of(project, MENDED.replace(old, new))
    ran = run_loom(("resume", "--sync"), cwd=project.root, environ=project.environ)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "loom rerun " in ran.stderr
    assert project.loom("resume", code=1)


def test_a_workflow_with_a_mistake_is_told_or_refused(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    workflow_of(project, "version: v1\nstages: nothing\n")
    assert "the workflow has changed since the run (" in project.loom("resume", code=1)
    project.loom("resume", "--sync", code=2)


def test_a_refused_sync_leaves_nothing_behind(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    before = sorted((project.home / "workspaces").iterdir())
    (project.root / "made.txt").write_text("of the checkout\n")
    ran = run_loom(("resume", "--sync"), cwd=project.root, environ=project.environ)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "unit: made.txt (changed in the job's files as well)" in ran.stderr
    assert sorted((project.home / "workspaces").iterdir()) == before
    assert "kept the job's made.txt" in project.loom("resume", "--sync=ours", code=1)
    assert "nothing to sync" in project.loom("resume", "--sync", code=1)
    pulled = run_loom(("pull", "--apply"), cwd=project.root, environ=project.environ)
    assert (pulled.returncode, pulled.stdout) == (2, "")
    assert "conflict: made.txt: changed in the checkout before --sync=ours" in pulled.stderr
    assert (project.root / "made.txt").read_text() == "of the checkout\n"


def test_the_present_workflow_needs_your_consent(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    (project.root / "new").touch()
    workflow_of(project, MENDED.replace("script: [echo the", 'secrets: {T: {ref: "env://HOME"}}\n  script: [echo the'))
    ran = run_loom(("resume", "--sync"), cwd=project.root, environ=project.environ)
    assert (ran.returncode, ran.stderr.partition(":")[0]) == (2, "loom")
    assert "TRUST_REQUIRED" in ran.stderr


def test_a_checkout_that_is_gone_can_not_be_synced(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    run_id = project.last().run_id
    project.root.rename(project.root.with_name("elsewhere"))
    ran = run_loom(("resume", run_id, "--sync"), cwd=project.home, environ=project.environ)
    assert (ran.returncode, ran.stderr.partition(":")[0]) == (2, "loom")
    assert str(project.root) in ran.stderr


def test_a_record_from_elsewhere_asks_for_nothing_here(make: Make) -> None:
    project = make(MENDED)
    project.loom("run", "--local", code=1)
    entry = project.last()
    record = project.home / "copied" / entry.run_id
    shutil.copytree(entry.paths.root, record)
    for arguments in (("resume", str(record), "--sync"), ("rerun", str(record), "--fresh")):
        ran = run_loom(arguments, cwd=project.root, environ=project.environ)
        assert ran.returncode == 2
        assert "is not a record of this user's runs" in ran.stderr


def test_what_a_job_changed_as_documents(make: Make) -> None:
    project = make(
        "version: v1\nstages: [test]\na: {stage: test, script: [echo made > file; echo new > new; mkfifo pipe; exit 1]}\n"
    )
    (project.root / "file").write_text("of the checkout\n")
    project.loom("run", "--local", code=1)
    (project.root / "new").write_text("mine\n")
    directory = json.loads(project.loom("workspace", "a", "--json"))
    validate("workspace", directory)
    assert Path(directory["path"], "file").read_text() == "made\n"
    assert directory["job_id"] == "a"
    shown = json.loads(project.loom("pull", "--json"))
    validate("pull", shown)
    assert shown["changes"] == [{"path": "file", "kind": "modified", "replaced": None}]
    assert "-of the checkout\n+made\n" in shown["patch"]
    assert [each["path"] for each in shown["conflicts"]] == ["new"]
    assert [each["path"] for each in shown["left_out"]] == ["pipe"]
    applied = json.loads(project.loom("pull", "--apply", "--json", code=2))
    validate("pull", applied)
    [changed] = applied["changes"]
    copy = ("git", "cat-file", "blob", changed["replaced"])
    assert subprocess.run(copy, cwd=project.root, check=True, capture_output=True).stdout == b"of the checkout\n"
    assert (project.root / "file").read_text() == "made\n"
    validate("version", json.loads(project.loom("version", "--json")))


def test_a_run_with_jobs_of_this_machine_can_be_neither_left_nor_attached_to(make: Make) -> None:
    project = make(TWO)

    def refusal(*arguments: str) -> str:
        refused = run_loom(arguments, cwd=project.root, environ=project.environ)
        assert refused.returncode == 2
        return refused.stderr

    assert "job a runs on this machine, and would end with loom" in refusal("run", "--local", "--detach")
    project.loom("run", "--local", code=1)
    assert "does not go on: its status is failure" in refusal("attach")


def test_who_enters_the_session_later_learns_that_after_script_ran(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n  script: [mkdir build, echo x > kept.txt, exit 1]\n"
        "  after_script: [rm -r build, echo y > kept.txt]\n"
    )
    project.loom("run", "--local", code=1)
    inside = run_loom(["exec", "a", "--", "ls"], cwd=project.root, environ=project.environ)
    note = "after_script has run here since script/03"
    assert f"loom: {note}; `loom run --stop-at failure` stops before it" in inside.stderr.splitlines()
    assert f"a: {note}" in project.loom("resume", code=1)
