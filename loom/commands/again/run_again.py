"""Make the run that goes on from a record, or repeats it: its request, its checkout, the results that stay."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from loom import snapshot
from loom.commands.plan.plan_run import checkout_for, run_of
from loom.commands.project import Project, Worktree
from loom.commands.run import run as running
from loom.errors import RequestError
from loom.plan.model import Plan
from loom.plan.variables import rerun_variables
from loom.record.documents import Assistance
from loom.record.extent import noted_assistance
from loom.record.past_run import PastRun
from loom.record.request import Request
from loom.status import JobResult, Status
from loom.util import typed
from loom.util.bounded import bounded


def execute(past: PastRun, request: Request, run_id: str, plan: Plan, **more: Any) -> int:
    """Run this plan as the run was; return the exit code. `more`: fields of `Run`."""
    project, variables = checkout_again(past, request), rerun_variables(past.planned.variables, run_id)
    return running.execute(project, run_of(project, request, plan, variables, parent_run_id=past.run_id, **more))


def request_again(past: PastRun, request: Request) -> Request:
    """Return the request of the earlier run, but for what of `request` concerns this one alone."""
    again = past.planned.request.repeated
    return replace(
        again,
        quiet=request.quiet,
        trust=request.trust,
        detach=request.detach,
        strict=past.planned.isolated,
        stop_at=request.stop_at,
        flags={**again.flags, **request.flags},
    )


def checkout_again(past: PastRun, request: Request) -> Worktree:
    return checkout_for(request, root=past.repo_root, settings=settings_of(past))


def settings_of(past: PastRun) -> dict[str, Any]:
    return {"container": past.planned.container, "mount_mode": past.planned.mount_mode.value}


def require_own(project: Project, past: PastRun) -> None:
    """Raise RequestError for a record from elsewhere: its options would count for a checkout here."""
    if not project.store.has_record(past.entry):
        raise RequestError(
            f"{past.paths.root} is not a record of this user's runs",
            hint="run the workflow of the checkout: loom run",
        )
    if not past.repo_root.is_dir():
        raise RequestError(
            f"the checkout of run {past.run_id} ({past.repo_root}) is gone", hint="`loom resume` goes on without it"
        )


def remaining_results(past: PastRun, plan: Plan, again: set[str], *, also_unfinished: bool) -> dict[str, JobResult]:
    """Return the results of the plan's jobs that do not run again. A job that never ended counts as skipped.

    `also_unfinished`: such jobs run again too.
    """
    results = {}
    for job in plan.jobs:
        if job.id in again:
            continue
        result = past.result_of(job.id)
        if result is not None and not (also_unfinished and result.status in (Status.CANCELED, Status.SKIPPED)):
            results[job.id] = result
        elif not also_unfinished:
            results[job.id] = JobResult(status=Status.SKIPPED)
    return results


def assistance_in(
    past: PastRun, edits: Mapping[str, Collection[str]], brought: Collection[str], *, taken_over: Iterable[str]
) -> Iterator[Assistance]:
    """Yield the interventions of people in the jobs that are taken over, also those in earlier runs.

    `edits`: by resumed job, the files that were changed since it was kept. `brought`: those that a sync changed.
    """
    concerned = {None, *edits, *taken_over}
    yield from (typed.convert(fact, Assistance) for fact in past.fold.assisted if fact.get("job_id") in concerned)
    ended = past.fold.last.ts if past.fold.last is not None and past.fold.end else ""
    yield from (one for one in noted_assistance(past.paths) if one.job_id in edits and (one.at or "") > ended)
    if brought:
        yield Assistance(how="sync", **_changes(brought))
    yield from (Assistance(how="edit", job_id=job_id, **_changes(paths)) for job_id, paths in edits.items() if paths)


def _changes(paths: Iterable[str]) -> dict[str, Any]:
    return bounded("changes", sorted(map(snapshot.readable, paths)), 50)
