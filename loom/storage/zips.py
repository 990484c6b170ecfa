"""Read zip archives as tar archives are read: entry by entry, checked by whoever unpacks them."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from calendar import timegm
from collections.abc import Iterator
from typing import IO

from msgspec import Struct

from loom.storage.tar import DamagedArchive, Item, TarEntry

MOST_LISTED = 256 << 20
"""The largest list of entries that is read, in bytes: it is held in memory."""


_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, struct.error),
    *(NotImplementedError, RuntimeError, ValueError, EOFError, IndexError, OverflowError),
)
"""The errors that the library raises for bytes that make no archive."""


def items(file: IO[bytes]) -> Iterator[Item]:
    """Yield the files and directories of an archive. DamagedArchive for another file, also while a content is read."""
    try:
        _check_list(file)
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                mode = stat.S_IMODE(info.external_attr >> 16)
                mtime_ns = timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000
                if info.is_dir():
                    yield TarEntry(info.filename.rstrip("/"), "directory", mode or 0o755, mtime_ns), None
                    continue
                with archive.open(info) as content:
                    entry = TarEntry(info.filename, "file", mode or 0o644, mtime_ns, info.file_size)
                    yield entry, _Whole(content, info.file_size)
    except _DAMAGE as error:
        raise DamagedArchive(str(error) or type(error).__name__) from error


class _Whole(Struct):
    """The content of a file, as long as its entry says."""

    _content: IO[bytes]
    _left: int

    def read(self, size: int = -1) -> bytes:
        try:
            data = self._content.read(size)
        except _DAMAGE as error:
            raise DamagedArchive(str(error) or type(error).__name__) from error
        self._left -= len(data)
        if not data and self._left > 0 and size != 0:
            raise DamagedArchive("a file in it is shorter than its entry says")
        return data


def _check_list(file: IO[bytes]) -> None:
    """Raise DamagedArchive if the list of entries is missing or too long."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 128))
    end = file.read()
    at = end.rfind(b"PK\5\6")
    if at < 0:
        raise DamagedArchive("it is not a zip file")
    listed = int.from_bytes(end[at + 12 : at + 16], "little")
    if end[max(0, at - 20) : at].startswith(b"PK\6\7"):  # zip64: the list may begin anywhere
        file.seek(int.from_bytes(end[at - 12 : at - 4], "little"))
        listed = int.from_bytes(file.read(48)[40:], "little")
    if listed > MOST_LISTED:
        raise DamagedArchive(f"its list of files has {listed} bytes")
    file.seek(0)
