"""The cancel flag, which everything that waits looks at, and the signals that set it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from loom.status import ExitCode

AT_ONCE_S = 15.0
"""Time limit of waits after the second request; work that has not ended by then is abandoned and reported."""
_LOOK_EVERY_S = 0.2


class Cancel:
    """Starts unset. `request` asks for a graceful end; a second one (`now`) for an immediate end.

    Thread-safe, but not for a signal's handler: that may interrupt the very thread that holds the lock.
    Callbacks registered with `on_request` run in the requesting thread, each once per request, also when
    registered after the request.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._now = threading.Event()
        self._now_at = 0.0
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.exit_code: ExitCode | None = None
        self.detach: Callable[[], None] = lambda: None
        """For a child flag: forget the parent, which may live longer."""
        self.pass_on: Callable[[str], None] = lambda name: None
        """Give the command that runs a signal that asks for no end (`USR1`)."""

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
        """Return a flag that is set when this one is, and that can be set alone (one job of several)."""
        child = Cancel()

        def pass_on() -> None:
            child.request(self.exit_code, at_once=self.now)

        child.detach = self.on_request(pass_on)
        return child

    @property
    def requested(self) -> bool:
        return self._event.is_set()

    @property
    def now(self) -> bool:
        """True once the user asked twice: no grace any more."""
        return self._now.is_set()

    def request(self, exit_code: ExitCode | None = ExitCode.INTERRUPTED, *, at_once: bool = False) -> None:
        """Ask for the end; `exit_code` None when loom itself does (`--fail-fast`), not the user. `at_once`: as a second time."""
        with self._lock:
            if at_once or (self._event.is_set() and exit_code is not None and self.exit_code is not None):
                self._now_at = self._now_at or time.monotonic()
                self._now.set()
            self.exit_code = self.exit_code or exit_code
            self._event.set()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()

    def wait(self, timeout_s: float) -> bool:
        """Sleep up to `timeout_s`; True as soon as a cancel was requested."""
        return self._event.wait(timeout_s)

    @property
    def at_once_s(self) -> float | None:
        """Remaining time for any wait; None before the second request."""
        return max(0.0, self._now_at + AT_ONCE_S - time.monotonic()) if self.now else None

    def join(self, thread: threading.Thread) -> bool:
        """Wait for a thread, each wait of which has a limit of its own; False when the second request ended the waiting."""
        while thread.is_alive():
            thread.join(_LOOK_EVERY_S)
            if self.at_once_s == 0.0:
                return not thread.is_alive()
        return True

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


@contextmanager
def signals(cancel: Cancel, *, passing: bool = False) -> Iterator[None]:
    """Within the block, let INT, TERM and HUP ask for a graceful end; a second one for an immediate one; a third leaves at once.

    `passing`: QUIT, USR1 and USR2 are passed on (`Cancel.pass_on`); else they end this process.

    Python runs signal handlers only in the main thread, between two instructions: it may be blocked, or hold the lock that
    the handler needs. So handlers do nothing; the interpreter writes each signal to a pipe, which a thread reads.
    HUP stays ignored where it was (`nohup`).
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    passed = [signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2] if passing else []
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def ask() -> None:
        while came := os.read(reader, 1):  # no limit: it ends with the block
            if came[0] in numbers:
                if came[0] == signal.SIGHUP and cancel.requested:
                    continue  # a closed terminal sends it several times; that is no second request
                code = ExitCode(128 + came[0])
                if cancel.now:
                    os._exit(code)
                cancel.request(code)
            elif came[0] in passed:
                cancel.pass_on(signal.Signals(came[0]).name.removeprefix("SIG"))
        os.close(reader)

    threading.Thread(target=ask, name="signals", daemon=True).start()
    wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in (*numbers, *passed)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(writer)
