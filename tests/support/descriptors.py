"""What this process holds open."""

import os
from contextlib import suppress
from pathlib import Path


def open_below(directory: Path) -> list[str]:
    """Return the open paths below `directory`. Others are those of other threads, and come and go."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if Path(path).is_relative_to(directory)]
