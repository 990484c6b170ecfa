"""The variables of a step of an earlier run, restored from its record: for `loom shell` and `loom exec`."""

from __future__ import annotations

from collections.abc import Mapping

from loom.cancel import Cancel
from loom.plan.github.late_jobs import LateJobs
from loom.plan.model import Step
from loom.record.past_run import PastJob
from loom.runner.late.state import LateState, runtime
from loom.workflow.parser import InvalidExpression


def variables_at(
    job: PastJob, step: Step, secrets: Mapping[str, bytes], *, project_dir: str, event_path: str
) -> tuple[dict[str, str], list[str]]:
    """Return the step's environment in that run, and the names of values that the record lacks."""
    plan = job.run.plan
    results = {each.id: result for each in plan.jobs if (result := job.run.result_of(each.id)) is not None}
    start = LateJobs(plan, results, Cancel()).begin(job.job)
    opened = job.state.fact("session_opened")
    state = LateState(
        start.job,
        runtime(
            project_dir,
            event_path,
            str(opened.get("shell", "")).split(),
            str(opened.get("path", "")),
            {"id": str(opened.get("container_id", ""))},
        ),
        needs=start.needs,
        secrets=secrets,
        run_id=job.run.run_id,
    )
    try:
        state.begin()
        lost = state.restore(job.step_states(step), secrets, step.id)
        return state.environment(state.at(step).begun()), lost
    except InvalidExpression:  # the step failed by it
        return state.env, []
