"""`loom attach`: go on with a run that was left, in its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.commands import project
from loom.commands.again import resume
from loom.commands.inside import session
from loom.commands.plan import preparing
from loom.commands.project import Here
from loom.errors import ProviderError, RequestError
from loom.providers import locks
from loom.providers.base import DetachedContainer, Session, SessionRequest
from loom.record.event_files import read_phases
from loom.record.events import PhaseCode, PhaseEvent
from loom.record.past_run import PastJob, PastRun
from loom.record.store import DETACHED, RUNNING
from loom.runner import Resumption
from loom.runner.request import Reuse, preflight
from loom.status import OnOutput
from loom.util.untrusted_files import read_regular


def attach(run: str | None, *, stream: bool | None, quiet: bool, jobs: int | None, trust: bool) -> int:
    """Follow the jobs of a detached run and run those that have not started; return the run's exit code."""
    here = project.here()
    found = session.find_run(here, run)
    resume.require_own(here, found)
    with ExitStack() as stack:
        file = found.entry.paths.root / "follower.lock"
        try:
            stack.enter_context(locks.held(file, "it", f"loom attach {found.run_id}", alone=True))
        except RequestError as error:
            raise _followed(found.run_id, error.message) from error
        past = session.find_run(here, found.run_id)
        _check(past)
        here = project.here(trusting=True)  # the run began after all that its jobs ask for was allowed
        session.permit(here, past)
        trusted = trust or bool(past.invocation.options.get("trust"))
        options = preparing.Options.of(
            {"stream": stream, "quiet": quiet, "jobs": jobs, "trust": trusted, "detach": True}
        )
        plan = past.planned.plan
        preflight(plan, session.tools_of(here, past, past.run_id), here.config)
        return resume.execute(here, past, plan, _reuse(here, past), options, past.run_id, follow=True)


def _reuse(here: Here, past: PastRun) -> Reuse:
    plan = past.planned.plan
    results = {job.id: result for job in plan.jobs if (result := past.result_of(job.id)) is not None}
    going = [past.job(job.id) for job in plan.jobs if job.id not in results]
    for job in going:
        session.resolve_secrets(here, job)  # one that is missing is told before the record is touched
    return Reuse(
        parent_run_id=past.run_id,
        workspace=past.workspace,
        snapshot=past.snapshot or {},
        results=results,
        resumed={job.job.id: resumed for job in going if (resumed := _resumed(here, job)) is not None},
        archive_of=past.archive_of,
        run_of=past.run_of,
        so_far=_so_far(past),
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


def _so_far(past: PastRun) -> Sequence[PhaseEvent]:
    """Return the events that stay: not those of the present attempts at jobs, which are heard again, nor any of the run's end."""
    events = list(read_phases(past.entry.paths))
    set_aside = {event.job_id: event.seq for event in events if event.message == "attempt_failed"}

    def stays(event: PhaseEvent) -> bool:
        if event.job_id is not None:
            return past.result_of(event.job_id) is not None or event.seq <= set_aside.get(event.job_id, 0)
        of_end = event.kind == "phase_finished" and event.phase_code != PhaseCode.RUN_BOOTSTRAP
        return event.phase_code != PhaseCode.RUN_FINALIZE and not of_end

    return [event for event in events if stays(event)]


def _resumed(here: Here, job: PastJob) -> Resumption | None:
    """Return the state from which an unfinished job continues; None if it starts again."""
    number = max(1, job.state.attempts)
    path = job.run.entry.paths.handed_over(job.job.id, number)
    again = Resumption(step=job.job.steps[0].id, number=number, attached=True)
    if not path.exists():
        return None if number == 1 else again
    adopt = partial(_opened, here, job, path)
    return replace(again, cache_keys=job.cache_keys, image=job.image, adopt=adopt, view=job.view)


@contextmanager
def _opened(
    here: Here, job: PastJob, saved: Path, request: SessionRequest, on_output: OnOutput, cancel: Cancel
) -> Iterator[Session]:
    found = session.find_kept(here, job)
    if not isinstance(found, DetachedContainer):
        raise ProviderError(
            f"the pod that continued job {job.job.id} is gone",
            hint="it reached its deadline, or was deleted, or lost with its node",
            code="POD_LOST",
        )
    with found.attach(read_regular(saved), request, on_output, cancel) as opened:
        yield opened
