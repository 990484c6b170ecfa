"""Watch a checkout for changes of what a snapshot of it would hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from loom.commands import checkout
from loom.snapshot import Source
from loom.util.paths import run_of_workspace, workspace_beside

QUIET_MS = 10
"""How long nothing may change for a burst to be over."""
LONGEST_BURST_MS = 1_000
POLL_EVERY_MS = 1_000
_LOOK_EVERY_MS = 5_000
_LOCKED_FOR_S = 10.0
"""How long a lock of git's index counts: a killed git leaves one behind."""

OnChange = Callable[[frozenset[str]], None]
"""Gets the paths of a burst, relative to the root; empty: HEAD, a branch or a tag moved."""


@contextmanager
def watched(
    source: Source, environ: Mapping[str, str], on_change: OnChange, *, poll: bool, say: Callable[[str], None]
) -> Iterator[None]:
    """In the block, call `on_change` for each burst of changes, from a thread.

    `poll`: look at every file again and again instead of asking the kernel, which is also the way where the kernel's limit is
    reached; `say` gets the reason then, or why there can be no watching.
    """
    watching = _Watching(source, environ, on_change, say)
    thread = threading.Thread(target=watching.run, args=(poll,), name="watch", daemon=True)
    thread.start()
    try:
        watching.started.wait()  # no limit: the thread sets it, also when it fails
        yield
    finally:
        watching.stop.set()
        thread.join(_LOOK_EVERY_MS / 1000)


class _Watching:
    def __init__(
        self, source: Source, environ: Mapping[str, str], on_change: OnChange, say: Callable[[str], None]
    ) -> None:
        self._source = source
        self._root = os.path.realpath(source.root)
        self._tell = on_change
        self._say = say
        self._ignored = checkout.ignored_among(source.root, environ)
        self.stop = threading.Event()
        self.started = threading.Event()

    def run(self, poll: bool) -> None:
        try:
            try:
                self._watch(poll=poll)
            except PermissionError:  # without it, a reached limit would be passed over too
                self._watch(poll=poll, closed=True)
            except (OSError, RuntimeError) as error:
                if poll:
                    raise
                self._say(
                    f"the kernel takes no more watches ({_reason(error)}): loom looks at every file each"
                    f" {POLL_EVERY_MS / 1000:g} s instead; to raise the limit: sudo sysctl fs.inotify.max_user_watches=1048576"
                )
                self._watch(poll=True, closed=True)
        except (OSError, RuntimeError) as error:
            self._say(f"changes are not seen any more: {_reason(error)}; press r to run")
        finally:
            self.started.set()

    def _watch(self, *, poll: bool, closed: bool = False) -> None:
        """`closed`: pass over directories that may not be read."""
        from watchfiles._rust_notify import RustNotify  # 40 ms, and only watching needs it

        with RustNotify([self._root], False, poll, POLL_EVERY_MS, True, closed) as watcher:
            self.started.set()
            while not self.stop.is_set():
                burst = watcher.watch(LONGEST_BURST_MS, QUIET_MS, _LOOK_EVERY_MS, self.stop)
                paths = {path for _, path in burst if self._counts(path)} if isinstance(burst, set) else set()
                if paths:
                    self._wait_for_git()
                    self._pass_on({os.path.relpath(path, self._root) for path in paths})

    def _counts(self, path: str) -> bool:
        """Whether a snapshot may hold it, or be of another commit by it; git's own files change all the time."""
        parts = list(Path(os.path.relpath(path, self._root)).parts)
        if ".git" in parts:
            return _moves(parts[parts.index(".git") + 1 :]) and parts[0] == ".git"
        return not any(run_of_workspace(workspace_beside(Path(part)).name) for part in parts[:-1] or parts)

    def _wait_for_git(self) -> None:
        """A switch of branches is over when git releases its index."""
        lock = self._source.index_path.with_name(f"{self._source.index_path.name}.lock")
        for _ in range(int(_LOCKED_FOR_S / 0.02)):
            if not lock.exists() or self.stop.wait(0.02):
                return

    def _pass_on(self, paths: set[str]) -> None:
        files = {path for path in paths if not path.startswith(".git/")}
        counted = frozenset(files - self._ignored(files)) if files else frozenset[str]()
        if counted or len(files) < len(paths):
            self._tell(counted)


def _moves(parts: list[str]) -> bool:
    """Whether this path below `.git` is HEAD, or one of a branch or tag."""
    return bool(parts) and not parts[-1].endswith(".lock") and parts[0] in ("HEAD", "packed-refs", "refs")


def _reason(error: Exception) -> str:
    return str(error).partition(" about [")[0].strip(". ")
