"""`loom resume` and `loom rerun`: an earlier run's jobs again, from where they failed or from the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loom.cli.entering import Around
    from loom.cli.running import Options
    from loom.engine import Reuse
    from loom.past import PastJob, PastRun
    from loom.results import JobResult
    from loom.runner import Resumption


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)
    app.command("rerun")(rerun)


RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="The last run if not given.")]
Stream = Annotated[bool, typer.Option("--stream", help="Show output live, with the job's name in front.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the receipt's path and the final status only.")]
Keep = Annotated[
    str | None, typer.Option("--keep", metavar="WHEN", help="Keep jobs' containers: never, on-failure or always.")
]


def resume(
    run: RunName = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="JOB[:STEP]", help="The job, and where in it; where it failed if not given."),
    ] = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="First bring the checkout's present changes into the workspace.")
    ] = False,
    stream: Stream = False,
    quiet: Quiet = False,
    keep: Keep = None,
) -> None:
    """Go on with a failed run: its failed jobs from their failing steps, then what depends on them.

    A job goes on in its kept container, else in one restored from the checkpoint that was made when it failed.
    """
    from loom.cli import entering, running

    here = entering.around()
    past = entering.find_run(here, run)
    # What was kept once is kept again, also where there is no terminal.
    options = running.Options(stream=stream, quiet=quiet, keep=keep or "on-failure")
    raise SystemExit(_Resuming(here, past, options).run(from_, sync=sync))


def rerun(
    run: RunName = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only the jobs that failed or were skipped, and what depends on them.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="On a new snapshot of the checkout, by its present workflow.")
    ] = False,
    stream: Stream = False,
    quiet: Quiet = False,
    keep: Keep = None,
) -> None:
    """Run an earlier run's jobs again from the start, on the same snapshot."""
    from loom.cli import entering, running

    here = entering.around()
    past = entering.find_run(here, run)
    options = running.Options(stream=stream, quiet=quiet, keep=keep)
    raise SystemExit(_fresh(here, past, options, failed=failed) if fresh else _same(here, past, options, failed=failed))


