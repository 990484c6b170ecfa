"""Locks of workspaces: held while one is filled, runs jobs, or has a shell inside."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loom.util import processes


@contextmanager
def occupied(*workspaces: Path) -> Iterator[None]:
    """Prevent the removal of these by any process, until this process ends."""
    held = []
    try:
        for workspace in workspaces:
            with suppress(OSError):  # gone, or its file system has no locks
                held.append(os.open(workspace, os.O_RDONLY | os.O_DIRECTORY))
                processes.lock(held[-1], fcntl.LOCK_SH)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def alone_in(workspace: Path) -> Iterator[bool | None]:
    """Prevent others from using `occupied` in the block; False if it is in use, None if unknown: no directory, or no locks."""
    alone, descriptor = None, -1
    try:
        descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    except OSError:
        pass  # unknown
    try:
        yield alone
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def is_occupied(workspace: Path) -> bool | None:
    """Return whether any process holds `occupied`; None if unknown."""
    with alone_in(workspace) as alone:
        return None if alone is None else not alone
