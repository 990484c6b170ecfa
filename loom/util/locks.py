"""Lock what a job left: one lock for each kept container, held as long as its user lives, also after `kill -9` of another.

Each user also locks a slot of the file, with its name. Locks belong to the open file, not to the process: only such a lock
can be asked for without being taken, and a question that took it, even for a moment, would turn others away.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from loom.errors import RequestError
from loom.util.private import make_private

_SLOT = 256
"""The size of a slot. Its first byte is locked while its user lives."""
_USE = 1
"""The byte that all users lock: shared, or alone."""
_FLOCK = "hhqqi4x"


@contextmanager
def held(file: Path, what: str, command: str, *, alone: bool) -> Iterator[None]:
    """Hold this lock file, alone or beside others. RequestError, with the holders, when it can't be held now."""
    descriptor = _opened(file)
    try:
        while True:
            if not _locked(descriptor, fcntl.F_WRLCK if alone else fcntl.F_RDLCK, _USE):
                raise RequestError(
                    f"{what} is in use by {_holders(descriptor)}", hint="wait for it, or end it", code="IN_USE"
                )
            if _is_named(descriptor, file):
                break
            os.close(descriptor)  # its holder removed the container, and the file with it
            descriptor = _opened(file)
        slot = next(at for at in count(0, _SLOT) if _locked(descriptor, fcntl.F_WRLCK, at))
        name = f"`{command}` (process {os.getpid()}) since {time.strftime('%H:%M:%S')}"
        with suppress(OSError):  # on a full disk, the lock still holds
            os.pwrite(descriptor, name.encode("utf-8", "replace")[: _SLOT - 1].ljust(_SLOT), slot)
        yield
    finally:
        os.close(descriptor)


def holders(file: Path) -> str:
    """Return the users who hold this lock file, as text; empty when nobody does. Does not take the lock."""
    if not file.exists():
        return ""
    descriptor = _opened(file)
    try:
        return _holders(descriptor) if _is_locked(descriptor, _USE) else ""
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int:
    make_private(file.parent)
    return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_named(descriptor: int, file: Path) -> bool:
    """Return whether the open file is still the one with this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False


def _locked(descriptor: int, kind: int, byte: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    return True


def _is_locked(descriptor: int, byte: int) -> bool:
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    found = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))
    return bool(found[0] != fcntl.F_UNLCK)


def _holders(descriptor: int) -> str:
    slots = [slot for slot in range(0, os.fstat(descriptor).st_size, _SLOT) if _is_locked(descriptor, slot)]
    names = [os.pread(descriptor, _SLOT, slot).decode("utf-8", "replace").strip() for slot in slots]
    return ", ".join(names) or "another loom"
