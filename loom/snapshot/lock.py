"""Whether somebody is in a workspace at this moment: fills it, runs jobs in it, or stands in it with a shell."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loom.util import processes


@contextmanager
def occupied(*workspaces: Path) -> Iterator[None]:
    """Meanwhile no loom removes these, whichever records it knows of. Ends with this process at the latest."""
    held = []
    try:
        for workspace in workspaces:
            with suppress(OSError):  # it is gone, or its file system knows no locks
                held.append(os.open(workspace, os.O_RDONLY | os.O_DIRECTORY))
                processes.lock(held[-1], fcntl.LOCK_SH)
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


@contextmanager
def alone_in(workspace: Path) -> Iterator[bool]:
    """Keep others from `occupied` in the block; False where somebody is there already. True where nobody can tell."""
    try:
        descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield True
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    except OSError:
        alone = True
    try:
        yield alone
    finally:
        os.close(descriptor)


def is_occupied(workspace: Path) -> bool | None:
    """Whether `occupied` holds for it in any process; None when nobody can tell: no directory, or one without locks."""
    try:
        descriptor = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False
