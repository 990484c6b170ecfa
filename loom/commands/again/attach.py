"""`loom attach`: go on with a run that was left, in its record."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from loom.commands.again import run_again
from loom.commands.inside import session
from loom.commands.project import open_project
from loom.errors import RequestError
from loom.record.past_run import PastJob, PastRun
from loom.record.request import Request
from loom.record.run import FilledWorkspace, Resumed
from loom.record.store import DETACHED, RUNNING
from loom.util import locks


def attach(run: str | None, *, trust: bool, **given: Any) -> int:
    """Follow the jobs of a detached run and run those that have not started; return the run's exit code."""
    project = open_project()
    found = session.find_run(project, run)
    run_again.require_own(project, found)
    with ExitStack() as stack:
        file = found.paths.root / "follower.lock"
        try:
            stack.enter_context(locks.held(file, "it", f"loom attach {found.run_id}", alone=True))
        except RequestError as error:
            raise _followed(found.run_id, error.message) from error
        past = session.find_run(project, found.run_id)
        _check(past)
        project = open_project(trusting=True)  # the run began after all that its jobs ask for was allowed
        session.permit(project, past)
        trusted = trust or past.planned.request.trust
        again = run_again.request_again(past, Request.of({**given, "trust": trusted, "detach": True}))
        ids = [job.id for job in past.plan.jobs]
        going = [past.job(job_id) for job_id in ids if past.result_of(job_id) is None]
        for job in going:
            session.resolve_secrets(project, job)  # one that is missing is told before the record is touched
        done = {job_id: past.taken_over(job_id) for job_id in ids if past.result_of(job_id) is not None}
        return run_again.execute(
            past,
            again,
            past.run_id,
            past.plan,
            attached=True,
            workspace=FilledWorkspace(path=past.workspace, snapshot=past.snapshot or {}),
            starts={**done, **{job.id: start for job in going if (start := _resumed(job)) is not None}},
        )


def _check(past: PastRun) -> None:
    """Raise RequestError for a run that nothing can be attached to."""
    state = past.entry.state
    if state == RUNNING:
        raise _followed(past.run_id, f"it is followed by process {past.entry.identity.get('pid')}")
    if state != DETACHED:
        raise RequestError(
            f"run {past.run_id} does not go on: its status is {state}",
            hint="loom run --detach starts one that goes on in a cluster; loom resume goes on with a failed one",
            code="NOT_DETACHED",
        )
    if past.snapshot is None:
        raise RequestError(
            f"run {past.run_id} was left before its jobs began", hint="start it again: loom run", code="NOT_DETACHED"
        )
    if not past.workspace.is_dir():
        raise RequestError(
            f"the workspace of run {past.run_id} ({past.workspace}) is gone: jobs that have not started need it",
            hint=f"remove what is left of the run: loom clean {past.run_id}",
            code="WORKSPACE_GONE",
        )


def _followed(run_id: str, why: str) -> RequestError:
    return RequestError(
        f"run {run_id} is followed by another loom: {why}",
        hint=f"see its output: loom logs {run_id} --follow",
        code="RUN_FOLLOWED",
    )


def _resumed(job: PastJob) -> Resumed | None:
    """Return the state from which an unfinished job continues; None if it starts again."""
    number, first = max(1, job.state.attempts), job.job.steps[0].id
    path = job.run.paths.handed_over(job.id, number)
    if path.exists():
        kept = job.container("", path)
        before_ms = job.state.fact("handed_over").get("after_ms", 0.0)
        return job.resumed(
            first,
            number=number,
            attached=True,
            before_ms=before_ms,
            kept=kept,
            image=job.image,
            view=job.view,
        )
    return None if number == 1 else job.resumed(first, number=number, attached=True)
