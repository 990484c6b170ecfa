"""resume and rerun, by jobs on this machine: which jobs, which steps, which options; the files are in test_sync and test_debug."""

from __future__ import annotations

import json

from .conftest import Make

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
    receipt = project.last().receipt
    assert receipt is not None
    assert (receipt["status"], receipt["error"]) == ("failure", f"b: failed in run {first}, and did not run again")
    for arguments in ((), ("last", "b")):
        found = json.loads(project.loom("diagnose", *arguments, "--json"))
        assert (found["run_id"], found["job_id"], found["lines"]) == (first, "b", ["why b failed"])
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
