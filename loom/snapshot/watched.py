"""Files of a filled workspace that need no second look: the kernel tells of each change while they wait for their run."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from watchfiles._rust_notify import RustNotify

from loom.snapshot.manifest import FILLING
from loom.snapshot.renewal import is_as_copied

_STEP_MS = 5
_TOLD_WITHIN_S = 1.0


class WatchedWorkspace:
    """Watches the workspace that `take` filled with the note `known`. Where the kernel can't, nothing is known of its files."""

    def __init__(self, workspace: Path, known: Path) -> None:
        self._workspace = os.path.realpath(workspace)
        self._watcher: RustNotify | None = None
        try:
            watcher = RustNotify([self._workspace], False, False, 0, True, False)
            if is_as_copied(workspace, known):  # a change since then is told
                self._watcher = watcher
        except (OSError, RuntimeError):
            pass  # such as the kernel's limit

    def is_untouched(self) -> bool:
        """Return whether nothing beside `.git` changed, now that `take` has marked the workspace. For one call."""
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return False
        git_dir = f"{self._workspace}/.git/"
        end = time.monotonic() + _TOLD_WITHIN_S
        told = set[str]()
        with suppress(RuntimeError), watcher:  # the kernel can't tell
            # Events come in their order: with that of the mark, all before it have come.
            while git_dir + FILLING not in told and time.monotonic() < end:
                burst = watcher.watch(_STEP_MS, _STEP_MS, _STEP_MS, None)
                if isinstance(burst, set):
                    told |= {path for _, path in burst}
                    if any(path != self._workspace and not path.startswith(git_dir) for path in told):
                        return False
        return git_dir + FILLING in told
