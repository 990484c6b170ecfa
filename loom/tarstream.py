"""Loom's own tar archives, written and read as a stream: plain GNU tar that any `tar` unpacks, at several times the speed
of the standard library's module.

`read` is only for archives whose checksum vouches that `write` made them; foreign ones go through `tarfile` and the
checks in `view`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Literal, Protocol

from msgspec import Struct

Kind = Literal["file", "directory", "link", "hardlink"]

_BLOCK = 512
_RECORD = 20 * _BLOCK
_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_TYPES: dict[Kind, bytes] = {"file": b"0", "directory": b"5", "link": b"2", "hardlink": b"1"}
_KINDS: dict[int, Kind] = {text[0]: kind for kind, text in _TYPES.items()}
_ZEROS = bytes(_RECORD)


def climbs_out(path: str, target: str) -> bool:
    """Whether a relative link at `path` leads out of the tree that both are in, as text."""
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


class DamagedArchive(ValueError):
    """It ends in the middle, or holds what `write` never writes."""


class Entry(Struct, frozen=True):
    """One thing below the workspace. `target` is where a link points (as text), or the path a hard link shares."""

    path: str
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    target: str = ""


class Content(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


Item = tuple[Entry, IO[bytes] | None]
"""An entry, and for a file its content, to be read before the next one is asked for."""


class Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


def pieces(content: Content, size: int, path: str, *, most: int = _CHUNK) -> Iterator[bytes]:
    """The `size` bytes of the file at `path`, at `most` so many at once.

    OSError when it holds less: somebody changed it meanwhile.
    """
    left = size
    while left:
        data = content.read(min(left, most))
        if not data:
            raise OSError(f"{path} became shorter while it was read")
        yield data
        left -= len(data)


class Writer:
    """Entries into a stream. The same entries always give the same bytes: no owner, no time but the entries' own."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self._written = 0

    def add(self, entry: Entry, content: Content | None) -> None:
        """OSError when a file holds less than its entry says: somebody changed it meanwhile."""
        self._write(b"".join(_header(entry)))
        if content is None or not entry.size:
            return
        for data in pieces(content, entry.size, entry.path):
            self._write(data)
        self._write(_ZEROS[: -entry.size % _BLOCK])

    def finish(self) -> None:
        self._write(_ZEROS[: 2 * _BLOCK])
        self._write(_ZEROS[: -self._written % _RECORD])

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._written += len(data)


def _header(entry: Entry) -> Iterable[bytes]:
    name = entry.path.encode("utf-8", "surrogateescape") + (b"/" if entry.kind == "directory" else b"")
    target = entry.target.encode("utf-8", "surrogateescape")
    if len(target) > 100:
        yield from _long(b"K", target)
    if len(name) > 100:
        yield from _long(b"L", name)
    yield _block(name[:100], entry.mode, entry.size, entry.mtime_ns // _SECOND, _TYPES[entry.kind], target[:100])


def _long(kind: bytes, text: bytes) -> Iterable[bytes]:
    text += b"\0"
    yield _block(b"././@LongLink", 0, len(text), 0, kind, b"")
    yield text + _ZEROS[: -len(text) % _BLOCK]


def _block(name: bytes, mode: int, size: int, mtime: int, kind: bytes, target: bytes) -> bytes:
    block = b"%s%07o\x000000000\x000000000\x00%s%s        %s%sustar  \x00%s" % (
        name.ljust(100, b"\0"),
        mode,
        _number(size),
        _number(mtime),
        kind,
        target.ljust(100, b"\0"),
        _ZEROS[:247],
    )
    return b"%s%06o\x00 %s" % (block[:148], sum(block), block[156:])


def _number(value: int) -> bytes:
    """Octal, as far as that reaches; beyond it GNU's way, the bytes themselves behind a marker."""
    if 0 <= value < 8**11:
        return b"%011o\x00" % value
    return (b"\xff" if value < 0 else b"\x80") + value.to_bytes(11, "big", signed=value < 0)


def read(stream: Content) -> Iterator[tuple[Entry, Content | None]]:
    """The entries of an archive that `Writer` wrote. DamagedArchive when it is none, or not whole."""
    reader = _Reader(stream)
    names: dict[int, str] = {}
    while True:
        block = reader.take(_BLOCK)
        kind = block[156]
        if not block[0]:
            if block.strip(b"\0"):
                raise DamagedArchive("an entry has no name")
            return
        size = _value(block[124:136])
        if not 0 <= size < (_CHUNK if kind in b"LK" else 1 << 63):  # a name, or a file, that nothing could hold
            raise DamagedArchive("a header makes no sense")
        if kind in b"LK":
            text = reader.take(size + -size % _BLOCK)[: size - 1]
            names[kind] = text.decode("utf-8", "surrogateescape")
            continue
        if kind not in _KINDS:
            raise DamagedArchive(f"an entry of the unknown kind {chr(kind)!r}")
        path = names.pop(b"L"[0], None) or _text(block[:100])
        target = names.pop(b"K"[0], None) or _text(block[157:257])
        entry = Entry(
            path.removesuffix("/"),
            _KINDS[kind],
            _value(block[100:108]),
            _value(block[136:148]) * _SECOND,
            size,
            target,
        )
        if entry.kind != "file":
            yield entry, None
            continue
        reader.left = size
        yield entry, reader
        reader.skip(-size % _BLOCK)


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("utf-8", "surrogateescape")


def _value(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    try:
        return int(field.rstrip(b"\0 "), 8)
    except ValueError as error:
        raise DamagedArchive("a header makes no sense") from error


class _Reader:
    """Bytes of the stream; as `Content`, those of the file that is being read (`left` of them)."""

    def __init__(self, stream: Content) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self.left = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        while end > len(self._buffer):
            more = self._stream.read(max(_CHUNK, size))
            if not more:
                raise DamagedArchive("it ends in the middle")
            self._buffer = self._buffer[self._at :] + more
            self._at, end = 0, size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def read(self, size: int = -1, /) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        data = self.take(size)
        self.left -= size
        return data

    def skip(self, padding: int) -> None:
        while self.left:
            self.read(_CHUNK)
        self.take(padding)
