"""Watch a checkout for changes of what a snapshot of it would hold."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from loom.commands.project import CheckoutRoot, checkout
from loom.snapshot import Source
from loom.snapshot.observed import CheckoutChange, Observed, is_own
from loom.values import Environ

QUIET_MS = 10
"""The time without changes that ends a burst."""
LONGEST_BURST_MS = 1_000
POLL_EVERY_MS = 1_000
_LOOK_EVERY_MS = 1_000
"""The interval at which loom looks at the relevant files outside the checkout."""
_LOCKED_FOR_S = 10.0
"""The age up to which a lock of git's index counts: a killed git leaves one behind."""

_DECIDE = ("HEAD", "index", "packed-refs", "config", "config.worktree", "exclude", "attributes")
"""The files below `.git` whose content may decide a snapshot; and all in `refs`."""


class CheckoutWatch:
    """Calls `on_change` for each burst of changes, with paths relative to the root, from a thread, in the block.

    `also`: files that no snapshot has, and whose content counts too. `poll`: look at every file again and again instead of
    asking the kernel, which is also the way where the kernel's limit is reached; `say` gets the reason then, or why there can
    be no watching.
    """

    def __init__(
        self,
        source: Source,
        environ: Environ,
        on_change: Callable[[CheckoutChange], None],
        *,
        poll: bool,
        say: Callable[[str], None],
        also: Sequence[Path] = (),
    ) -> None:
        self._source = source
        self._root = os.path.realpath(source.root)
        self._tell = on_change
        self._say = say
        self._ignored = partial(checkout.ignored_among, CheckoutRoot(root=source.root, environ=environ))
        self._observed = Observed(root=source.root, environ=environ, also=tuple(also))
        self._stop = threading.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(poll,), name="watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._started.wait()  # no limit: the thread sets it, also when it fails

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_LOOK_EVERY_MS / 1000)

    def _run(self, poll: bool) -> None:
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
            self._started.set()

    def _watch(self, *, poll: bool, closed: bool = False) -> None:
        """`closed`: pass over directories that may not be read."""
        from watchfiles._rust_notify import RustNotify  # 40 ms, and only watching needs it

        with RustNotify([self._root], False, poll, POLL_EVERY_MS, True, closed) as watcher:
            self._observed.news()
            self._started.set()
            while not self._stop.is_set():
                burst = watcher.watch(LONGEST_BURST_MS, QUIET_MS, _LOOK_EVERY_MS, self._stop)
                paths = {os.path.relpath(path, self._root) for _, path in burst} if isinstance(burst, set) else set()
                of_git = {path for path in paths if ".git" in Path(path).parts}
                files = {path for path in paths - of_git if not is_own(path)}
                aside = any(map(_decides, of_git)) or self._observed.stale
                if aside or files:
                    self._wait_for_git()
                    self._pass_on(files, aside)

    def _wait_for_git(self) -> None:
        """Wait until git releases its index: a switch of branches is over then."""
        lock = self._source.index_path.with_name(f"{self._source.index_path.name}.lock")
        for _ in range(int(_LOCKED_FOR_S / 0.02)):
            if not lock.exists() or self._stop.wait(0.02):
                return

    def _pass_on(self, files: set[str], aside: bool) -> None:
        """Report changed files that a snapshot may have, or that decide about it; git's other files change all the time."""
        ignored = self._ignored(files) if files else set[str]()
        rules = {path for path in ignored if Path(path).name in (".gitignore", ".gitattributes")}
        found = CheckoutChange(paths=frozenset(files - ignored | rules))
        if aside or any(map(self._observed.may_move, found.paths)):
            found |= self._observed.news()
        if found:
            self._tell(found)


def _decides(path: str) -> bool:
    """Return whether a file below a `.git` may decide a snapshot."""
    parts = Path(path).parts
    return (parts[-1] in _DECIDE or "refs" in parts) and "logs" not in parts and not parts[-1].endswith(".lock")


def _reason(error: Exception) -> str:
    return str(error).partition(" about [")[0].strip(". ")
