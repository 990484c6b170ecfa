"""Facts about the file systems of directories."""

from __future__ import annotations

import os
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs")


def file_system_of(path: Path) -> str:
    """Return the kernel's name of the file system type at `path`; empty if unknown."""
    real = os.path.realpath(path)
    longest, found = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape").rstrip("/")
        # the last of several mounts at one path is visible
        if (real == point or real.startswith(f"{point}/")) and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found


def in_memory(path: Path) -> bool:
    return file_system_of(path) in _IN_MEMORY


def allocated(*roots: Path) -> int:
    """Return the disk usage of all files and directories below; unreadable ones are skipped."""
    total = 0
    linked: set[tuple[int, int]] = set()  # count files with several names once
    folders = [str(root) for root in roots]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif status.st_nlink > 1:
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
        except OSError:
            continue
    return total
