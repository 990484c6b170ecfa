"""One run from its beginning to its receipt."""

from __future__ import annotations

import shlex
import shutil
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom import snapshot
from loom.errors import LoomError
from loom.plan.image_lock import shown
from loom.plan.model import Build, Job, Plan, WorkspaceMode
from loom.record import proofs
from loom.record.documents import Receipt, plain
from loom.record.events import PIPELINE, RUN, PhaseCode, Where, epoch_ns
from loom.record.extent import extent_of, noted_assistance
from loom.record.journal import Outcome
from loom.record.lines import encodable
from loom.record.reader import Reading
from loom.record.run import FilledWorkspace, Resumed, TakenOver
from loom.record.run_paths import artifacts_beside
from loom.record.store import RunEntry
from loom.runner.children import Children
from loom.runner.hooks import Child
from loom.runner.job import JobRunner
from loom.runner.products import Handover
from loom.runner.results import Results, take_over
from loom.runner.scheduler import Schedule
from loom.runner.start import RunStart
from loom.runner.tools import RunResult
from loom.runner.waits import Waits, waits
from loom.snapshot import Snapshot
from loom.status import NOT_BEGUN, ExitCode, JobResult, Skip, Status, exit_code_of, run_status
from loom.storage.cache import Cache
from loom.util import jsons, typed
from loom.util.refusals import refusals
from loom.util.within import start_thread

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.plan.github.late_jobs import LateJobs


_ENDING = threading.Lock()
"""One run of a process ends at a time: msgspec crashes where two threads are the first to convert the same structs."""


RunAll = Callable[[Plan, Mapping[str, JobResult]], dict[str, JobResult]]
"""Runs the jobs of a plan but those that have a result already."""


