"""`loom resume`: go on with a failed run from where its jobs failed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from loom import snapshot
from loom.commands.again.run_again import (
    assistance_in,
    checkout_again,
    execute,
    remaining_results,
    request_again,
    require_own,
)
from loom.commands.inside import saved, session
from loom.commands.inside import sync as syncing
from loom.commands.plan import replan
from loom.commands.project import Project, open_project
from loom.errors import RequestError, SnapshotError
from loom.plan.model import MountMode, Plan
from loom.plan.selection import dependents
from loom.record.past_run import PastJob, PastRun
from loom.record.request import PAUSE, Request
from loom.record.run import FilledWorkspace, Resumed, View
from loom.record.step_outputs import restored
from loom.record.store import DETACHED
from loom.status import JobResult, Status
from loom.util.paths import new_workspace


def resume(
    run: str | None,
    *,
    from_step: str | None,
    sync: str | None,
    stop_at: list[str] | None,
    keep: str | None,
    **given: Any,
) -> int:
    """Go on with a failed run; return the exit code."""
    project = open_project(trusting=given["trust"])
    past = session.find_run(project, run)
    session.permit(project, past)
    # A run that paused once pauses again, unless `--stop-at` says otherwise.
    given["stop_at"] = stop_at or ([PAUSE] if past.planned.request.pauses else None)
    # A container that was kept is kept again, even without a terminal.
    request = request_again(past, Request.of({**given, "keep": keep or "on-failure"}))
    return _Resuming(project, past, request, sync).run(from_step)


class _Resuming:
    """`sync`: what to do about conflicts with the checkout, as `commands.sync` names it; None: do not sync."""

    def __init__(self, project: Project, past: PastRun, request: Request, sync: str | None) -> None:
        self._project = project
        self._past = past
        self._request = request
        self._sync = sync
        self._said: list[str] = []
        self._run_id = str(time.time_ns())
        self._made: Path | None = None
        """The workspace of a sync, which no run owns yet: it is removed if it does not become that of the new run."""
        self._bring: dict[str, Callable[[Path, Sequence[str]], None]] = {}
        """Of each job whose files are in its kept container, the copy of changes into them."""
        self._edits: dict[str, Sequence[str]] = {}
        """By resumed job, the files that were changed since it was kept."""
        self._held = ExitStack()

    def run(self, from_step: str | None) -> int:
        past = self._past
        if past.entry.alive:
            raise RequestError(f"run {past.run_id} has not ended yet", hint="wait for it, or interrupt it first")
        if past.entry.state == DETACHED:
            raise RequestError(f"run {past.run_id} goes on", hint=f"follow it: loom attach {past.run_id}")
        with self._held:
            try:
                plan, again = self._again(from_step)
            except BaseException:
                if self._made is not None:
                    snapshot.remove(self._made, recorded=True)
                raise
            if self._made not in (None, again["workspace"].path):
                snapshot.remove(self._made, recorded=True)
            for job_id in self._bring:  # their earlier files are older than those that they leave now
                if (view := again["starts"][job_id].view) is not None:
                    shutil.rmtree(view.files, ignore_errors=True)
            if not self._request.quiet:
                print("\n".join(self._said), flush=True)
            return execute(past, self._request, self._run_id, plan, **again)

    def _again(self, from_step: str | None) -> tuple[Plan, dict[str, Any]]:
        """Return the plan to go on with, and the fields of the run that goes on."""
        past, jobs = self._past, self._wanted(from_step)
        plan, results = self._plan(jobs, also_unfinished=from_step is None)
        resumed = {job.id: again for job, step in jobs if (again := self._resumption(job, step, plan)) is not None}
        taken = None
        if self._sync:
            self._made = new_workspace(self._project.config.tmp_dir, self._run_id)
            taken = syncing.take(self._project, past, self._made, self._run_id)
        shared = any(job.shares_workspace for job, _ in jobs)
        workspace = past.workspace if taken is None or shared else taken.path
        if not workspace.is_dir():
            raise RequestError(
                f"the workspace of run {past.run_id} ({past.workspace}) is gone",
                hint=f"start again: loom rerun {past.run_id}",
                code="NOTHING_KEPT",
            )
        self._said += [
            f"{job_id} does not run again: it failed in run {past.run_of(job_id)}"
            for job_id, result in results.items()
            if not result.lets_go_on and result.status is not Status.SKIPPED
        ]
        brought: Sequence[str] = ()
        before = jobs[0][0].manifest
        manifest = before.read_bytes() if before.exists() else None
        if taken is not None:
            targets = self._sync_targets([job for job, _ in jobs], resumed, workspace)
            say = self._said.append
            brought, manifest = syncing.sync(taken, targets, self._sync or "", environ=self._project.environ, say=say)
        filled = FilledWorkspace(
            path=workspace,
            snapshot=(past.snapshot or {}) if taken is None else taken.document(),
            manifest=manifest,
            has_products=workspace == past.workspace,
        )
        return plan, {
            "workspace": filled,
            "starts": {**{job_id: past.taken_over(job_id, results[job_id]) for job_id in results}, **resumed},
            "assisted": tuple(assistance_in(past, self._edits, brought, taken_over=results)),
        }

    def _plan(
        self, jobs: list[tuple[PastJob, str | None]], *, also_unfinished: bool
    ) -> tuple[Plan, dict[str, JobResult]]:
        """Return the plan to go on with, and the results of its jobs that do not run again.

        The plan is the run's; with `--sync` that of the present workflow. RequestError if that changes what has run.
        """
        past, ids = self._past, [job.id for job, _ in jobs]
        old = past.plan
        again = dependents(old, ids)
        if self._sync is None:
            if past.repo_root.is_dir() and (
                text := replan.notice(past, checkout_again(past, self._request), self._request, again)
            ):
                self._said.append(text)
            return old, remaining_results(past, old, again, also_unfinished=also_unfinished)
        require_own(self._project, past)
        plan = replan.present_plan(past, checkout_again(past, self._request), self._request, ask=True)
        results = remaining_results(past, plan, dependents(plan, ids), also_unfinished=also_unfinished)
        taken_over = [job_id for job_id in results if past.result_of(job_id) is not None]
        resumed = [(job.job, job.step(step) if step is not None else None) for job, step in jobs]
        replan.check_done_is_same(past, plan, resumed, taken_over)
        if found := replan.difference(old, plan, again):
            self._said.append(f"the present workflow runs from here on ({found})")
        return plan, results

    def _sync_targets(
        self, jobs: list[PastJob], resumed: Mapping[str, Resumed], workspace: Path
    ) -> list[syncing.SyncTarget]:
        targets: dict[Path, syncing.SyncTarget] = {}
        for job in jobs:
            start = resumed.get(job.id)
            view = start.view if start is not None else None
            if not job.has_snapshot or (view is None and not job.shares_workspace):
                continue  # it has none of the checkout's files, or runs from its start, over the new snapshot
            view = view or View(mode=MountMode.BIND, workspace=workspace)
            manifest = view.brought if view.brought.exists() else job.run.paths.snapshot
            bring, left_out = self._bring.get(job.id), dict[str, str]()
            files = view.workspace if bring is None else session.files_of(self._project, job, left_out)
            targets[files] = syncing.SyncTarget(
                job_id=job.id,
                files=files,
                manifest=manifest,
                brought=view.brought,
                not_there=tuple(left_out),
                bring=bring,
            )
        return list(targets.values())

    def _wanted(self, from_step: str | None) -> list[tuple[PastJob, str | None]]:
        past = self._past
        if from_step is not None:
            job_id, _, step = from_step.partition(":")
            job = past.job(job_id)
            return [(job, job.step(step or None).id)]
        ended = (Status.FAILURE, Status.TIMED_OUT, Status.ERROR, Status.CANCELED)
        failed = [
            job
            for job in map(past.job, past.failed())
            # A job that runs in a record without an end was killed with its loom.
            if job.state.status in ended or (job.state.status is None and job.last_step is not None)
        ]
        if not failed:
            raise RequestError(
                f"no job of run {past.run_id} failed", hint="say where to go on from: loom resume --from JOB:STEP"
            )
        return [(job, job.failing_step or job.last_step) for job in failed]

    def _resumption(self, job: PastJob, step_id: str | None, plan: Plan) -> Resumed | None:
        """Decide how the job continues; None when it failed before its first step and runs from the start."""
        if step_id is None:
            self._said.append(f"{job.id} runs from its start: it failed before its first step")
            return None
        step = job.step(step_id)
        handed_on = job.handed_on(step)
        if lost := restored(handed_on, session.resolve_secrets(self._project, job))[1]:
            self._said.append(f"{job.id}: not set, since the record has them without their secret: {', '.join(lost)}")
        self._said += [f"{job.id}: {note}" for note in session.after_script_notes(job)]
        now = replan.step_now(job.job, plan.job(job.id), step)
        assert now is not None
        resumed = job.resumed(now.id, handed_on=handed_on, step_states=tuple(job.step_states(step)))
        if not job.in_container:
            self._save(job)
            self._said.append(f"{job.id} goes on from {step.id}, on this machine")
            return replace(resumed, view=self._files(job))

        found, view = session.find_kept(self._project, job), job.view
        if found is None or view is None:
            raise self._nothing_kept(job)
        if not found.has_its_files(view.mode):
            raise RequestError(
                f"job {job.id} has a kept container, and its files are gone ({view.workspace})",
                hint=f"start again: loom rerun {job.run.run_id} --failed",
                code="NOTHING_KEPT",
            )
        self._held.enter_context(session.held(self._project, job, found.kept_id, alone=True))
        self._save(job)
        if view.mode is not MountMode.BIND:
            self._bring[job.id] = found.bring
        self._said.append(f"{job.id} goes on from {step.id}, in its kept container")
        return replace(resumed, image=job.image, kept=job.container(found.kept_id), view=view)

    def _save(self, job: PastJob) -> None:
        """Save the job's changes before its files change; a job that destroyed its `.git` goes on without that."""
        self._edits[job.id] = ()
        try:
            self._edits[job.id] = saved.save(self._project, job)
        except SnapshotError as error:
            self._said.append(f"the changes in the files of {job.id} are not saved: {error.message}")

    def _nothing_kept(self, job: PastJob) -> RequestError:
        run_id = job.run.run_id
        hint = f"start again: loom rerun {run_id} --failed"
        why = "it was kept, and is gone" if job.kept else job.not_kept
        if not why:
            hint += "; `--keep on-failure` keeps the containers of failed jobs"
        if job.run.paths.saved(job.id).exists():
            hint += f"\nthe changes in its files are saved: loom pull {run_id} {job.id}"
        return RequestError(
            f"job {job.id} has no container to continue in" + (f": {why}" if why else ""),
            hint=hint,
            code="NOTHING_KEPT",
        )

    def _files(self, job: PastJob) -> View | None:
        """Return the view of a new session for the job; None for the workspace that this run's jobs share."""
        if job.shares_workspace:
            return None
        left_out: dict[str, str] = {}
        view = session.view_of_files(self._project, job, left_out)
        for path, reason in left_out.items():
            self._said.append(f"left out: {path} ({reason})")
        return view
