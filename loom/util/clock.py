"""The time of a run."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady() -> Callable[[], int]:
    """Return a clock (nanoseconds since the epoch) that begins now, and that nobody sets: durations and limits stay right.

    It goes on while the machine sleeps.
    """
    began_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return lambda: began_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)
