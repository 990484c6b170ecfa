"""Open untrusted files: without blocking, without following a link, with a size limit.

Also presents chunks of bytes as a file.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

LARGEST_DOCUMENT = 256 << 20
"""Larger than any document of loom; a sparse file could otherwise exhaust memory."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. OSError for anything else: a link, FIFO, device or directory.

    Never blocks on a FIFO without a writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, at_most: int = LARGEST_DOCUMENT) -> bytes:
    """Read a regular file. OSError for anything else, and beyond `at_most` bytes."""
    with open_regular(path) as file:
        # Check the size first: sparse files are slow, and a growing file is read no further.
        if os.fstat(file.fileno()).st_size > at_most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read(at_most)


def reader(chunks: Iterable[bytes]) -> BufferedReader:
    """Present an iterable of chunks as a readable file; closing it closes the iterable."""
    return BufferedReader(_Chunks(chunks), 256 * 1024)


class _Chunks(io.RawIOBase):
    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._left:
            try:
                self._left = memoryview(next(self._chunks))
            except StopIteration:
                return 0
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        getattr(self._chunks, "close", lambda: None)()
        super().close()
