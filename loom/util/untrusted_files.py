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

from loom.errors import RequestError
from loom.util.paths import name_from

LARGEST_DOCUMENT = 256 << 20
"""Larger than any document of loom; a sparse file could otherwise exhaust memory."""


def special_kind(mode: int) -> str | None:
    """Return `socket`, `FIFO` or `device` for a mode of `lstat`; None for a file, directory or link."""
    kind = stat.S_IFMT(mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return None
    return {stat.S_IFSOCK: "socket", stat.S_IFIFO: "FIFO"}.get(kind, "device")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. OSError for anything else: a link, FIFO, device or directory.

    Never blocks on a FIFO without a writer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def open_inside(path: Path, root: Path | None) -> BufferedReader:
    """Open a regular file of the directory `root`, without blocking. RequestError where a link leads out of it.

    A path that is outside by its text was named by the user, and may lead anywhere. OSError for anything but a file.
    """
    real = os.path.realpath(path)
    inside = root is not None and Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
    if root is not None and inside and not Path(real).is_relative_to(os.path.realpath(root)):
        # Its lines would be shown, and whoever committed the link may not read them.
        raise RequestError(
            f"{name_from(root, path)} is a link that points outside the repository, to {real}",
            hint="replace it by a file, or remove it; if you mean that file, name it yourself",
            code="LEADS_OUT",
        )
    return open_judged(real)


def open_judged(real: str) -> BufferedReader:
    """Open the file that a real path was judged as, without blocking.

    OSError where a link has taken the name of any part of it since, and for anything but a regular file.
    """
    flags = os.O_NOFOLLOW | os.O_CLOEXEC
    to_enter = flags | os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)
    directory = os.open("/", to_enter)
    *above, name = real.strip("/").split("/")
    try:
        for part in above:
            inner = os.open(part, to_enter, dir_fd=directory)
            os.close(directory)
            directory = inner
        descriptor = os.open(name, flags | os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory)
    finally:
        os.close(directory)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a directory", real)
        raise OSError(errno.EINVAL, "is not a regular file", real)
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
