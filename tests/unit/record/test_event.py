"""`--event`: what a run stands for is seen by rules and steps, and kept by every way to run it again."""

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [test]
nightly:
  stage: test
  rules: [{if: $CI_PIPELINE_SOURCE == "schedule"}]
  script: ['echo "event $LOOM_EVENT, source $CI_PIPELINE_SOURCE, default $LOOM_CI"', exit 3]
pushed:
  stage: test
  rules: [{if: $CI_PIPELINE_SOURCE == "push"}]
  script: [exit 0]
"""


def test_a_run_stands_for_a_push_by_default(make: Make) -> None:
    project = make(WORKFLOW)
    assert "✓ pushed" in project.loom("run", "--local")


def test_the_event_is_kept_by_rerun_resume_and_the_command_to_run_it_again(make: Make) -> None:
    project = make(WORKFLOW)
    project.loom("run", "--local", "--event", "schedule", code=1)
    assert "loom run --event schedule nightly" in project.loom("diagnose", "--format", "agent")
    said = "event schedule, source schedule, default true"
    for command in (["resume", "--from", "nightly:1"], ["rerun"], ["rerun", "--fresh"]):
        project.loom(*command, "--stream", code=1)
        assert said in project.loom("logs", "last", "nightly")
