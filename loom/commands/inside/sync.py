"""`loom resume --sync`: bring the checkout's changes since the last sync into the files of the jobs that go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from loom import snapshot
from loom.cancel import Cancel, signals
from loom.commands.inside.copies import command_for, keep_copies
from loom.commands.project import Project
from loom.commands.project.trusting import discover
from loom.errors import RequestError
from loom.plan.clone import refs_of_head
from loom.record.past_run import PastRun
from loom.snapshot import Merge, Snapshot, Source, readable
from loom.util import atomic
from loom.util.bounded import listed
from loom.util.private import make_own
from loom.values import Environ, Immutable

ASK, THEIRS, OURS = "ask", "theirs", "ours"
"""The treatment of a file that both the checkout and the job changed: refuse, take the checkout's, keep the job's."""


class SyncTarget(Immutable):
    """The files of one job, or of all that share them."""

    job_id: str
    files: Path
    """A plain directory."""
    manifest: Path
    """The manifest of the snapshot with which they were last synced."""
    brought: Path
    """The path for the manifest of this sync."""
    not_there: tuple[str, ...] = ()
    """The paths that `files` was copied without."""
    bring: Callable[[Path, Sequence[str]], None] | None = None
    """Where `files` is a copy: make these paths so in the session itself."""


def take(project: Project, past: PastRun, workspace: Path, run_id: str) -> Snapshot:
    """Fill `workspace` with a new snapshot of the checkout."""
    cancel = Cancel()
    with signals(cancel):
        project.store.workspaces.make(workspace, run_id=run_id, repo_root=past.repo_root)
        found, umask = discover(past.repo_root, project.environ, flag=project.trusting), past.plan.umask
        return snapshot.take(_planned_source(found, past), workspace, cancel=cancel, umask=umask)


def _planned_source(source: Source, past: PastRun) -> Source:
    """Return the source as a clone of that run has it. RequestError where the merge of a pull request can't be made."""
    variables = past.planned.variables
    source = snapshot.with_merge_of(source, variables)
    return snapshot.as_cloned(source, past.planned.clone, refs_of_head(variables))


def sync(
    taken: Snapshot,
    targets: Sequence[SyncTarget],
    prefer: str,
    *,
    environ: Environ,
    say: Callable[[str], None],
) -> tuple[list[str], bytes]:
    """Bring into each target what changed in the checkout since it was last synced; return the paths, and the new manifest.

    RequestError for files that both sides changed, unless `prefer` decides; nothing is changed then. What of a job gives way
    is kept as objects of the checkout's repository.
    """
    compared = [
        (
            target,
            snapshot.compare(
                taken.path, target.files, environ=environ, manifest_file=target.manifest, not_there=target.not_there
            ),
        )
        for target in targets
    ]
    if prefer == ASK:
        _refuse_conflicts(compared)
    copies: list[str] = []
    for target, found in compared if prefer == THEIRS else ():
        gives_way = snapshot.displaced(target.files, [change.path for change in found.both])
        for path, copy in keep_copies(Path(taken.source_root), environ, gives_way).items():
            copies.append(f"{target.job_id}'s {readable(path)} before: {command_for(copy)}")
    held = set[str]()
    for target, found in compared:
        manifest = snapshot.read_manifest(target.files, target.manifest)
        there = {*(module.path for module in manifest.submodules), *(change.path for change in found.changes)}
        left = [module.path for module in taken.submodules if module.path not in there]
        applied = snapshot.bring(taken.path, target.files, found, theirs=prefer == THEIRS)
        if target.bring is not None:
            target.bring(target.files, list(dict.fromkeys([*applied.removed, *applied.written])))
        sides = [partial(snapshot.content_at, side) for side in (taken.path, target.files)]
        kept = {
            path
            for path in (*manifest.kept, *(change.path for change in found.both))
            if sides[0](path) != sides[1](path)
        }
        make_own(target.brought.parent)
        atomic.write(target.brought, snapshot.manifest_bytes(taken.path, kept, without=left), mode=0o600)
        held |= kept
    brought = _report([found for _, found in compared], prefer, say)
    for line in copies:
        say(line)
    return brought, snapshot.manifest_bytes(taken.path, held)


def _refuse_conflicts(compared: Sequence[tuple[SyncTarget, Merge]]) -> None:
    lines = [
        f"{target.job_id}: {readable(path)} ({reason})"
        for target, found in compared
        for path, reason in found.conflicts.items()
    ]
    if lines:
        raise RequestError(
            "nothing was synced, since the checkout's changes conflict with those in the job's files:\n  "
            + "\n  ".join(listed(lines, 20)),
            hint="take the checkout's: `loom resume --sync=theirs`; keep the job's: `loom resume --sync=ours`;"
            " `loom pull` shows what changed in the job's files",
            code="SYNC_CONFLICT",
        )


def _report(found: Sequence[Merge], prefer: str, say: Callable[[str], None]) -> list[str]:
    brought = {change.path: change.kind for merge in found for change in merge.changes}
    conflicts = {change.path: change.kind for merge in found for change in merge.both}
    for path, kind in sorted((brought | conflicts).items()):
        what = f"{readable(path)} ({kind.replace('_', ' ')})"
        if path not in conflicts:
            say(f"brought {what}")
        else:
            say(f"brought {what}, over the job's change" if prefer == THEIRS else f"kept the job's {readable(path)}")
    if not brought and not conflicts:
        say("nothing to sync: the job's files have all changes of the checkout")
    return sorted(brought | conflicts if prefer == THEIRS else brought)
