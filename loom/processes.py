"""Which process is which: a process id means nothing without the boot it belongs to and the moment it began."""

from __future__ import annotations

from pathlib import Path


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
