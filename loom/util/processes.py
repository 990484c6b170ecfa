"""Which process is which, what they hold, and how they are ended.

A process id means nothing without the boot it belongs to and the moment it began.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
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


def end(*children: subprocess.Popen[bytes], grace_s: float = 0.0, group: bool = False) -> None:
    """End child processes and wait for them: by TERM, if they have `grace_s` to end, then by KILL.

    `group`: also what they started; each of them leads a process group.
    """

    def tell(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number) if group else child.send_signal(number)

    deadline = time.monotonic() + grace_s
    for child in children if grace_s else ():
        tell(child, signal.SIGTERM)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
        tell(child, signal.SIGKILL)
        child.wait()  # no limit: it is killed


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
