"""`loom pull`: changes that a job or its shell made, as a patch for the checkout. `loom workspace`: the path to them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

from msgspec import Struct

from loom import snapshot
from loom.commands.inside import saved, session
from loom.commands.inside.copies import command_for, keep_copies
from loom.commands.project import Project, open_project
from loom.errors import RequestError
from loom.record.lines import text_fields
from loom.record.past_run import PastRun
from loom.render.output import print_kind
from loom.snapshot import Change, Patch, SavedFiles, readable
from loom.storage.selection import PathSelection
from loom.util.bounded import listed


def pull(run: str | None, job: str | None, *, apply: bool, as_json: bool) -> None:
    project = open_project()
    source = _source(project, [name for name in (run, job) if name])
    past, left_out = source.run, source.left_out
    if apply and not project.store.has_record(past.entry):
        raise RequestError(
            f"{past.paths.root} is not a record of this user's runs: nothing was applied",
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
    copies = keep_copies(past.repo_root, os.environ, patch.before.items()) if apply else {}
    failed = dict(snapshot.apply_patch(patch, past.repo_root).failed) if apply else {}
    special = {path: f"a {kind}, not a file" for path, kind in patch.special}
    generated = {change.path: "made by the job" for change in patch.left_out}
    without = {**left_out, **special, **dict(patch.unreadable), **generated}
    if as_json:
        changes = [change for change in patch.changes if change.path not in failed]
        values = {
            "run_id": past.run_id,
            "changes": [
                {"path": readable(change.path), "kind": change.kind, "replaced": copies.get(change.path)}
                for change in changes
            ],
            **text_fields("patch", patch.text),
            "applied": apply,
            "left_out": _reasons(without),
            "conflicts": _reasons({**patch.conflicts, **failed}),
        }
        print_kind("pull", values)
    else:
        _print(patch, without, failed, copies, applied=apply)
    if apply and (not_applied := sorted({*patch.conflicts, *failed})):
        raise RequestError(
            f"not applied: {', '.join(listed(map(readable, not_applied), 10))}",
            hint="all other changes are applied; undo your edits of these files and pull again, or copy what you want by hand:"
            " `loom workspace` prints where the job's files are",
            code="CHECKOUT_CHANGED",
        )


def _reasons(paths: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"path": readable(path), "reason": reason} for path, reason in paths.items()]


def _print(
    patch: Patch, left_out: Mapping[str, str], failed: Mapping[str, str], copies: Mapping[str, str], *, applied: bool
) -> None:
    for path, reason in left_out.items():
        print(f"left out: {readable(path)} ({reason})", file=sys.stderr)
    for path, reason in patch.conflicts.items():
        print(f"conflict: {readable(path)}: {reason}", file=sys.stderr)
    nothing = not patch.changes and not patch.conflicts
    if applied:
        for change in patch.changes:
            if change.path not in failed:
                copy = copies.get(change.path)
                before = f", before: {command_for(copy)}" if copy else ""
                print(f"{change.kind.replace('_', ' ')}: {readable(change.path)}{before}")
        for path, reason in failed.items():
            print(f"not applied: {readable(path)}: {reason}", file=sys.stderr)
        if nothing:
            print("nothing to apply: the workspace is as the snapshot was")
        return
    sys.stdout.flush()
    if sys.stdout.isatty():
        print(patch.text.decode("utf-8", "replace"), end="")  # for reading; a pipe or a file gets the exact bytes
    else:
        sys.stdout.buffer.write(patch.text)
    if nothing:
        print("nothing changed in the workspace since the snapshot", file=sys.stderr)


class _Source(Struct, kw_only=True):
    run: PastRun
    files: Path
    manifest: Path
    """The manifest of the snapshot that they were."""
    saved: SavedFiles | None = None
    left_out: Mapping[str, str]


def _source(project: Project, names: list[str]) -> _Source:
    """Find the files to pull; without a name, those of the failing, the resumed or the only job."""
    run, job = session.find_named(project, names)
    try:
        job = job or run.one_job()
    except RequestError:
        sharing = next((run.job(job_id) for job_id in run.fold.jobs if run.job(job_id).shares_workspace), None)
        if sharing is None or not run.workspace.is_dir():
            raise
        return _Source(run=run, files=run.workspace, manifest=sharing.manifest, left_out={})  # all jobs share it
    if not job.has_snapshot:
        raise RequestError(
            f"{job.id} has none of your files: it began empty, by GIT_STRATEGY or before an actions/checkout of all files",
            hint=f"`loom workspace {job.run.run_id} {job.id}` prints where they are",
            code="NO_CHECKOUT",
        )
    left_out: dict[str, str] = {}
    try:
        files = session.view_now(project, job) or session.files_of(project, job, left_out)
        return _Source(run=job.run, files=files, manifest=job.manifest, left_out=left_out)
    except RequestError as error:
        found = saved.read(job) if error.code == "NOTHING_KEPT" else None
        if found is None:
            raise
        gone = job.run.workspace
        manifest = saved.manifest_of(job)
        return _Source(run=job.run, files=gone, manifest=manifest, saved=found, left_out=dict(found.left_out))


def _generated(run: PastRun) -> Callable[[Change], bool]:
    """Return a test for files that the run's jobs generate: artifacts, reports and caches."""
    patterns: list[str] = []
    for job in run.plan.jobs:
        if job.artifacts is not None:
            patterns += [*job.artifacts.paths, *chain.from_iterable(job.artifacts.reports.values())]
        for cache in job.cache:
            patterns += cache.paths
    selection = PathSelection(patterns)
    return lambda change: change.kind == "added" and selection.takes(change.path)


def workspace(run: str | None, job: str | None, *, as_json: bool) -> None:
    project = open_project()
    names = [name for name in (run, job) if name]
    left_out: dict[str, str] = {}
    past, found = session.find_named(project, names)
    past = past if found is None else found.run  # an earlier one, if the job did not run again
    path = past.workspace if found is None else session.files_of(project, found, left_out)
    if not path.is_dir():
        raise RequestError(
            f"the workspace of run {past.run_id} ({path}) is gone",
            hint=f"a later run renewed it, or `loom clean` removed it; run it again: loom rerun {past.run_id}",
            code="WORKSPACE_GONE",
        )
    if as_json:
        job_id = found.job.id if found is not None else None
        values = {"run_id": past.run_id, "job_id": job_id, "path": readable(str(path)), "left_out": _reasons(left_out)}
        print_kind("workspace", values)
        return
    print(path)
    for item, reason in left_out.items():
        print(f"left out: {readable(item)} ({reason})", file=sys.stderr)
