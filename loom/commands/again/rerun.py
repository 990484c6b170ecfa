"""`loom rerun`: run an earlier run's jobs again from the start."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from loom.cancel import Cancel, signals
from loom.commands.again.run_again import (
    assistance_in,
    execute,
    remaining_results,
    request_again,
    require_own,
    settings_of,
)
from loom.commands.inside import session
from loom.commands.project import Project, open_project
from loom.commands.project.recreate_tree import taken_again
from loom.commands.run import run as running
from loom.errors import RequestError
from loom.plan.selection import dependents
from loom.record.past_run import PastRun
from loom.record.request import Request
from loom.record.run import FilledWorkspace
from loom.status import JobResult
from loom.util.paths import new_workspace


def rerun(run: str | None, *, failed: bool, fresh: bool, **given: Any) -> int:
    """Run a run's jobs again from the start; return the exit code."""
    project = open_project(trusting=given["trust"])
    past = session.find_run(project, run)
    if not fresh:
        session.permit(project, past)
    request = request_again(past, Request.of(given))
    return _fresh(project, past, request, failed=failed) if fresh else _same(project, past, request, failed=failed)


def _same(project: Project, past: PastRun, request: Request, *, failed: bool) -> int:
    run_id = str(time.time_ns())
    results: Mapping[str, JobResult] = {}
    if failed:
        plan = past.plan
        results = remaining_results(past, plan, dependents(plan, _failed(past)), also_unfinished=True)
    if (wanted := past.snapshot) is None:
        raise RequestError(
            f"run {past.run_id} has no snapshot to run on again", hint=f"loom rerun {past.run_id} --fresh"
        )
    workspace, cancel = new_workspace(project.config.tmp_dir, run_id), Cancel()
    hint = f"run it on what is there now: loom rerun {past.run_id} --fresh"
    with signals(cancel):
        document = taken_again(
            project,
            past.run_id,
            wanted,
            (past.repo_root, past.workspace),
            workspace,
            cancel,
            hint=hint,
            umask=past.plan.umask,
            variables=past.planned.variables,
        )
    return execute(
        past,
        request,
        run_id,
        past.plan,
        workspace=FilledWorkspace(path=workspace, snapshot=document),
        starts={job_id: past.taken_over(job_id) for job_id in results},
        assisted=tuple(assistance_in(past, {}, (), taken_over=results)),
    )


def _fresh(project: Project, past: PastRun, request: Request, *, failed: bool) -> int:
    if project.root.resolve() != past.repo_root.resolve():
        raise RequestError(
            f"run {past.run_id} is one of {past.repo_root}, which is not the checkout here",
            hint=f"run it there: cd {past.repo_root}",
        )
    require_own(project, past)
    if failed:
        request = replace(request, names=tuple(_failed(past)), stage=(), from_job=None)
    return running.run_with(request, settings=settings_of(past), parent_run_id=past.run_id)


def _failed(past: PastRun) -> list[str]:
    if not (found := past.failed()):
        raise RequestError(f"no job of run {past.run_id} failed", hint="leave --failed out to run all of them again")
    return found
