"""A workspace whose time is over becomes a later one of its checkout: nothing is deleted to be created again.

File systems search past what was deleted lately: a tree that is created then takes five times as long.
"""

from __future__ import annotations

from pathlib import Path

from loom import snapshot
from loom.record.store import Store
from loom.util.paths import new_workspace, run_of_workspace

MOST = 2
"""The number of spare workspaces per checkout: one for the next run, and one for a run beside it."""


def make_workspace(store: Store, workspace: Path, *, run_id: str, repo_root: Path) -> None:
    """Create and register the workspace of a run: empty, or with a spare one's files, which the snapshot then renews."""
    registered = store.workspaces
    registered.make(workspace, run_id=run_id, repo_root=repo_root)
    for spare in registered.spares(repo_root):
        if spare.parent != workspace.parent:
            continue
        registered.register(workspace, run_id=run_id, repo_root=repo_root, directory=spare)
        if snapshot.hand_over(spare, registered.known(spare), workspace, registered.known(workspace)):
            registered.forget(spare)
            return
        registered.register(workspace, run_id=run_id, repo_root=repo_root)


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
