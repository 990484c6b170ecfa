"""Find what changed in the checkout since a run, as far as that is cheap to know."""

from __future__ import annotations

import os
from pathlib import Path

from loom import snapshot
from loom.analysis.diagnosis import MovedOn
from loom.errors import LoomError
from loom.record.reader import Reading

_FEW_FILES = 1000
"""So many files are read again in about 0.1 s; of more, only HEAD is compared."""
_MOST = 5


def moved_on(reading: Reading) -> MovedOn | None:
    """Return what changed since the run; None for nothing, or where it can't be known."""
    receipt = reading.receipt()
    root, taken = receipt.get("repo_root"), receipt.get("snapshot") or {}
    if root is None or not taken:
        return None
    try:
        head = snapshot.discover(Path(root), environ=os.environ).head_sha
        changed = []
        if taken.get("files", _FEW_FILES) < _FEW_FILES:
            verified = snapshot.verify(Path(root), environ=os.environ, manifest_file=reading.paths.snapshot)
            changed = [snapshot.readable(change.path) for change in verified.changes]
    except (LoomError, OSError):
        return None
    moved = head != receipt.get("snapshot_head_sha")
    if not moved and not changed:
        return None
    return MovedOn(head_sha=head if moved else None, files=changed[:_MOST], files_total=len(changed))
