"""Read and write tar streams, several times faster than `tarfile`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

from msgspec import Struct

Kind = Literal["file", "directory", "link", "hardlink", "special"]
"""`special`: a device or FIFO, which is never unpacked."""

_BLOCK = 512
_RECORD = 20 * _BLOCK
_CHUNK = 1 << 20
_PIECE = 1 << 18
_SECOND = 1_000_000_000
_TYPES: dict[Kind, bytes] = {"file": b"0", "directory": b"5", "link": b"2", "hardlink": b"1"}
_KINDS: dict[int, Kind] = {
    **{text[0]: kind for kind, text in _TYPES.items()},
    ord("7"): "file",
    0: "file",
    **dict.fromkeys(b"346", "special"),
}
_LATEST_NS = _SECOND << 40
_ZEROS = bytes(_RECORD)


class DamagedArchive(ValueError):
    """A truncated or invalid tar archive."""


class TarEntry(Struct, frozen=True):
    """One entry below the workspace. `target` is a link's target (as text), or the path that a hard link shares.

    For a special file it is the kind: `FIFO` or `device`.
    """

    path: str
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    target: str = ""


class Content(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


Item = tuple[TarEntry, Content | None]
"""An entry, and for a file its content, which must be read before the next entry."""


Check = Callable[[], None]
"""Called between pieces of work; may raise to stop."""


def _pieces(content: Content, size: int, path: str) -> Iterator[bytes]:
    """Yield the `size` bytes of the file at `path`. OSError when the file was truncated meanwhile."""
    left = size
    while left:
        data = content.read(min(left, _PIECE))
        if not data:
            raise OSError(f"{path} became shorter while it was read")
        yield data
        left -= len(data)


def packed(items: Iterable[Item], owner: tuple[int, int] = (0, 0)) -> Iterator[bytes]:
    """Yield the archive in similar pieces for any file size. All entries belong to `owner`, a user and a group.

    OSError for a file that became shorter than its entry states.
    """
    piece, written = bytearray(), 0
    for entry, content in items:
        for data in _parts(entry, content, owner):
            piece += data
            if len(piece) >= _PIECE:
                yield bytes(piece)
                written += len(piece)
                piece.clear()
    end = written + len(piece) + 2 * _BLOCK
    yield bytes(piece) + _ZEROS[: 2 * _BLOCK] + _ZEROS[: -end % _RECORD]


def _parts(entry: TarEntry, content: Content | None, owner: tuple[int, int] = (0, 0)) -> Iterator[bytes]:
    yield b"".join(_header(entry, owner))
    if content is not None and entry.size:
        yield from _pieces(content, entry.size, entry.path)
        yield _ZEROS[: -entry.size % _BLOCK]


def _header(entry: TarEntry, owner: tuple[int, int]) -> Iterable[bytes]:
    name = entry.path.encode("utf-8", "surrogateescape") + (b"/" if entry.kind == "directory" else b"")
    target = entry.target.encode("utf-8", "surrogateescape")
    if len(target) > 100:
        yield from _long(b"K", target)
    if len(name) > 100:
        yield from _long(b"L", name)
    mtime = entry.mtime_ns // _SECOND
    yield _block(name[:100], entry.mode, entry.size, mtime, _TYPES[entry.kind], target[:100], owner)


def _long(kind: bytes, text: bytes) -> Iterable[bytes]:
    text += b"\0"
    yield _block(b"././@LongLink", 0, len(text), 0, kind, b"")
    yield text + _ZEROS[: -len(text) % _BLOCK]


def _block(
    name: bytes, mode: int, size: int, mtime: int, kind: bytes, target: bytes, owner: tuple[int, int] = (0, 0)
) -> bytes:
    uid, gid = (_number(one, 7) for one in owner)
    block = b"%s%07o\x00%s%s%s%s        %s%sustar  \x00%s" % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        _number(size),
        _number(mtime),
        kind,
        target.ljust(100, b"\0"),
        _ZEROS[:247],
    )
    return b"%s%06o\x00 %s" % (block[:148], sum(block), block[156:])


def _number(value: int, digits: int = 11) -> bytes:
    """Encode a number in octal, or in GNU's binary form when it is too large."""
    if 0 <= value < 8**digits:
        return b"%0*o\x00" % (digits, value)
    return (b"\xff" if value < 0 else b"\x80") + value.to_bytes(digits, "big", signed=value < 0)


