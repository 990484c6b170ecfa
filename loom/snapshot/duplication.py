"""Copy a workspace for one job, sharing blocks if the file system supports it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import copy_files
from loom.snapshot.copy_workers import CopyPool
from loom.snapshot.model import readable
from loom.util.paths import RUNTIME

_OBJECTS = ".git/objects"
_NOTHING_IS_RECENT = 1 << 62


def duplicate(workspace: Path, target: Path, *, cancel: Cancel) -> None:
    """Fill the empty directory `target` with the content of the complete snapshot `workspace`.

    Files, links and directories with their times, without the link to the record. SnapshotError when a file can't be
    read or written, SnapshotCanceled when the flag was set.
    """
    files = list(_lay_out(workspace, target))
    with CopyPool(workspace, target, since_ns=_NOTHING_IS_RECENT, cancel=cancel) as pool:
        found = pool.copy(files, about=len(files))
    special = {path for path, _ in found.special}  # a job's files replace a snapshot that is gone
    missing = [path for path in (*found.absent, *(path for path, _ in found.denied)) if path not in special]
    if missing:
        raise SnapshotError(
            f"{workspace}: {readable(missing[0])} could not be copied into {target}",
            hint="nothing but loom may change a run's workspace while its jobs start",
        )


def _lay_out(workspace: Path, target: Path) -> Iterator[tuple[str, int]]:
    """Create the directories; return every file with its kind."""
    pending = [""]
    while pending:
        directory = pending.pop()
        with os.scandir(workspace / directory) as scanned:
            entries = list(scanned)
        for entry in entries:
            path = f"{directory}/{entry.name}" if directory else entry.name
            if path == RUNTIME:
                continue
            if entry.is_dir(follow_symlinks=False):
                (target / path).mkdir(exist_ok=True)
                pending.append(path)
            elif entry.is_symlink():
                yield path, copy_files.LINK
            else:
                yield path, copy_files.OBJECT if path.startswith(_OBJECTS) else copy_files.ANY
