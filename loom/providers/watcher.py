"""End a command in a container, with everything that it started, in any image with a shell."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from loom.errors import ProviderError
from loom.providers.driver.protocol import source

_SIGNAL_WITHIN_S = 10.0
"""Time limit for the last words to take effect."""
_OK = "ok"
# Writes its process id to a file, then becomes the command.
BECOME = 'f=$1; shift; { printf "%s\\n" "$$" >"$f"; } 2>/dev/null; exec "$@"'


class Connection(Protocol):
    """The connection to a process in the container."""

    def send(self, data: bytes) -> None: ...

    def ends_within(self, limit_s: float) -> bool:
        """Drain its output; return whether it ended in time."""

    def close(self) -> None: ...


Connect = Callable[[Sequence[str], float], Connection]
"""Starts a command in the container as the watched one's user. Each call of the connection takes at most so many seconds."""


class Watcher:
    """A second process beside a command in its container, connected to loom: it also ends the command when loom dies.

    A thread talks to it: the engine may not answer while the command's output blocks.
    """

    def __init__(self, connect: Connect, pid_file: str) -> None:
        """Start the watcher, before the command starts, so that no death of loom leaves one."""
        self._connection = connect(
            ["sh", "-c", source(Path(__file__).with_name("watch.sh")), "loom", pid_file], _SIGNAL_WITHIN_S
        )
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._talk, name="end of a command", daemon=True)
        self._thread.start()

    def signal(self, name: str) -> None:
        """Send a signal (`TERM`) to the command and everything that it started; KILL leaves none of them."""
        self._words.put(name)

    def pass_on(self, name: str) -> None:
        """Send a signal to the command alone."""
        self._words.put(f"only{name}")

    def look(self) -> None:
        """Kill what is left, after a signal, if the command itself has ended."""
        self._words.put("rest")

    def close(self) -> None:
        """Wait for the signals to take effect. Whatever still runs stays."""
        self._words.put(_OK)
        self._thread.join(2 * _SIGNAL_WITHIN_S)

    def _talk(self) -> None:
        # A command that has ended, or a container that is gone, needs no signal.
        with contextlib.suppress(ProviderError, OSError):
            try:
                word = ""
                while word != _OK:
                    word = self._words.get()  # no limit: as long as the command runs; `close` ends it
                    self._connection.send(f"{word}\n".encode())
                self._connection.ends_within(_SIGNAL_WITHIN_S)
            finally:
                self._connection.close()
