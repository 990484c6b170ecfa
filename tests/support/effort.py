"""How much of the same a test does: little on each run of the suite, much where `LOOM_TEST_LONG` is set."""

from __future__ import annotations

import os

LONG = "LOOM_TEST_LONG" in os.environ


def effort(usual: int, long: int) -> int:
    """A test's number of repetitions or bytes."""
    return long if LONG else usual
