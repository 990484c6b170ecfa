"""Each case of tests/gitlab/cases has the jobs that a push has in GitLab: `expected.yml` beside it, or is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from loom.errors import WorkflowError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from loom.util.yaml_file import one_or_more
from loom.workflow.dialects import load
from loom.workflow.gitlab.pipeline import Pipeline
from loom.workflow.gitlab.translation import translated
from tests.support.gitlab import PUSH

CASES = Path(__file__).parents[2] / "gitlab/cases"


def planned(folder: Path) -> Plan:
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    context = ResolveContext(predefined=PUSH, files=lambda: files)
    loaded = load(folder / ".gitlab-ci.yml", folder, lambda: context)
    return resolve(loaded, JobSelection(container=True), context)


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
    expected = yaml.safe_load((CASES / name / "expected.yml").read_text())
    if isinstance(expected, str):
        with pytest.raises(WorkflowError) as refused:
            planned(CASES / name)
        assert [one.message for one in refused.value.problems] == [expected]
    else:
        found = shown(planned(CASES / name))
        assert (found, list(found)) == (expected, list(expected))


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir() if not path.name.startswith("refused")))
def test_an_imported_case_is_a_workflow_with_the_same_jobs(name: str, tmp_path: Path) -> None:
    folder = CASES / name
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    context = ResolveContext(predefined=PUSH, files=lambda: files)
    loaded = load(folder / ".gitlab-ci.yml", folder, lambda: context)
    assert isinstance(loaded, Pipeline)
    (tmp_path / "workflow.yml").write_text(f"version: v1\n{translated(loaded).partition('version: v1')[2]}")
    own = load(tmp_path / "workflow.yml", tmp_path, lambda: context)
    scripts = [entry.merged.get("script") for entry in loaded.jobs.values()]
    assert [entry.merged.plain()["script"] for entry in own.jobs.values()] == [
        [node.value for node in one_or_more(script)] for script in scripts if script is not None
    ]
