"""`loom pull`: what a job, or the person in its shell, changed in the workspace, as a patch for the checkout."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from loom.cli.options import JobOfRun, RunOrJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loom.cli.entering import Around
    from loom.past import PastJob, PastRun
    from loom.snapshot import Change


def register(app: typer.Typer) -> None:
    app.command("pull")(pull)


def pull(
    run: RunOrJob = None,
    job: JobOfRun = None,
    apply: Annotated[bool, typer.Option("--apply", help="Change the checkout, rather than show the patch.")] = False,
) -> None:
    """Bring what changed in a run's workspace into the checkout. Shown as a patch first; --apply does it.

    Left out is what git ignores, and what the jobs declare as artifacts or caches. Files that you edited in the checkout
    since the run are never overwritten.
    """
    import os

    from loom import snapshot
    from loom.cli import entering
    from loom.errors import RequestError

    here = entering.around()
    past, of_job = _which(here, [name for name in (run, job) if name])
    if apply and not here.store.holds(past.entry):
        raise RequestError(
            f"{past.entry.paths.root} is no record of this user's runs: nothing was applied",
            hint="look at the patch without --apply, and `git apply` it yourself",
        )
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        place = _place(here, past, of_job, stack, left_out)
        manifest = past.entry.paths.root / "snapshot.json"
        patch = snapshot.patch_of(
            place,
            past.repo_root,
            environ=os.environ,
            manifest_file=manifest if manifest.exists() else None,
            leave_out=_generated(past),
            not_there=left_out,
        )
    for path, reason in {**left_out, **{path: f"a {kind}, not a file" for path, kind in patch.special}}.items():
        print(f"left out: {snapshot.readable(path)} ({reason})", file=sys.stderr)
    for change in patch.left_out:
        print(f"left out: {snapshot.readable(change.path)} (made by the job)", file=sys.stderr)
    for path in patch.conflicts:
        print(f"conflict: {snapshot.readable(path)} was changed in the checkout since the run", file=sys.stderr)
    if not apply:
        sys.stdout.flush()
        sys.stdout.buffer.write(patch.text)
        if not patch.changes and not patch.conflicts:
            print("nothing changed in the workspace since the snapshot", file=sys.stderr)
        return
    snapshot.apply_patch(patch, past.repo_root, environ=os.environ)
    for change in patch.changes:
        print(f"{change.kind.replace('_', ' ')}: {snapshot.readable(change.path)}")
    if not patch.changes:
        print("nothing to apply: the workspace is as the snapshot was")


def _which(here: Around, names: list[str]) -> tuple[PastRun, PastJob | None]:
    """The run, and the job whose view of the workspace is meant where jobs have their own."""
    from loom.cli import entering
    from loom.errors import RequestError
    from loom.plan import MountMode

    if len(names) == 2:
        job = entering.find_job(here, names)
        return job.run, job
    if not names:
        run = entering.find_run(here, None)
        return run, None if run.planned.mount_mode is MountMode.BIND else run.one_job()
    try:
        job = entering.find_job(here, names)
    except RequestError as error:
        if error.code in ("RUN_UNKNOWN", "JOB_UNKNOWN", "RUN_AMBIGUOUS"):
            raise
        run = entering.find_run(here, names[0])
        return run, None if run.planned.mount_mode is MountMode.BIND else run.one_job()
    return job.run, job


def _place(here: Around, run: PastRun, job: PastJob | None, stack: ExitStack, left_out: dict[str, str]) -> Path:
    """A directory with the files as they are: the workspace, or a copy of the job's own view of it.

    `left_out` gets the path and the reason of each special file that the copy does not have.
    """
    import tempfile
    from pathlib import Path

    from loom.cli import entering
    from loom.errors import RequestError
    from loom.plan import MountMode

    if run.planned.mount_mode is MountMode.BIND and run.workspace.is_dir():
        return run.workspace
    job = job or run.one_job()
    if not job.in_container and run.workspace.is_dir():
        return run.workspace
    from loom.providers.docker import checkpoint, kept

    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loom-pull-", dir=here.config.tmp_dir)))
    found = entering.find_container(here, job) if job.in_container else None
    if found is not None and run.planned.mount_mode is not MountMode.BIND:
        kept.copy_out(
            here.engine(),
            found,
            scratch / "view",
            lambda item: left_out.update({item.path: item.reason}),
        )
    elif job.checkpoint_archive.exists():
        checkpoint.lay_out(job.checkpoint_archive, scratch / "view")
        left_out |= job.not_in_checkpoint()[0]
    else:
        raise RequestError(
            f"nothing is left of what job {job.job.id} had in its workspace",
            hint="keep it the next time: loom run --keep on-failure",
            code="NOTHING_KEPT",
        )
    return scratch / "view"


def _generated(run: PastRun) -> Callable[[Change], bool]:
    """Whether a change is a file that the run's jobs make: one of their artifacts, reports or caches."""
    from loom.view import Selection

    patterns: list[str] = []
    for job in run.planned.plan.jobs:
        if job.artifacts is not None:
            patterns += [*job.artifacts.paths, *job.artifacts.junit]
        for cache in job.cache:
            patterns += cache.paths
    selection = Selection(patterns)

    def generated(change: Change) -> bool:
        return change.kind == "added" and selection.takes(change.path)

    return generated
