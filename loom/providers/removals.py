"""Removal in the background, for every kind of container."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.util.within import start_thread


class Removals:
    """Background removal, so that jobs do not wait. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._problems: list[str] = []

    def start(self, name: str, remove: Callable[[], Iterable[str] | None]) -> None:
        """Call `remove` in a thread; exceptions and return values are problems."""

        def run() -> None:
            try:
                self.failed(remove() or ())
            except LoomError as error:
                self.failed([str(error)])

        thread = start_thread(run, name=name)
        with self._lock:
            self._threads.append(thread)

    def failed(self, problems: Iterable[str]) -> None:
        with self._lock:
            self._problems += problems

    def wait(self, cancel: Cancel) -> None:
        """Wait for all removals, or until the second request of `cancel`."""
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            if not cancel.join(thread):
                self.failed([f"not waited for any longer: {thread.name}; the next loom removes it"])

    def problems(self) -> list[str]:
        """Return the failures since the last call."""
        with self._lock:
            problems, self._problems = self._problems, []
        return problems
