"""Start Python processes of loom's own, identify processes, wait for their locks, and end them.

A process id is unique only together with its boot and start time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from loom.util.within import wait_until
from loom.values import Environ

LOCK_S = 60.0
"""The time to wait for another process's lock; every holder is brief."""


def lock(file: int | IO[bytes], kind: int, limit_s: float = LOCK_S) -> None:
    """Take a `flock`, waiting while another process holds it. TimeoutError after `limit_s`."""

    def locked() -> bool:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not wait_until(locked, limit_s=limit_s, every_s=0.02):
        raise TimeoutError(f"another process has held its lock for {limit_s:.0f} s")


def start_python(program: str, *arguments: str, flags: Sequence[str] = (), **settings: Any) -> subprocess.Popen[Any]:
    """Start this Python with the text of a program. Neither a file of its directory nor a variable decides what it imports."""
    return subprocess.Popen([sys.executable, "-I", *flags, "-c", program, *arguments], cwd="/", **settings)


def start_loom(arguments: Sequence[str], directory: Path, environ: Environ, **settings: Any) -> subprocess.Popen[Any]:
    """Start a loom command in a directory, with the modules of this process, as `start_python`."""
    # The first entry is a directory that the start of this process chose: of `python -m loom`, the user's.
    places = [path for path in sys.path[not sys.flags.safe_path :] if path.startswith("/")]
    places.append(str(Path(__file__).parents[2]))
    program = (
        f"import os, sys; sys.path[:] = {places!r}; os.chdir({str(directory)!r}); import loom.cli; loom.cli.main()"
    )
    return start_python(program, *arguments, env=dict(environ), **settings)


def end(*children: subprocess.Popen[bytes], grace_s: float = 0.0, group: bool = False) -> None:
    """End child processes and wait for them: TERM if they get `grace_s`, then KILL.

    `group`: include their descendants; each process leads a process group.
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
        child.wait()  # no limit: it was killed


def kill_group(leader: subprocess.Popen[Any]) -> None:
    """Kill what is left of a process group, also after its leader has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)


def kill_tree(child: subprocess.Popen[bytes]) -> None:
    """Kill a child process and its descendants, as far as the system names them (Linux). The caller waits for the child."""
    if child.poll() is not None:
        return
    found = [child.pid]
    for pid in found:
        with contextlib.suppress(OSError, ValueError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, task.joinpath("children").read_text().split())
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def boot_id() -> str:
    """Return the kernel's id of this boot (shared by containers and their host); empty if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def started_at(pid: int) -> str:
    """Return the start time of a live process in kernel ticks since boot; empty if it does not exist.

    Distinguishes a process from a later one with the same id.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def is_alive(pid: int, *, began: str, boot: str) -> bool:
    """Return whether the process with this id, start and boot still runs on this machine."""
    return boot == boot_id() and began != "" and began == started_at(pid)


def current_directories() -> Iterator[str]:
    """Yield the current directory of each process, such as a shell after `cd`, with a slash at its end."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended, or belongs to another user
            yield f"{os.readlink(process / 'cwd')}/"  # noqa: PTH115