class Execution:
    def __init__(self, started: RunStart) -> None:
        self._run = started.run
        self._tools = started.tools
        self._start = started
        self._workspace = started.workspace
        self._record = started.record
        self._recorder = started.recorder
        self._diagnosed: Diagnosis | None = None
        self._journal = started.journal
        self._cancel = started.tools.cancel
        self._done = started.run.done
        self._opener = started.opener
        self._late = self._late_jobs()
        self._growing = threading.Lock()
        self._error: str | None = None
        self._error_code: str | None = None
        self._begun = started.begun_ns
        self._deaf: Callable[[], None] = lambda: None
        self._stating: list[threading.Thread] = []

    def _late_jobs(self) -> LateJobs | None:
        plan = self._run.plan
        if not any(job.has_expressions for job in plan.jobs):
            return None
        from loom.plan.github.late_jobs import LateJobs  # late: only for such jobs

        images = self._tools.config.images
        return LateJobs(plan, self._done, self._cancel, images, self._publish_growth)

    def _publish_growth(self) -> None:
        with self._growing:
            assert self._late is not None
            plan = self._late.plan
            self._publish_run(plan)
            shape = plan_shape(plan, without=self._done)
            self._journal.fact(RUN, PhaseCode.RUN_PIPELINE_EXECUTE, "plan_resolved", shape)

    def execute(self) -> RunResult:
        theirs = [job.view for job in self._run.resumed.values() if job.view is not None]
        with snapshot.occupied(
            self._workspace, *(path for view in theirs for path in (view.workspace, view.run_workspace))
        ):
            return self._execute()

    def _execute(self) -> RunResult:
        try:
            filled = self._go_on() if self._run.attached else self._bootstrap()
            status = self._pipeline(started=filled)
            with _ENDING:
                receipt = self._finalize(status)
        finally:
            shutil.rmtree(self._record.paths.builds, ignore_errors=True)
            self._close_providers()  # also after a bug, or when the record is unwritable
        if filled:
            self._record.link_into(self._workspace)
        return RunResult(
            receipt=receipt,
            receipt_path=self._record.paths.receipt,
            diagnosis=self._diagnosed,
            kept=self._recorder.fold.kept,
        )

    # -- run.bootstrap --------------------------------------------------------------------------------------------

    def _bootstrap(self) -> bool:
        """Fill the workspace while the first containers start; False when the run can't continue."""
        run = self._run
        self._deaf = self._cancel.on_request(self._interrupted)
        shape = plan_shape(run.plan, without=self._done)
        self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "plan_resolved", shape)
        if self._done:
            self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "results_reused", self._results_reused())
        if run.workspace is not None:
            self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "steps_reused", self._steps_reused(run.workspace))
        for assisted in run.assisted:
            self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "assisted", plain(assisted))
        self._publish_run(run.plan)
        outcome = Outcome()
        filled = False
        try:
            with refusals():
                self._fill()
            filled = True
        except LoomError as error:
            outcome.status, outcome.error, self._error_code = Status.ERROR, str(error), error.code
            if self._cancel.requested:
                outcome.status, outcome.error, self._error_code = Status.CANCELED, "interrupted", None
            self._error = outcome.error
        finally:
            if not filled:
                self._start.undo()
            self._journal.finished(RUN, PhaseCode.RUN_BOOTSTRAP, self._begun, outcome)
        return filled

    def _go_on(self) -> bool:
        """Go on with the record of a run that was left; False when that can't be done."""
        for event in self._start.so_far:
            self._recorder.fold.apply(event)
            for sink in self._tools.sinks:
                sink.phase(event)
        self._deaf = self._cancel.on_request(self._interrupted)
        self._recorder.complete()
        self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "attached")
        problem = self._start.problem
        if problem is not None:
            self._error, self._error_code = str(problem), problem.code
        return problem is None

    def _began(self, code: PhaseCode) -> int | None:
        """Return the time at which a phase began that goes on."""
        went_on = (event for event in self._start.so_far if (event.phase_code, event.kind) == (code, "phase_started"))
        return next((epoch_ns(event.ts) for event in went_on), None)

    def _fill(self) -> None:
        run, filled = self._run, self._run.workspace
        if self._start.problem is not None:
            raise self._start.problem
        if filled is None:
            document = self._take_snapshot().document()
            self._keep_manifest()
            self._opener.filled()
        else:
            document = dict(filled.snapshot)
            with suppress(OSError):  # a job of the earlier run removed it
                self._keep_manifest(filled.manifest)
        self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "snapshot_taken", {**document, "path": str(self._workspace)})
        for text in (*run.notices, *filter(None, [run.plan.behind])):
            self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "notice", {"text": text})
        self._keep_build_inputs()
        engines = [provider.described() for provider in self._tools.providers.values()]
        if engine := ", ".join(filter(None, engines)):  # checked while the first containers start
            self._journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "engine_answered", {"engine": engine})

    def _take_snapshot(self) -> Snapshot:
        if (taking := self._start.taking) is not None:
            taken = taking.result(snapshot.SnapshotCanceled("interrupted while the workspace was being filled"))
            self._start.taking = None
            return taken
        return self._start.take(self._cancel)

    def _keep_build_inputs(self) -> None:
        run = self._run
        for images in (provider.images for provider in self._tools.providers.values()):
            if images is None:
                continue
            if run.workspace is None:  # earlier jobs may have changed the files
                manifest = self._record.paths.snapshot
                images.identity_of = partial(
                    snapshot.identity_of, self._tools.source, self._workspace, manifest_file=manifest
                )
            if run.mount_mode is WorkspaceMode.SHARED:  # jobs may write to the build inputs before they run
                builds = _builds(run.plan, self._done)
                images.keep_inputs(builds, workspace=self._workspace, folder=self._record.paths.builds)

    def _keep_manifest(self, content: bytes | None = None) -> None:
        """Keep the manifest for `loom verify`, because a job may remove the workspace's copy."""
        self._record.publish(self._record.paths.snapshot, content or snapshot.manifest_bytes(self._workspace))

    # -- run.pipeline_execute -------------------------------------------------------------------------------------

    def _pipeline(self, *, started: bool) -> Status:
        with (
            self._span(RUN, PhaseCode.RUN_PIPELINE_EXECUTE) as run_outcome,
            self._span(PIPELINE, PhaseCode.PIPELINE_EXECUTE) as outcome,
            ExitStack() as services,
        ):
            paths, filled = self._record.paths, self._run.workspace
            cache = self._caches()
            results = self._results(cache)
            if results is not None:
                services.callback(results.close)
            tracked = partial(
                snapshot.tracked, self._workspace, self._tools.source.environment, manifest_file=paths.snapshot
            )
            child_of = partial(
                Child,
                run_id=self._run.run_id,
                workspace=self._workspace,
                snapshot=self._recorder.fold.fact("snapshot_taken"),
                archive_of=self._archive_of,
                succeeded=self._succeeded,
            )
            children = Children(self._tools.run_child, lambda job: child_of(job=job), self._cancel)
            runner = JobRunner(
                journal=self._journal,
                opener=self._opener,
                products=Handover(
                    self._run.plan,
                    workspace=self._workspace,
                    archive_of=self._archive_of,
                    tracked=tracked,
                    missing_here=frozenset(() if filled is not None and filled.has_products else self._done),
                    logs=paths.logs,
                    masker=self._journal.masker,
                    cache=cache,
                    cancel=self._cancel,
                ),
                children=children,
                handed_over=paths.handed_over,
                results=results,
                late=self._late,
            )
            if started:
                status = self._jobs(runner)
                children.join()  # no limit: their jobs have their own, and a second interrupt ends it
            else:
                for job in self._run.plan.jobs:
                    if job.id not in self._done:
                        runner.skip(job, Skip(job_id=job.id, reason=NOT_BEGUN))
                status = Status.CANCELED if self._cancel.requested else Status.ERROR
            outcome.status = run_outcome.status = status
        return status

    def _results(self, cache: Cache | None) -> Results | None:
        """Return the services for actions, if a job uses any."""
        jobs, paths = self._run.plan.jobs, self._record.paths
        if not any(job.uses_actions for job in jobs):
            return None
        for job_id, resumed in self._run.resumed.items():
            take_over(artifacts_beside(resumed.archive), paths.artifacts(job_id))
        return Results(
            jobs=jobs,
            artifacts_of=lambda job_id: artifacts_beside(self._archive_of(job_id)),
            record=paths.root,
            cache=cache,
            most_bytes=self._tools.config.cache_max_size,
        )

    def _span(self, where: Where, code: PhaseCode) -> AbstractContextManager[Outcome]:
        return self._journal.span(where, code, started_ns=self._began(code))

    def _caches(self) -> Cache | None:
        own = self._run.workspace is None or self._run.attached
        taken = self._recorder.fold.fact("snapshot_taken") if own else {}
        return None if self._tools.cache is None else self._tools.cache(taken)

    def _jobs(self, runner: JobRunner) -> Status:
        try:
            results = self._run_all(runner)(self._run.plan, self._done)
        finally:
            self._opener.close_unused()
        if self._cancel.exit_code is not None:
            return Status.CANCELED
        return run_status(results.values())

    def _run_all(self, runner: JobRunner) -> RunAll:
        run, tools = self._run, self._tools
        project = tools.source.origin_url or str(run.repo_root)
        waiting = Waits(
            journal=self._journal,
            cancel=self._cancel,
            lock_of=partial(tools.store.lock_of_group, project),
            command=shlex.join(run.command),
        )

        def run_job(job: Job) -> JobResult:
            try:
                result = self._run_several(job, runner, run_all) if job.becomes_several else runner.run(job)
                if self._late is not None:
                    self._late.ended(job, result)
                return result
            finally:
                waiting.release(job)

        def on_skip(job: Job, skip: Skip) -> None:
            result = runner.skip(job, skip)
            if self._late is not None:
                self._late.ended(job, result)

        def run_all(plan: Plan, done: Mapping[str, JobResult]) -> dict[str, JobResult]:
            return Schedule(
                plan=plan,
                run_job=run_job,
                waits=waits,
                wait_until_free=waiting.wait_until_free,
                on_skip=on_skip,
                on_stuck=runner.leave_behind,
                at_most=tools.lanes,
                cancel=self._cancel,
                fail_fast=tools.config.fail_fast or run.plan.ends_at_failure,
                stop=partial(self._cancel.request, None),  # which does not mark the run as interrupted by the user
                done=done,
            ).run()

        return run_all

    def _run_several(self, job: Job, runner: JobRunner, run_all: RunAll) -> JobResult:
        """Run the jobs that a job becomes by its matrix; return their result."""
        assert self._late is not None
        start, jobs = self._late.several(job)
        if start.status is not Status.SUCCESS:
            return runner.skip(job, Skip(job_id=job.id, reason=start.reason, held=start.held), start.status)
        results = run_all(Plan(workflow_path=self._run.plan.workflow_path, stages=(job.stage,), jobs=jobs), {})
        outputs: dict[str, str] = {}
        for result in results.values():
            outputs |= result.outputs
        skipped = {result.status for result in results.values()} == {Status.SKIPPED}
        return JobResult(status=Status.SKIPPED if skipped else run_status(results.values()), outputs=outputs)

    def _archive_of(self, job_id: str) -> Path:
        start = self._run.starts.get(job_id)
        return start.archive if isinstance(start, TakenOver) else self._record.paths.artifacts_archive(job_id)

    def _succeeded(self, job_id: str) -> bool:
        ended = self._done.get(job_id) or self._recorder.fold.jobs.get(job_id)
        return ended is not None and ended.status is Status.SUCCESS

    def _steps_reused(self, filled: FilledWorkspace) -> dict[str, Any]:
        return {
            "resumed": filled.has_products or bool(self._run.resumed),
            "jobs": [
                {
                    "job_id": job_id,
                    "from_step": start.step if isinstance(start, Resumed) else None,
                    "steps": dict(start.steps),
                }
                for job_id, start in self._run.starts.items()
                if start.steps
            ],
        }

    def _results_reused(self) -> dict[str, Any]:
        return {
            "jobs": {
                job_id: {
                    "status": result.status,
                    "allowed_failure": result.allowed_failure,
                    "exit_code": result.exit_code,
                    "archive": str(self._archive_of(job_id)),
                    "run_id": self._run.starts[job_id].run_id or self._run.run_id,
                    **({"outputs": dict(result.outputs)} if result.outputs else {}),
                }
                for job_id, result in self._done.items()
            }
        }

    def _interrupted(self) -> None:
        """Report it in a separate thread while jobs end, so that a second request is not delayed by listeners."""
        if (code := self._cancel.exit_code) is not None:
            grace_s = 0.0 if self._cancel.now else self._run.grace_s
            data = {"by": code.name.lower(), "at_once": self._cancel.now, "grace_s": grace_s}
            data["during"] = self._recorder.fold.newest_phase
            stating = partial(self._journal.fact, RUN, PhaseCode.RUN_PIPELINE_EXECUTE, "interrupted", data)
            self._stating.append(start_thread(stating, name="interrupted"))

    # -- run.finalize ---------------------------------------------------------------------------------------------

    def _finalize(self, status: Status) -> Receipt:
        self._deaf()
        for thread in self._stating:
            self._cancel.join(thread)
        interrupted = self._cancel.exit_code
        code = exit_code_of(status) if interrupted is None else interrupted
        if code in (ExitCode.JOB_FAILED, ExitCode.TIMED_OUT) and self._recorder.fold.paused:
            code = ExitCode.PAUSED
        with self._journal.span(RUN, PhaseCode.RUN_FINALIZE):
            for text in (*self._opener.left_behind, *self._close_providers()):
                self._journal.fact(RUN, PhaseCode.RUN_FINALIZE, "warning", {"text": text})
            failing = self._recorder.fold.failing_job()
            error, error_code = self._error, self._error_code
            if error is None and failing is not None and failing.end is not None:
                error = f"{failing.id}: {failing.end.error or failing.status}"
                error_code = failing.end.data.get("error_code")
            elif status is Status.CANCELED and self._recorder.fold.all_passed:
                error = f"interrupted in {self._recorder.fold.fact('interrupted')['during']}, after all jobs had passed"
            elif error is None:
                earlier = self._recorder.fold.failed_earlier.items()
                error = next(
                    (f"{job_id}: failed in run {run_id}, and did not run again" for job_id, run_id in earlier), None
                )
            for visit in noted_assistance(self._record.paths):
                self._journal.fact(RUN, PhaseCode.RUN_FINALIZE, "assisted", plain(visit))
            self._journal.fact(
                RUN,
                PhaseCode.RUN_FINALIZE,
                "run_finished",
                {
                    "status": status,
                    "exit_code": int(code),
                    "error": error,
                    "error_code": error_code,
                    "duration_ms": round((self._journal.now_ns() - self._begun) / 1e6, 3),
                    "extent": plain(extent_of(self._recorder.fold)),
                },
            )
        receipt = self._recorder.finish(self._diagnose)
        self._journal.close()
        plan = self._run.plan if self._late is None else self._late.plan
        proofs.note(self._run, plan, self._recorder.fold, self._tools.config, self._record.paths)
        return receipt

    def _diagnose(self, receipt: Receipt) -> Path | None:
        """Write the diagnoses of a run that did not succeed. No error here keeps the receipt from being written."""
        if receipt.status.ok:
            return None
        from loom.analysis.evidence import diagnoses_at_end

        entry = RunEntry(paths=self._record.paths, identity={}, receipt=receipt, alive=False)
        try:
            for found in diagnoses_at_end(Reading(entry), self._workspace):
                masked = typed.convert(self._journal.masked(encodable(plain(found))), type(found))
                first = self._diagnosed is None
                paths = self._record.paths
                self._record.publish(
                    paths.diagnosis if first else paths.job_diagnosis(found.job_id or ""), jsons.encode_file(masked)
                )
                self._diagnosed = self._diagnosed or masked
        except Exception:  # noqa: BLE001
            pass
        return self._record.paths.diagnosis if self._diagnosed is not None else None

    def _close_providers(self) -> list[str]:
        """Wait until everything is removed; return the failures. Idempotent."""
        prepared = self._start.prepared
        providers = (*self._tools.providers.values(), *(prepared.providers if prepared is not None else ()))
        return [text for provider in providers for text in provider.close(self._cancel)]

    # -- values ---------------------------------------------------------------------------------------------------

    def _publish_run(self, plan: Plan) -> None:
        filled = self._run.workspace
        # Its manifest is in the record by itself.
        kept = replace(self._run, plan=plan, workspace=None if filled is None else replace(filled, manifest=None))
        self._record.publish(self._record.paths.plan, jsons.encode_file(kept, sort=True))


