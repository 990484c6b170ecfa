"""Files that may be anything: opened without waiting, without following a link, and read no further than is sensible."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

LARGEST_DOCUMENT = 256 << 20
"""More than any document of loom's is; a sparse file would fill the memory."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. OSError for anything else that may be there: a link, FIFO, device or directory.

    It never waits: a FIFO without a writer would, for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, *, at_most: int = LARGEST_DOCUMENT) -> bytes:
    """The content of a regular file. OSError for anything else, and for more than `at_most` bytes."""
    with open_regular(path) as file:
        # Its size first: a sparse file takes its time, and one that grows is read no further than that.
        if os.fstat(file.fileno()).st_size > at_most:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
        return file.read(at_most)
