"""Work beside the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable


def beside(run: Callable[[], object], *, name: str) -> threading.Thread:
    """Start `run` in a daemon thread; run it here and now where the machine allows no more threads."""
    thread = threading.Thread(target=run, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        run()
    return thread