def read(stream: Content) -> Iterator[Item]:
    """Yield the unchecked entries of a tar archive (GNU, POSIX or older). DamagedArchive for an invalid or truncated one."""
    reader = _Reader(stream)
    more: dict[str, str] = {}
    while True:
        block = reader.take(_BLOCK)
        if not block.strip(b"\0"):
            return
        kind = block[156]
        size = _value(block[124:136])
        if sum(block) - sum(block[148:156]) + 8 * 32 != _value(block[148:156]):
            raise DamagedArchive("a header's checksum is wrong")
        if kind in b"LKxg":
            if not 0 < size <= _CHUNK:  # no real name is this long
                raise DamagedArchive("a header makes no sense")
            text = reader.take(size + -size % _BLOCK)[:size]
            more |= {} if kind in b"g" else _pax(text) if kind in b"x" else {_LONG[kind]: _text(text)}
            continue
        if kind not in _KINDS:
            raise DamagedArchive(f"an entry of the unknown kind {chr(kind)!r}")
        entry = _entry(block, _KINDS[kind], size, more)
        more = {}
        if entry.kind != "file":
            yield entry, None
            continue
        reader.left = entry.size
        yield entry, reader
        reader.skip(-entry.size % _BLOCK)


_LONG = {ord("L"): "path", ord("K"): "linkpath"}


def _entry(block: bytes, kind: Kind, size: int, more: dict[str, str]) -> TarEntry:
    """Build an entry from its header and preceding extensions (POSIX's extended headers, GNU's long names)."""
    path = more.get("path") or _text(block[:100])
    if block[257:263] == b"ustar\0" and "path" not in more and (prefix := _text(block[345:500])):
        path = f"{prefix}/{path}"
    if not path:
        raise DamagedArchive("an entry has no name")
    try:
        size = int(more.get("size", size))
        mtime_ns = _nanoseconds(more["mtime"]) if "mtime" in more else _value(block[136:148]) * _SECOND
    except ValueError as error:
        raise DamagedArchive("a header makes no sense") from error
    if not 0 <= size < 1 << 62 or not -_LATEST_NS < mtime_ns < _LATEST_NS:
        raise DamagedArchive("a header makes no sense")
    if block[156] == 0 and path.endswith("/"):
        kind = "directory"
    target = more.get("linkpath") or _text(block[157:257])
    if kind == "special":
        target = "FIFO" if block[156:157] == b"6" else "device"
    mode = _value(block[100:108]) & 0o7777
    return TarEntry(path.removesuffix("/"), kind, mode, mtime_ns, size if kind == "file" else 0, target)


def _pax(text: bytes) -> dict[str, str]:
    """Parse the records `LENGTH KEY=VALUE` of a POSIX header."""
    found: dict[str, str] = {}
    while text.strip(b"\0"):
        length, _, _ = text.partition(b" ")
        if not length.isdigit() or len(length) > 7 or not len(length) < int(length) <= len(text):
            raise DamagedArchive("a header makes no sense")
        key, separator, value = text[len(length) + 1 : int(length) - 1].partition(b"=")
        if not separator:
            raise DamagedArchive("a header makes no sense")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        text = text[int(length) :]
    return found


def _nanoseconds(text: str) -> int:
    """Parse POSIX's seconds with a fraction; ValueError if invalid."""
    seconds, _, fraction = text.partition(".")
    return int(seconds) * _SECOND + int(fraction[:9].ljust(9, "0") if fraction else 0)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _value(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big", signed=field[0] == 0xFF)
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError as error:
        raise DamagedArchive("a header makes no sense") from error


class _Reader(Struct):
    """The bytes of the stream; as `Content`, those of the current file (`left` remain)."""

    _stream: Content
    _buffer: bytes = b""
    _at: int = 0
    left: int = 0

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


class CheckedStream(Struct):
    """A stream that calls the check at each read."""

    _stream: Content
    _check: Check

    def read(self, size: int = -1, /) -> bytes:
        self._check()
        return self._stream.read(size)
