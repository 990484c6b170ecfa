"""How much of the same a test does: little on each run of the suite, much where `LOOM_TEST_LONG` is set."""

import os

from hypothesis import HealthCheck, settings

LONG = "LOOM_TEST_LONG" in os.environ


def effort(usual: int, long: int) -> int:
    """A test's number of repetitions or bytes."""
    return long if LONG else usual


def fuzzed(examples: int, long: int | None = None) -> settings:
    """A test of that many inputs: the same ones on each run of the suite, and ten times as many others each time in the
    long form (`scripts/fuzz`), which keeps what it finds.
    """
    return settings(
        max_examples=effort(examples, long or 10 * examples),
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