class _Resuming:
    def __init__(self, here: Around, past: PastRun, options: Options) -> None:
        import time

        self._here = here
        self._past = past
        self._options = options
        self._run_id = str(time.time_ns())
        self._workspace: Path | None = None
        self._restored: list[tuple[PastJob, Path]] = []

    def run(self, from_: str | None, *, sync: bool) -> int:
        from loom import snapshot
        from loom.errors import RequestError

        past = self._past
        if past.entry.alive:
            raise RequestError(f"run {past.run_id} has not ended yet", hint="wait for it, or interrupt it first")
        try:
            reuse = self._reuse(from_, sync=sync)
        except BaseException:
            for _, workspace in self._restored:  # no run has them yet, so nothing else would ever remove them
                snapshot.remove(workspace, recorded=True)
            raise
        return execute(self._here, past, reuse, self._options, self._run_id)

    def _reuse(self, from_: str | None, *, sync: bool) -> Reuse:
        from loom import engine
        from loom.errors import RequestError

        past, jobs = self._past, self._wanted(from_)
        resumed = {
            job.job.id: resumption for job, step in jobs if (resumption := self._resumption(job, step, sync=sync))
        }
        workspace = self._workspace or past.workspace
        if not workspace.is_dir():
            raise RequestError(
                f"the workspace of run {past.run_id} ({workspace}) is gone, and no checkpoint has it",
                hint=f"start again: loom rerun {past.run_id}",
                code="NOTHING_KEPT",
            )
        again = dependents(past, [job.job.id for job, _ in jobs])
        results = results_besides(past, again, also_unfinished=from_ is None)
        if sync:
            self._sync(workspace)
        return engine.Reuse(
            parent_run_id=past.run_id,
            workspace=workspace,
            snapshot=past.snapshot or {},
            results=results,
            resumed=resumed,
            archive_of=past.archive_of,
        )

    def _wanted(self, from_: str | None) -> list[tuple[PastJob, str | None]]:
        from loom.errors import RequestError
        from loom.results import Status

        past = self._past
        if from_ is not None:
            job_id, _, step = from_.partition(":")
            job = past.job(job_id)
            return [(job, job.step(step or None).id)]
        failed = [
            past.job(job_id)
            for job_id in past.failed()
            if past.fold.jobs[job_id].status in (Status.FAILURE, Status.TIMED_OUT, Status.ERROR, Status.CANCELED)
        ]
        if not failed:
            raise RequestError(
                f"no job of run {past.run_id} failed", hint="say where to go on from: loom resume --from JOB:STEP"
            )
        return [(job, job.failing_step or job.last_step) for job in failed]

    def _resumption(self, job: PastJob, step_id: str | None, *, sync: bool) -> Resumption | None:
        """How the job goes on; None when it runs from its start, since it never came to a step."""
        from functools import partial

        from loom.cli import entering
        from loom.errors import RequestError
        from loom.runner import Resumption

        if step_id is None:
            self._say(f"{job.job.id} runs from its start: it failed before its first step")
            return None
        step = job.step(step_id)
        handed_on, lost = job.handed_on(step, entering.resolve_secrets(self._here, job))
        if lost:
            self._say(f"{job.job.id}: not set, since the record has them without their secret: {', '.join(lost)}")
        if not job.in_container:
            self._say(f"{job.job.id} goes on from {step.id}, on this machine")
            return Resumption(step=step.id, handed_on=handed_on)
        from loom.plan import MountMode
        from loom.providers.docker import kept

        found = entering.find_container(self._here, job)
        if sync and job.run.planned.mount_mode is not MountMode.BIND:
            found = None  # a view that is mounted can't be changed from under the container
        if found is not None and (found.running or job.run.workspace.is_dir()):
            self._say(f"{job.job.id} goes on from {step.id}, in its kept container")
            adopt = partial(kept.adopted, self._here.engine, found)
            return Resumption(step=step.id, handed_on=handed_on, image=job.image, adopt=adopt)
        image_id, restored = entering.restore_checkpoint(self._here, job, self._run_id)
        if image_id is None:
            raise RequestError(
                f"nothing of job {job.job.id} was kept to go on from: neither its container nor a checkpoint",
                hint=f"start again with `loom rerun {job.run.run_id} --failed`; `--keep on-failure` keeps both",
                code="NOTHING_KEPT",
            )
        if restored is not None:
            self._restored.append((job, restored))
            if self._workspace is not None:
                ids = [each.job.id for each, _ in self._restored]
                raise RequestError(
                    f"jobs {' and '.join(ids)} would each go on in a workspace restored from its checkpoint, "
                    "and a run has only one",
                    hint="go on with one after the other:\n"
                    + "\n".join(f"loom resume {job.run.run_id} --from {job_id}" for job_id in ids),
                    code="TWO_WORKSPACES",
                )
            self._workspace = restored
        self._say(f"{job.job.id} goes on from {step.id}, in a container restored from its checkpoint")
        from dataclasses import replace

        image = job.image
        assert image is not None
        return Resumption(step=step.id, handed_on=handed_on, image=replace(image, image_id=image_id))

    def _sync(self, workspace: Path) -> None:
        from loom import snapshot

        manifest = self._past.entry.paths.root / "snapshot.json"
        brought = snapshot.bring(self._past.repo_root, workspace, environ=self._here.environ, manifest_file=manifest)
        for change in brought:
            self._say(f"brought {change.path} ({change.kind.replace('_', ' ')})")
        if not brought:
            self._say("nothing to bring: the checkout is as the run's snapshot was")

    def _say(self, text: str) -> None:
        if not self._options.quiet:
            print(text, flush=True)


def dependents(past: PastRun, job_ids: list[str]) -> set[str]:
    """These jobs and all that wait for them, directly or not."""
    from loom.scheduler import waits_for

    plan = past.planned.plan
    again = set(job_ids)
    for job in plan.jobs:  # in topological order
        if again & set(waits_for(plan, job)):
            again.add(job.id)
    return again


def results_besides(past: PastRun, again: set[str], *, also_unfinished: bool) -> dict[str, JobResult]:
    """What the jobs that do not run again came to; unless those that never ended are to run too, these count as skipped."""
    from loom.results import JobResult, Status

    results = {}
    for job in past.planned.plan.jobs:
        if job.id in again:
            continue
        result = past.result_of(job.id)
        if result is not None and not (also_unfinished and result.status in (Status.CANCELED, Status.SKIPPED)):
            results[job.id] = result
        elif not also_unfinished:
            results[job.id] = JobResult(status=Status.SKIPPED)
    return results


