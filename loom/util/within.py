"""Time limits for calls without one, polling, and work beside the caller's."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def readable(descriptors: Iterable[int], timeout_s: float | None) -> list[int]:
    """Wait until some of the descriptors can be read, or have ended; return those. None: without a limit.

    By `poll`: `select` fails in a process with more than 1,024 open files.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [found for found, _ in poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)]


def outcome(call: Callable[[], T], *, name: str) -> tuple[threading.Thread, Future[T]]:
    """Begin `call` in a daemon thread; return the thread, and the future with its result or exception."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised again where somebody waits for it
            done.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, done


def within(limit_s: float, call: Callable[[], T]) -> T:
    """Return or raise the outcome of `call`; TimeoutError after `limit_s`. Its thread is then abandoned and ends with
    the process.
    """
    return outcome(call, name="within")[1].result(limit_s)


def start_thread(run: Callable[[], object], *, name: str) -> threading.Thread:
    """Start `run` in a daemon thread; run it here and now where the machine allows no more threads."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        run()
    return thread


def wait_until(
    found: Callable[[], T],
    *,
    limit_s: float,
    every_s: float,
    first_s: float | None = None,
    pause: Callable[[float], object] = time.sleep,
) -> T:
    """Call `found` until it returns a true value or `limit_s` is over; return its last value.

    With `first_s`, pauses start at that length and double up to `every_s`.
    """
    deadline = time.monotonic() + limit_s
    pause_s = every_s if first_s is None else min(first_s, every_s)
    while not (value := found()) and (left := deadline - time.monotonic()) > 0:
        pause(min(pause_s, left))
        pause_s = min(pause_s * 2, every_s)
    return value
