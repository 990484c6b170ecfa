"""Wait for a thing, never for a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
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
