"""Each case of tests/gitlab/cases has the jobs that a push has in GitLab: `expected.yml` beside it, or is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from loom.errors import WorkflowError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from loom.workflow.dialects import load
from tests.support.gitlab import PUSH
from tests.support.plans import as_declared

CASES = Path(__file__).parents[2] / "gitlab/cases"


def planned(folder: Path) -> Plan:
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    context = ResolveContext(predefined=PUSH, files=lambda: files)
    loaded = load(folder / ".gitlab-ci.yml", folder, lambda: context)
    return as_declared(resolve(loaded, JobSelection(container=True), context))


def shown(plan: Plan) -> dict[str, Any]:
    """Stage, `when` and needs of each job, by the name that GitLab prints."""
    titles = {job.id: job.variables.get("CI_JOB_NAME", job.name) for job in plan.jobs}
    return {
        titles[job.id]: [
            job.stage,
            "delayed" if job.delay_s is not None else job.when,
            *([] if job.needs is None else [[titles[need.job] for need in job.needs]]),
        ]
        for job in plan.jobs
    }


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_a_case_has_the_jobs_that_a_push_has_in_gitlab(name: str) -> None:
    expected = yaml.load((CASES / name / "expected.yml").read_text(), yaml.CSafeLoader)
    if isinstance(expected, str):
        with pytest.raises(WorkflowError) as refused:
            planned(CASES / name)
        assert [one.message for one in refused.value.problems] == [expected]
    else:
        found = shown(planned(CASES / name))
        assert (found, list(found)) == (expected, list(expected))
