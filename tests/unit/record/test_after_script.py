"""What `after_script` may take, and what the record has of it: it never changes a job's result."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.loom_process import run_loom

from .conftest import Make, Project

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [s]
a:
  stage: s
  {more}
  script: [{script}]
  after_script: {after}
"""


def manifest_of(project: Project) -> Any:
    return json.loads((project.last().paths.logs / "jobs/a/manifest.json").read_bytes())


@pytest.mark.parametrize(("script", "code", "status"), [("echo hi", 0, "success"), ("exit 3", 1, "failure")])
def test_a_step_of_it_may_take_the_step_timeout(make: Make, script: str, code: int, status: str) -> None:
    project = make(WORKFLOW.format(more="step_timeout: 3s", script=script, after='["sleep 60", "echo still"]'))
    output = project.loom("run", "--local", code=code)
    manifest = manifest_of(project)
    text = "after_script/01 ran out of time and was ended; each of its steps may take 3s (`step_timeout`)"
    assert manifest["warnings"] == [text]
    assert f"! a         {text}" in output
    assert (manifest["status"], manifest["failing_step"]) == (status, "script/01" if code else None)
    steps = {step["step"]: step["status"] for step in manifest["steps"]}
    assert (steps["after_script/01"], steps["after_script/02"]) == ("timed_out", "success")


def test_all_of_it_shares_a_time_where_no_step_timeout_is_set(make: Make) -> None:
    project = make(WORKFLOW.format(more="timeout: 1h", script="echo hi", after='["echo quick", "sleep 60", "echo no"]'))
    shorter = (
        "import sys; from loom.runner import steps; steps.AFTER_SCRIPT_TIMEOUT_S = 3;"
        "from loom.cli.boundary import run_app; sys.exit(run_app(sys.argv[1:]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", shorter, "run", "--local"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    limit = "all of it may take 3s where no `step_timeout` says otherwise"
    manifest = manifest_of(project)
    assert manifest["warnings"] == [
        f"after_script/02 ran out of time and was ended; {limit}",
        f"after_script/03 was not run: those before it had used up the time; {limit}",
    ]
    assert [step["step"] for step in manifest["steps"]] == ["script/01", "after_script/01", "after_script/02"]


@pytest.mark.parametrize(
    ("script", "code", "status", "exit_code"), [("echo hi", 0, "success", None), ("exit 3", 1, "failure", 3)]
)
def test_a_step_of_it_that_fails_is_told(
    make: Make, script: str, code: int, status: str, exit_code: int | None
) -> None:
    project = make(WORKFLOW.format(more="retry: 0", script=script, after='["echo gone >&2; exit 9", "echo still"]'))
    output = project.loom("run", "--local", code=code)
    manifest = manifest_of(project)
    text = "after_script/01 failed with exit code 9; `after_script` does not change the job's result"
    assert (manifest["status"], manifest["exit_code"], manifest["warnings"]) == (status, exit_code, [text])
    assert f"! a         {text}" in output
    assert project.loom("show") == output


def test_who_enters_the_session_later_learns_that_it_ran(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n  script: [mkdir build, echo x > kept.txt, exit 1]\n"
        "  after_script: [rm -r build, echo y > kept.txt]\n"
    )
    project.loom("run", "--local", code=1)
    inside = run_loom(["exec", "a", "--", "ls"], cwd=project.root, environ=project.environ)
    note = "after_script has run here since script/03"
    assert f"loom: {note}; `loom run --stop-at failure` stops before it" in inside.stderr.splitlines()
    assert f"a: {note}" in project.loom("resume", code=1)
