"""Lay out the tree of an earlier snapshot again: from the checkout while it is the same, else from a workspace that has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from loom import snapshot
from loom.cancel import Cancel
from loom.commands.keep.trusting import filters_allowed
from loom.commands.project import Here
from loom.errors import LoomError
from loom.util.paths import run_of_workspace


def taken_again(
    here: Here, wanted: str, places: Iterable[tuple[Path, str]], workspace: Path, cancel: Cancel
) -> tuple[Mapping[str, object] | None, list[str]]:
    """Fill the new directory `workspace` with the tree `wanted`; return the snapshot's facts, or the reasons against each place.

    `places`: directories with their names for people; the first one is the checkout.
    """
    reasons: list[str] = []
    places = list(places)
    checkout = places[0][0]
    for place, name in places:
        if not place.is_dir():
            reasons.append(f"{name} ({place}) is gone")
            continue
        here.store.claims.make(workspace, run_id=run_of_workspace(workspace.name) or "", repo_root=checkout)
        try:
            taken = snapshot.take(
                snapshot.discover(place, environ=here.environ, filters=filters_allowed(here.environ)),
                workspace,
                cancel=cancel,
            )
        except LoomError as error:
            workspace.rmdir()
            if cancel.requested:
                raise
            reasons.append(f"{name}: {error.message}")
            continue
        if taken.tree_sha == wanted:
            return {**taken.document(), "source_root": str(checkout)}, reasons
        snapshot.remove(workspace)
        reasons.append(f"{name} has changed since (tree {taken.tree_sha[:12]})")
    return None, reasons