def execute(here: Around, past: PastRun, reuse: Reuse, options: Options, run_id: str) -> int:
    from dataclasses import replace

    from loom import config, snapshot
    from loom.cli import running

    planned = past.planned
    source = snapshot.discover(past.repo_root, environ=here.environ)
    options = replace(
        options, container=planned.container, strict=planned.isolated, mount_mode=planned.mount_mode.value
    )
    settings = config.load(root=source.root, environ=here.environ, flags=running.flags_of(options))
    prepared = running.Prepared(run_id=run_id, environ=here.environ, source=source, config=settings, plan=planned.plan)
    ids = dict.fromkeys(("LOOM_RUN_ID", "LOOM_PIPELINE_ID", "CI_PIPELINE_ID"), run_id)
    return running.execute(prepared, options, reuse=reuse, variables={**planned.variables, **ids})


def _same(here: Around, past: PastRun, options: Options, *, failed: bool) -> int:
    import time

    from loom import engine
    from loom.errors import RequestError

    run_id = str(time.time_ns())
    results: Mapping[str, JobResult] = {}
    if failed:
        ids = past.failed()
        if not ids:
            raise RequestError(
                f"no job of run {past.run_id} failed", hint="leave --failed out to run all of them again"
            )
        results = results_besides(past, dependents(past, ids), also_unfinished=True)
    workspace = engine.new_workspace(here.config.tmp_dir, run_id)
    document = _snapshot_again(here, past, workspace)
    reuse = engine.Reuse(
        parent_run_id=past.run_id,
        workspace=workspace,
        snapshot=document,
        results=results,
        archive_of=past.archive_of,
        has_products=False,
    )
    return execute(here, past, reuse, options, run_id)


def _snapshot_again(here: Around, past: PastRun, workspace: Path) -> Mapping[str, object]:
    """Fill `workspace` with the very tree that the earlier run had: from the checkout, else from that run's workspace."""
    from loom import snapshot
    from loom.cancel import Cancel
    from loom.cli.running import signals
    from loom.errors import LoomError, RequestError

    wanted = (past.snapshot or {}).get("tree_sha")
    if wanted is None:
        raise RequestError(
            f"run {past.run_id} has no snapshot to run on again", hint=f"loom rerun {past.run_id} --fresh"
        )
    cancel = Cancel()
    reasons = []
    with signals(cancel):
        for place, name in ((past.repo_root, "the checkout"), (past.workspace, "that run's workspace")):
            if not place.is_dir():
                reasons.append(f"{name} ({place}) is gone")
                continue
            workspace.mkdir(parents=True)
            try:
                taken = snapshot.take(snapshot.discover(place, environ=here.environ), workspace, cancel=cancel)
            except LoomError as error:
                workspace.rmdir()
                if cancel.requested:
                    raise
                reasons.append(f"{name}: {error.message}")
                continue
            if taken.tree_sha == wanted:
                return {**taken.document(), "source_root": str(past.repo_root)}
            snapshot.remove(workspace)
            reasons.append(f"{name} has changed since (tree {taken.tree_sha[:12]})")
    raise RequestError(
        f"the snapshot of run {past.run_id} (tree {wanted[:12]}) can't be made again: {'; '.join(reasons)}",
        hint=f"run on what is there now: loom rerun {past.run_id} --fresh",
        code="SNAPSHOT_GONE",
    )


def _fresh(here: Around, past: PastRun, options: Options, *, failed: bool) -> int:
    from dataclasses import replace

    from loom.cli import running
    from loom.errors import RequestError

    if here.root is None or here.root.resolve() != past.repo_root.resolve():
        raise RequestError(
            f"run {past.run_id} is one of {past.repo_root}, which is not the checkout here",
            hint=f"run it there: cd {past.repo_root}",
        )
    ids = past.failed() if failed else [job.id for job in past.planned.plan.jobs]
    if not ids:
        raise RequestError(f"no job of run {past.run_id} failed", hint="leave --failed out to run all of them again")
    return running.run(
        replace(
            options,
            jobs=tuple(ids),
            parent_run_id=past.run_id,
            container=past.planned.container,
            strict=past.planned.isolated,
            mount_mode=past.planned.mount_mode.value,
        )
    )
