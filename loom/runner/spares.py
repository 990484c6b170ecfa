"""A workspace whose time is over becomes a later one of its checkout: nothing is deleted to be created again.

File systems search past what was deleted lately: a tree that is created then takes five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loom import snapshot
from loom.record.documents import JobManifest
from loom.record.store import RunEntry, Store, is_alive, read_document
from loom.status import Status
from loom.util.paths import new_workspace, run_of_workspace

MOST = 2
"""The number of spare workspaces per checkout: one for the next run, and one for a run beside it."""


def make_workspace(store: Store, workspace: Path, *, run_id: str, repo_root: Path) -> None:
    """Create and register the workspace of a run: empty, or with a spare one's files, which the snapshot then renews.

    Without a spare one, a run with a record gets the workspace of the checkout's last run if nobody can need that.
    """
    registered = store.workspaces
    registered.make(workspace, run_id=run_id, repo_root=repo_root)
    for spare in registered.spares(repo_root) or _of_last_run(store, run_id, repo_root):
        if spare.parent != workspace.parent:
            continue
        registered.register(workspace, run_id=run_id, repo_root=repo_root, directory=spare)
        if snapshot.hand_over(spare, registered.known(spare), workspace, registered.known(workspace)):
            if not snapshot.remains(spare):  # a clean-up removes what jobs left beside it
                registered.forget(spare)
            return
        registered.register(workspace, run_id=run_id, repo_root=repo_root)


def _of_last_run(store: Store, run_id: str, repo_root: Path) -> Iterator[Path]:
    """Yield its workspace if that is large, and the run is over and left nothing that anybody could go on with."""
    registered, root = store.workspaces, str(repo_root)
    runs = {one.run_id: one.path for one in registered.all() if (one.kind, one.repo_root) == ("run", root)}
    if run_id not in store.run_ids() or not any(map(registered.is_large, runs.values())):
        return
    last = next((entry for entry in store.entries(repo_root) if entry.run_id != run_id), None)
    workspace = None if last is None or not _is_over(last) else runs.get(last.run_id)
    if workspace is not None and registered.is_large(workspace) and registered.confirms(workspace):
        yield workspace


def _is_over(run: RunEntry) -> bool:
    """Return whether a run passed, its process has ended, and nobody entered or kept a job, or was warned of what one left."""
    jobs = (read_document(path, JobManifest) for path in run.paths.logs.glob("jobs/*/manifest.json"))
    return (
        run.state == Status.SUCCESS
        and run.child_of is None
        and not is_alive(run.identity)
        and not run.paths.assistance.exists()
        and all(job is not None and not job.kept and not job.warnings for job in jobs)
    )


def set_aside(store: Store, workspace: Path, repo_root: Path) -> bool:
    """Keep the files of a workspace that nobody needs, under another name. False where it is to be removed."""
    registered, known = store.workspaces, store.workspaces.known(workspace)
    few = len(registered.spares(repo_root)) < MOST
    if not (few and registered.is_large(workspace) and registered.confirms(workspace)):
        return False
    run_id = run_of_workspace(workspace.name) or ""
    spare = workspace.with_name(new_workspace(workspace.parent, run_id).name)
    registered.register(spare, run_id=run_id, repo_root=repo_root, kind="spare", directory=workspace)
    done = snapshot.hand_over(workspace, known, spare, registered.known(spare), stripped=True)
    registered.forget(workspace if done else spare)
    return done
