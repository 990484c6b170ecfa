"""The cancel flag: set once by `cli` on a signal, looked at by everything that waits."""

from __future__ import annotations

import threading
from collections.abc import Callable

from loom.results import ExitCode


class Cancel:
    """Starts unset. `request` asks for a graceful end; a second one (`now`) for an immediate end.

    Thread-safe. Callbacks registered with `on_request` run in the requesting thread, each once per request, also when
    registered after the request.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._now = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.exit_code: ExitCode | None = None
        self.detach: Callable[[], None] = lambda: None
        """Of a child: forget the parent, which may live longer."""

    @property
    def again(self) -> Cancel:
        """The flag of the second request: for work that a first one lets finish (`after_script`, clean-up)."""
        second = Cancel()

        def pass_on() -> None:
            if self.now:
                second.request(self.exit_code)

        self.on_request(pass_on)
        return second

    def child(self) -> Cancel:
        """A flag that is set when this one is, and that can be set alone (one job of several)."""
        child = Cancel()

        def pass_on() -> None:
            child.request(self.exit_code)
            if self.now and not child.now:
                child._now.set()

        child.detach = self.on_request(pass_on)
        return child

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    @property
    def now(self) -> bool:
        """True once the user asked twice: no grace any more."""
        return self._now.is_set()

    def request(self, exit_code: ExitCode | None = ExitCode.INTERRUPTED) -> None:
        """Ask for the end; `exit_code` None when loom itself does (`--fail-fast`), not the user."""
        with self._lock:
            if self._event.is_set() and exit_code is not None and self.exit_code is not None:
                self._now.set()
            self.exit_code = self.exit_code or exit_code
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; True as soon as a cancel was requested."""
        return self._event.wait(timeout_s)

    def on_request(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` at each request; returns a function that unregisters it."""
        with self._lock:
            self._callbacks.append(callback)
            already = self._event.is_set()
        if already:
            callback()

        def unregister() -> None:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)

        return unregister
