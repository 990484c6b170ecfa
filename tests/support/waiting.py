"""Wait for a thing, never for a time."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Seen = TypeVar("Seen")


def until(seen: Callable[[], Seen], *, while_runs: subprocess.Popen[Any] | None = None, limit_s: float = 60) -> Seen:
    """Wait until `seen` is true, and return what it gave. The limit is one for a machine with much else to do.

    It is an error when `while_runs` ends before.
    """
    deadline = time.monotonic() + limit_s
    while not (found := seen()):
        assert while_runs is None or while_runs.poll() is None, while_runs.communicate()
        assert time.monotonic() < deadline, f"not seen within {limit_s} s"
        time.sleep(0.02)
    return found


@contextmanager
def promptly(limit_s: float = 60) -> Iterator[None]:
    """The block does not wait for what takes minutes.

    A busy machine may take as long as the limit for what is done at once, so what the block must not wait for takes
    several times as long. How long a thing takes is measured in `tests/bench`, never in a test.
    """
    begun = time.monotonic()
    yield
    took = time.monotonic() - begun
    assert took < limit_s, f"it waited: {took:.0f} s"
