"""`loom pull`: changes that a job or its shell made, as a patch for the checkout. `loom workspace`: the path to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from msgspec import Struct

from loom import snapshot
from loom.commands import saved, session
from loom.commands.project import Here
from loom.errors import RequestError
from loom.runner.previous_run import PastRun
from loom.snapshot import Change, Patch, readable
from loom.storage.selection import Selection
from loom.util.bounded import listed

MAX_NAMED = 10


def pull(run: str | None, job: str | None, *, apply: bool) -> None:
    """Bring what a job changed in its files into the checkout. Shown as a patch first; --apply does it.

    Left out is what git ignores, and what the jobs declare as artifacts or caches. Files that you edited in the checkout
    since the run are never overwritten: they are named, and all others applied.
    """
    here = session.around()
    with ExitStack() as stack:
        source = _source(here, [name for name in (run, job) if name], stack)
        past, left_out = source.run, source.left_out
        if apply and not here.store.holds(past.entry):
            raise RequestError(
                f"{past.entry.paths.root} is not a record of this user's runs: nothing was applied",
                hint="look at the patch without --apply, and `git apply` it yourself",
            )
        patch = snapshot.patch_of(
            source.files,
            past.repo_root,
            environ=os.environ,
            manifest_file=source.manifest if source.manifest.exists() else None,
            leave_out=_generated(past),
            not_there=left_out,
            saved=source.saved,
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


class _Source(Struct, kw_only=True):
    """Where the changes of a job are: its files, or those that were saved of it, with their list."""

    run: PastRun
    files: Path
    manifest: Path
    """Of the snapshot that they were."""
    saved: tuple[Change, ...] | None = None
    left_out: dict[str, str]


def _source(here: Here, names: list[str], stack: ExitStack) -> _Source:
    """Find what to pull; without a name, of the failing, the resumed or the only job."""
    try:
        job = session.find_job(here, names)
    except RequestError as error:
        if len(names) == 2 or error.code in ("RUN_UNKNOWN", "JOB_UNKNOWN", "RUN_AMBIGUOUS"):
            raise
        run = session.find_run(here, names[0] if names else None)
        sharing = next((run.job(job_id) for job_id in run.fold.jobs if run.job(job_id).shares_workspace), None)
        if sharing is None or not run.workspace.is_dir():
            raise
        return _Source(run=run, files=run.workspace, manifest=sharing.manifest, left_out={})  # all jobs share it
    left_out: dict[str, str] = {}
    try:
        files = session.view_now(here, job) or session.files_of(here, job, left_out)
        return _Source(run=job.run, files=files, manifest=job.manifest, left_out=left_out)
    except RequestError as error:
        found = stack.enter_context(saved.opened(job)) if error.code == "NOTHING_KEPT" else None
        if found is None:
            raise
        left_out = dict(found.left_out)
        return _Source(run=job.run, files=found.files, manifest=job.manifest, saved=found.changes, left_out=left_out)


def _generated(run: PastRun) -> Callable[[Change], bool]:
    """Return a test for files that the run's jobs generate: artifacts, reports and caches."""
    patterns: list[str] = []
    for job in run.planned.plan.jobs:
        if job.artifacts is not None:
            patterns += [*job.artifacts.paths, *chain.from_iterable(job.artifacts.reports.values())]
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
