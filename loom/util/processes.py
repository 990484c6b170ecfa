"""Which process is which, and what they hold.

A process id means nothing without the boot it belongs to and the moment it began.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from loom.util.within import wait_until

LOCK_S = 60.0
"""How long another process may hold a lock that is waited for: each is held for moments only."""


def lock(file: int | IO[bytes], kind: int, limit_s: float = LOCK_S) -> None:
    """`flock`, tried again while another process holds it. TimeoutError when that takes longer than `limit_s`."""

    def locked() -> bool:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not wait_until(locked, limit_s=limit_s, every_s=0.02):
        raise TimeoutError(f"another process has held its lock for {limit_s:.0f} s")


def boot_id() -> str:
    """The kernel's name for this boot of the machine (also of a container's host); empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def started_at(pid: int) -> str:
    """When a living process started, in the kernel's ticks since boot; empty when there is none of that number.

    Tells a process from a later one with the same number.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_alive(pid: int, *, began: str, boot: str) -> bool:
    """Whether the process that had this number, start and boot still runs on this machine."""
    return boot == boot_id() and began != "" and began == started_at(pid)
