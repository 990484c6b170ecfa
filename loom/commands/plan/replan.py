"""Plan the present workflow for `loom resume`, and compare it with the plan that the run had."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from itertools import zip_longest

from msgspec.structs import replace

from loom.commands.plan.plan_run import planner_of
from loom.commands.project import Project, trusting
from loom.errors import LoomError, RequestError
from loom.plan.github.growth import grown_as
from loom.plan.model import Job, Plan, Resources, Step
from loom.record.past_run import PastRun
from loom.record.request import Request

_AFTER = "after_script"
_AROUND = frozenset(
    {"needs", "stage", "when", "allow_failure", "retry", "timeout_s", "step_timeout_s", "artifacts", "rule"}
    | {"sources", "runner_pool"}
)
"""The fields that do not change what a job's steps have done so far."""


def present_plan(past: PastRun, project: Project, request: Request, *, ask: bool) -> Plan:
    """Make the plan of the present workflow, as the run was asked for, with the run's own variables.

    RequestError and WorkflowError as in `loom run`. `ask`: whether to ask for consent to the jobs' requests.
    """
    planner = planner_of(project, request, past.planned.variables)
    plan, _ = planner.made()
    if ask:
        trusting.settle(plan.jobs, project, lambda: planner.workflow)
    return grown_as(plan, past.plan)


def check_done_is_same(
    past: PastRun,
    plan: Plan,
    resumed: Sequence[tuple[Job, Step | None]],
    taken_over: Iterable[str],
) -> None:
    """Raise RequestError where `plan` defines otherwise what does not run again: earlier steps, and jobs that are `taken_over`.

    `resumed` has jobs as they were, and the steps that they go on from; None: they run from their start.
    """
    now = {job.id: job for job in plan.jobs}
    changed: list[str] = []
    for old, step in [*resumed, *((past.plan.job(job_id), None) for job_id in taken_over)]:
        new = now.get(old.id)
        if new is None:
            changed.append(f"{old.id}: the present workflow does not run it")
        elif (old, step) in resumed and step is None:
            continue
        elif part := first_change(old, new, before=None if step is None else step.id):
            changed.append(f"{old.id}: {part} has changed")
        elif step is not None and step_now(old, new, step) is None:
            changed.append(f"{old.id}: no step is left from {step.id} on")
    if changed:
        raise RequestError(
            "the workflow has changed in what ran already and would not run again:\n  " + "\n  ".join(changed),
            hint=f"run it from the start: loom rerun {past.run_id} --fresh",
            code="WORKFLOW_CHANGED",
        )


def step_now(old: Job, new: Job, step: Step) -> Step | None:
    """Return the step of `new` that takes the place of this one of `old`; None where only `after_script` is left."""
    number = old.steps.index(step)
    found = new.steps[number] if number < len(new.steps) else None
    return None if found is None or (found.phase == _AFTER and step.phase != _AFTER) else found


def first_change(old: Job, new: Job, *, before: str | None = None) -> str:
    """Return the first part that differs, a step with its position; empty for none.

    `before`: without this step of `old`, the later ones, and what acts after them.
    """
    done = None if before is None else [step.id for step in old.steps].index(before)
    for step, now in zip_longest(old.steps[:done], new.steps[:done]):
        same = step and now and replace(now, file=step.file, line=step.line, literal=step.literal) == step
        if not same:
            position = (now or step).position
            return f"step {(step or now).id}" + (f" ({position})" if position else "")
    around = _AROUND if before is not None else _AROUND - {"artifacts"}
    others = (name for name in Job.__struct_fields__ if name != "steps" and name not in around)
    return next((name for name in others if _plain(old, name) != _plain(new, name)), "")


def _plain(job: Job, name: str) -> object:
    """Return the value without its positions in the workflow, which move with each line above them."""
    value = getattr(job, name)
    if isinstance(value, Resources):
        return replace(value, sources={})
    return tuple(replace(service, position="") for service in value) if name == "services" else value


def difference(old: Plan, new: Plan, job_ids: Container[str]) -> str | None:
    """Return the name of the first part of these jobs that differs."""
    there = {job.id: job for job in new.jobs}
    jobs = (job for job in old.jobs if job.id in job_ids)
    parts = ((job.id, first_change(job, there[job.id]) if job.id in there else "the job itself") for job in jobs)
    return next((f"{job_id}: {part}" for job_id, part in parts if part), None)


def notice(past: PastRun, project: Project, request: Request, job_ids: Container[str]) -> str | None:
    """Return the notice that the present workflow differs, for a run that continues with the earlier run's steps."""
    try:
        found = difference(past.plan, present_plan(past, project, request, ask=False), job_ids)
    except LoomError as error:
        found = error.message
    what = f"the workflow has changed since the run ({found})"
    return f"{what}: resume runs the steps of the run, --sync the present ones" if found else None
