"""What a directory lies on."""

from __future__ import annotations

import os
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs")


def file_system_of(path: Path) -> str:
    """The type of the file system at `path`, as the kernel calls it; nothing where it does not tell."""
    place = os.path.realpath(path)
    longest, found = -1, ""
    try:
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].encode("latin-1", "replace").decode("unicode_escape").rstrip("/")
        # Of several on one another the last one counts.
        if (place == point or place.startswith(f"{point}/")) and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found


def in_memory(path: Path) -> bool:
    """Whether what is written there takes the machine's memory."""
    return file_system_of(path) in _IN_MEMORY


def allocated(*roots: Path) -> int:
    """The bytes that files and directories below take on the disk. What can't be looked into is not counted."""
    total = 0
    linked: set[tuple[int, int]] = set()  # files with several names that are counted already
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
