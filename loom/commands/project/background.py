"""`loom clean` in the background after a run, where it is due."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from loom.commands.project import Project
from loom.config import Config
from loom.record.store import Store
from loom.util import atomic, processes
from loom.util.private import make_private

BACKGROUND_S = 600
"""Time limit of a background removal; the next run continues it."""
CLEAN_AFTER_RUNS = 5
CLEAN_AFTER_S = 3600.0
CLEAN_AFTER_BYTES = 1 << 30
"""A clean-up in the background is due after so many workspaces, so long, or so much less free space."""


def size_limit(config: Config) -> int:
    """Return the configured limit, at most half of the file system of the workspaces."""
    return min(config.keep_max_size, shutil.disk_usage(_existing(config.tmp_dir)).total // 2)


def into_background(store: Store) -> bool:
    """Lower this process's priority and limit its time. False when another clean-up is running."""
    folder = store.workspaces.folder
    make_private(folder.parent)
    folder.mkdir(exist_ok=True, mode=0o700)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # held until the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.nice(10)
    signal.alarm(BACKGROUND_S)
    return True


def note_clean(project: Project) -> None:
    """Record the time of the checkout's clean-up, and the free space."""
    with suppress(OSError):  # the next run's end tries again
        atomic.write(_stamp(project), str(_free(project.config)).encode(), mode=0o600)


def is_due(project: Project) -> bool:
    """Return whether a clean-up may find something, by facts that need no look at records and sizes."""
    spaces, config = project.store.workspaces, project.config
    runs = [one for one in spaces.all() if one.repo_root == str(project.root) and one.kind != "spare"]
    made = [int(one.run_id) for one in runs]
    if sum(spaces.is_large(one.path) for one in runs) > 1:
        return True  # the earlier one becomes the next run's
    try:
        last, free = _stamp(project).stat().st_mtime, int(_stamp(project).read_text())
    except (OSError, ValueError):
        return len(made) > 1
    return (
        sum(time_ns > last * 1e9 for time_ns in made) >= CLEAN_AFTER_RUNS
        or not 0 <= time.time() - last < CLEAN_AFTER_S
        or free - _free(config) >= min(CLEAN_AFTER_BYTES, size_limit(config) // 10)
    )


def clean_later(project: Project) -> None:
    """Run `loom clean` in a background process where it is due, so that the run ends without delay."""
    if not (project.config.auto_clean and is_due(project)):
        return
    with suppress(OSError):  # the next run's end retries
        processes.start_loom(
            ["clean", "--in-background"],
            project.root,
            project.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


def _stamp(project: Project) -> Path:
    return project.store.workspaces.folder / f".cleaned-{hashlib.sha256(os.fsencode(project.root)).hexdigest()[:16]}"


def _free(config: Config) -> int:
    return shutil.disk_usage(_existing(config.tmp_dir)).free


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
