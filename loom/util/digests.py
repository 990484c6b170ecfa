"""The SHA-256 of what is read or written."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from loom.util.untrusted_files import open_regular


class Hashed:
    """A file that counts and hashes what is written to it, or read from it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)  # type: ignore[no-any-return]

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._file.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data

    def flush(self) -> None:
        self._file.flush()


def digest_of(content: Any) -> hashlib._Hash:
    """Read a stream or a file to its end; return its digest."""
    hashed = Hashed(content)
    while hashed.read(1 << 20):
        pass
    return hashed.digest


def file_digest(path: Path) -> str:
    """Return the digest of a regular file."""
    with open_regular(path) as file:
        return digest_of(file).hexdigest()


def value_digest(value: Any) -> str:
    """Return the digest of this value, as JSON. ValueError for text that is not UTF-8."""
    return hashlib.sha256(msgspec.json.encode(value, enc_hook=str, order="deterministic")).hexdigest()


def digest_line(digest: str, name: str) -> bytes:
    """Return the line of a file as `sha256sum` reads it; empty for a name that has another form in each `sha256sum`."""
    return b"" if "\n" in name or "\\" in name else f"{digest}  {name}\n".encode("utf-8", "surrogateescape")
