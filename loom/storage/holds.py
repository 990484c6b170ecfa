"""Who uses a kept place now: one lock for each place, held as long as its user lives.

The lock tells the truth, also after `kill -9` and across process namespaces; the lines in the file say who holds it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from loom.errors import RequestError
from loom.storage.private import make_private
from loom.util import processes


class Holder(Struct, frozen=True, kw_only=True):
    pid: int
    began: str
    """The start of that process: a later one with its number is not it."""
    command: str
    since: float

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid}) since {time.strftime('%H:%M:%S', time.localtime(self.since))}"


@contextmanager
def held(file: Path, what: str, command: str, *, alone: bool) -> Iterator[None]:
    """Hold the place of this lock file, alone or beside others. RequestError, with the holders, when it can't be held now."""
    descriptor = _opened(file)
    try:
        if _taken(descriptor, fcntl.LOCK_EX):
            os.ftruncate(descriptor, 0)
            free = alone or _taken(descriptor, fcntl.LOCK_SH)
        else:
            free = not alone and _taken(descriptor, fcntl.LOCK_SH)
        if not free:
            raise RequestError(
                f"{what} is in use by {_holders(descriptor)}", hint="wait for it, or end it", code="PLACE_IN_USE"
            )
        me = Holder(pid=os.getpid(), began=processes.started_at(os.getpid()), command=command, since=time.time())
        os.write(descriptor, msgspec.json.encode(me) + b"\n")
        yield
    finally:
        os.close(descriptor)


def holders(file: Path) -> str:
    """Say who holds the place of this lock file; empty when nobody does."""
    if not file.exists():
        return ""
    descriptor = _opened(file)
    try:
        return "" if _taken(descriptor, fcntl.LOCK_EX) else _holders(descriptor)
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int:
    """Open the file that has this name, also when its place was just removed."""
    make_private(file.parent)
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _taken(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(descriptor: int) -> str:
    lines = os.pread(descriptor, 1 << 16, 0).splitlines()
    named = [msgspec.json.decode(line, type=Holder) for line in lines]
    there = [one for one in named if processes.started_at(one.pid) == one.began]
    return ", ".join(map(str, there or named[-1:])) or "another loom"
