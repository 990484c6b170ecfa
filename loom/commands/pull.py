"""`loom pull`: changes that a job or its shell made, as a patch for the checkout. `loom workspace`: the path to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from loom import snapshot
from loom.commands import session
from loom.commands.project import Here
from loom.errors import RequestError
from loom.snapshot import Change, Patch, readable
from loom.storage.selection import Selection
from loom.util.bounded import listed

if TYPE_CHECKING:
    from loom.runner.previous_run import PastRun

MAX_NAMED = 10


def pull(run: str | None, job: str | None, *, apply: bool) -> None:
    """Bring what a job changed in its files into the checkout. Shown as a patch first; --apply does it.

    Left out is what git ignores, and what the jobs declare as artifacts or caches. Files that you edited in the checkout
    since the run are never overwritten: they are named, and all others applied.
    """
    here = session.around()
    left_out: dict[str, str] = {}
    past, files, manifest = _files(here, [name for name in (run, job) if name], left_out)
    if apply and not here.store.holds(past.entry):
        raise RequestError(
            f"{past.entry.paths.root} is no record of this user's runs: nothing was applied",
            hint="look at the patch without --apply, and `git apply` it yourself",
        )
    patch = snapshot.patch_of(
        files,
        past.repo_root,
        environ=os.environ,
        manifest_file=manifest if manifest.exists() else None,
        leave_out=_generated(past),
        not_there=left_out,
    )
    special = {path: f"a {kind}, not a file" for path, kind in patch.special}
    for path, reason in {**left_out, **special, **dict(patch.unreadable)}.items():
        print(f"left out: {snapshot.readable(path)} ({reason})", file=sys.stderr)
    for change in patch.left_out:
        print(f"left out: {snapshot.readable(change.path)} (made by the job)", file=sys.stderr)
    for path, reason in patch.conflicts.items():
        print(f"conflict: {snapshot.readable(path)}: {reason}", file=sys.stderr)
    if not apply:
        sys.stdout.flush()
        if sys.stdout.isatty():
            print(patch.text.decode("utf-8", "replace"), end="")  # for reading; a pipe or a file gets the exact bytes
        else:
            sys.stdout.buffer.write(patch.text)
        if not patch.changes and not patch.conflicts:
            print("nothing changed in the workspace since the snapshot", file=sys.stderr)
        return
    _apply(patch, past.repo_root)


def _apply(patch: Patch, checkout: Path) -> None:
    """Apply what can be applied, and name the rest. RequestError when there is such a rest."""
    applied = snapshot.apply_patch(patch, checkout)
    for change in patch.changes:
        if change.path not in applied.failed:
            print(f"{change.kind.replace('_', ' ')}: {snapshot.readable(change.path)}")
    for path, reason in applied.failed.items():
        print(f"not applied: {snapshot.readable(path)}: {reason}", file=sys.stderr)
    if not patch.changes and not patch.conflicts:
        print("nothing to apply: the workspace is as the snapshot was")
    if not_applied := sorted({*patch.conflicts, *applied.failed}):
        raise RequestError(
            f"not applied: {', '.join(listed(map(snapshot.readable, not_applied), MAX_NAMED))}",
            hint="all other changes are applied; commit or undo your edits of these files, then pull again,"
            " or copy them by hand: `loom workspace` prints where they are",
            code="CHECKOUT_CHANGED",
        )


def _files(here: Here, names: list[str], left_out: dict[str, str]) -> tuple[PastRun, Path, Path]:
    """Return the run, the directory of its job's files, and the manifest of what they were.

    Without a name, these are of the failing or the only job.
    """
    try:
        job = session.find_job(here, names)
    except RequestError as error:
        if len(names) == 2 or error.code in ("RUN_UNKNOWN", "JOB_UNKNOWN", "RUN_AMBIGUOUS"):
            raise
        run = session.find_run(here, names[0] if names else None)
        sharing = next((run.job(job_id) for job_id in run.fold.jobs if run.job(job_id).shares_workspace), None)
        if sharing is None or not run.workspace.is_dir():
            raise
        return run, run.workspace, sharing.manifest  # all jobs share it
    return job.run, session.files_of(here, job, left_out), job.manifest


def _generated(run: PastRun) -> Callable[[Change], bool]:
    """Return a test for files that the run's jobs generate: artifacts, reports and caches."""
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


def workspace(run: str | None, job: str | None) -> None:
    """`loom workspace`."""
    here = session.around()
    names = [name for name in (run, job) if name]
    try:
        found = session.find_job(here, names) if names else None
    except RequestError as error:
        if len(names) == 2 or error.code in ("RUN_UNKNOWN", "JOB_UNKNOWN", "RUN_AMBIGUOUS"):
            raise
        found = None  # a run without one job that could be meant
    if found is not None and found.job.id in names[-1:] + [found.job.name for _ in names[-1:] if found.job.name]:
        left_out: dict[str, str] = {}
        print(session.files_of(here, found, left_out))
        for path, reason in left_out.items():
            print(f"left out: {readable(path)} ({reason})", file=sys.stderr)
        return
    past = session.find_run(here, names[0] if names else None)
    if not past.workspace.is_dir():
        raise RequestError(
            f"the workspace of run {past.run_id} ({past.workspace}) is gone",
            hint=f"run it again: loom rerun {past.run_id}",
            code="WORKSPACE_GONE",
        )
    print(past.workspace)