def _builds(plan: Plan, done: Container[str]) -> Iterator[Build]:
    """Yield the builds of the images that jobs and their services still need."""
    for job in plan.jobs:
        for image in (job.image, *(service.image for service in job.services)):
            if image is not None and image.build is not None and job.id not in done:
                yield image.build


def plan_shape(plan: Plan, *, without: Container[str]) -> dict[str, Any]:
    """Return the parts of the plan for the record's documents and the screen, without variables and secrets."""
    return {
        "workflow_path": plan.workflow_path,
        "stages": list(plan.stages),
        "jobs": [_job_shape(job) for job in plan.jobs if job.id not in without],
        "left_out": [
            {"id": left.id, "reason": left.reason, **({"held": left.held} if left.held else {})}
            for left in plan.left_out
        ],
        **({"behind": plan.behind} if plan.behind else {}),
        **({"undecided": list(plan.undecided)} if plan.undecided else {}),
        **({"replaced_images": dict(plan.replaced)} if plan.replaced else {}),
    }


def _job_shape(job: Job) -> dict[str, Any]:
    image = job.image
    return {
        "id": job.id,
        "name": job.name,
        "stage": job.stage,
        "target": job.target,
        "provider": job.provider,
        "image": None if image is None else image.name or f"an image built from {shown(image)}",
        "needs": None if job.needs is None else [need.job for need in job.needs],
        "matrix": dict(job.matrix),
        "services": [service.name for service in job.services],
        "steps": [{"id": step.id, "command": step.script} for step in job.steps],
        **({"mapped": True} if image is not None and job.sources.get("image", "").startswith("`") else {}),
        **({"clone": plain(job.clone)} if job.clone is not None else {}),
        **({"commands": True, "debug": job.debug, "title": job.title} if job.has_expressions else {}),
    }
