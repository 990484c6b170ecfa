"""A job that ran out of time names the limit, and where it is set."""

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [test]
a:
  stage: test
{limit}
  script: [sleep 60]
"""


@pytest.mark.parametrize(
    ("limit", "environ", "said"),
    [
        ("  timeout: 300ms", {}, "the job may take 300ms (`timeout`, .loom/workflow.yml:5)"),
        ("  step_timeout: 300ms", {}, "a step may take 300ms (`step_timeout`, .loom/workflow.yml:5)"),
        ("", {"LOOM_JOB_TIMEOUT": "300ms"}, "the job may take 300ms (`job_timeout`, environment (LOOM_JOB_TIMEOUT))"),
        ("  step_timeout: 20s\n  timeout: 300ms", {}, "the job may take 300ms (`timeout`, .loom/workflow.yml:6)"),
    ],
)
def test_the_limit_is_named(make: Make, limit: str, environ: dict[str, str], said: str) -> None:
    project = make(WORKFLOW.format(limit=limit))
    assert f"script/01 ran out of time: {said}" in project.loom("run", "--local", code=4, **environ)
