"""Tar archives as streams: the one writer, the one reader and the one unpacker, at several times the speed of `tarfile`.

No archive is trusted, whoever packed it and wherever it comes from: the folder of a cache may be planted, a record may
be a copy, a job wrote what both hold. `checked` is the gate that every entry passes before a byte is written:

- Names are relative and never climb; loom's own places in a workspace are refused.
- Only files, directories, links and hard links to files of the same archive; set-uid, set-gid and sticky bits go.
- A symbolic link may point anywhere (a virtual environment's `python` does), because nothing follows it: no entry is
  written through a link, neither one of the archive nor one that was there before, and loom reads no file through one.
- The number of entries, their bytes, and the length and depth of names are bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Literal, Protocol, cast

from msgspec import Struct

MOST_ENTRIES = 4_000_000
MOST_BYTES = 128 << 30
"""How much one archive may hold, unpacked: more than any real one, and less than fills a machine by a few kilobytes."""
LONGEST_PATH = 4096
DEEPEST_PATH = 256
"""Each directory on the way to an entry is held open while it is written."""

Kind = Literal["file", "directory", "link", "hardlink", "special"]
"""`special`: a device or FIFO, which is never unpacked."""

_BLOCK = 512
_RECORD = 20 * _BLOCK
_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_TYPES: dict[Kind, bytes] = {"file": b"0", "directory": b"5", "link": b"2", "hardlink": b"1"}
_KINDS: dict[int, Kind] = {
    **{text[0]: kind for kind, text in _TYPES.items()},
    ord("7"): "file",
    0: "file",
    **dict.fromkeys(b"346", "special"),
}
_LATEST_NS = _SECOND << 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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
    """It ends in the middle, or is no tar archive."""


class UnsafeArchive(ValueError):
    """An archive that holds something that is never unpacked; says which entry and why."""


class Entry(Struct, frozen=True):
    """One thing below the workspace. `target` is where a link points (as text), or the path a hard link shares.

    Of a special file it is the kind: `FIFO` or `device`.
    """

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


Check = Callable[[], None]
"""Called between any two pieces of work, and may end it by an exception."""


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
        for data in _parts(entry, content):
            self._out.write(data)
            self._written += len(data)

    def finish(self) -> None:
        self._out.write(_end(self._written))


def packed(items: Iterable[tuple[Entry, Content | None]]) -> Iterator[bytes]:
    """The same as a stream of pieces."""
    written = 0
    for entry, content in items:
        for data in _parts(entry, content):
            yield data
            written += len(data)
    yield _end(written)


def _parts(entry: Entry, content: Content | None) -> Iterator[bytes]:
    yield b"".join(_header(entry))
    if content is not None and entry.size:
        yield from pieces(content, entry.size, entry.path)
        yield _ZEROS[: -entry.size % _BLOCK]


def _end(written: int) -> bytes:
    return _ZEROS[: 2 * _BLOCK] + _ZEROS[: -(written + 2 * _BLOCK) % _RECORD]


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
    """The entries of a tar archive (GNU, POSIX or older) as they stand in it; `checked` says which of them are safe.

    DamagedArchive when it is none, or not whole.
    """
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
            if not 0 < size <= _CHUNK:  # no name is that long
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


def _entry(block: bytes, kind: Kind, size: int, more: dict[str, str]) -> Entry:
    """An entry by its header and what came before it (POSIX's extended headers, GNU's long names)."""
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
    return Entry(path.removesuffix("/"), kind, mode, mtime_ns, size if kind == "file" else 0, target)


def _pax(text: bytes) -> dict[str, str]:
    """The records `LENGTH KEY=VALUE` of a POSIX header."""
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
    """Of POSIX's seconds with a fraction; ValueError for what is none."""
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


# Unpacking


def normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it; all is below ""."""
    return not directory or path == directory or path.startswith(directory + "/")


def checked(items: Iterable[tuple[Entry, Content | None]], reserved: Iterable[str] = ()) -> Iterator[Item]:
    """What may be unpacked, each entry with its path and mode made harmless; the archive's root is left out.

    UnsafeArchive for an entry that may not be unpacked (the module's rules), or that lies in one of the `reserved`
    places; what came before it has been given already.
    """
    reserved = tuple(reserved)
    files: set[str] = set()
    links: set[str] = set()
    held = Held()
    for entry, content in items:
        name = entry.path
        path = _safe_path(name)
        if any(below(path, place) for place in reserved):
            raise UnsafeArchive(f"{name!r} is a place of loom's own record")
        if not path:
            continue
        if links and not links.isdisjoint(_parents(path)):
            raise UnsafeArchive(f"{name!r} leads through a link of the same archive")
        target = entry.target
        match entry.kind:
            case "special":
                raise UnsafeArchive(f"{name!r} is a device or FIFO")
            case "link":
                if not target or "\0" in target or len(target) > LONGEST_PATH:
                    raise UnsafeArchive(f"{name!r} is a link to {target[:100]!r}, which is no path")
                links.add(path)
                files.discard(path)
            case "hardlink":
                target = normal(target)
                if entry.target.startswith("/") or target not in files:
                    raise UnsafeArchive(f"{name!r} is a hard link to {entry.target!r}, which is no file of the archive")
                files.add(path)
            case "file":
                files.add(path)
                links.discard(path)
            case "directory":
                links.discard(path)
        held.add(entry)
        yield (
            Entry(path, entry.kind, entry.mode & 0o777, entry.mtime_ns, entry.size, target),
            cast("IO[bytes]", content),
        )


class Held:
    """Counts what an archive holds: UnsafeArchive for more than one may, whether it is packed or unpacked."""

    def __init__(self) -> None:
        self.entries = 0
        self.bytes = 0

    def add(self, entry: Entry) -> None:
        self.entries += 1
        self.bytes += entry.size
        if self.entries > MOST_ENTRIES:
            raise UnsafeArchive(f"it holds more than {MOST_ENTRIES:,} files and directories")
        if self.bytes > MOST_BYTES:
            raise UnsafeArchive(f"it holds more than {MOST_BYTES >> 30} GiB")


def _safe_path(name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeArchive(f"{name[:200]!r} leads out of the workspace")
    if len(name) > LONGEST_PATH or len(parts) > DEEPEST_PATH:
        raise UnsafeArchive(f"{name[:200]!r}... is too long or too deep a name")
    return normal(name)


def _parents(path: str) -> Iterator[str]:
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


class Written(Struct, kw_only=True):
    files: int = 0
    bytes: int = 0


def unpack(
    stream: Content,
    root: Path,
    *,
    check: Check = lambda: None,
    reserved: Iterable[str] = (),
    on_special: Callable[[str, str], None] | None = None,
) -> Written:
    """Unpack a tar archive over the directory `root`; a file replaces a file. What was written goes when that fails.

    UnsafeArchive for what is never unpacked, DamagedArchive for what is no whole archive, OSError when `root` can't be
    written. `check` may end it. `on_special`: called for each device or FIFO, which is left out; without it one is unsafe.
    """
    written = Written()
    items = read(Checked(stream, check))
    if on_special is not None:
        items = _without_special(items, on_special)
    with closing(TreeWriter(root)) as writer:
        try:
            for entry, file in checked(items, reserved):
                writer.put(entry, file)
                written.files += entry.kind != "directory"
                written.bytes += entry.size
            writer.finish()
        except BaseException:
            writer.undo()
            raise
    return written


def _without_special(
    items: Iterable[tuple[Entry, Content | None]], on_special: Callable[[str, str], None]
) -> Iterator[tuple[Entry, Content | None]]:
    for entry, content in items:
        if entry.kind == "special":
            on_special(entry.path, entry.target)
        else:
            yield entry, content


class Checked:
    """A stream that is checked at each read."""

    def __init__(self, stream: Content, check: Check) -> None:
        self._stream = stream
        self._check = check

    def read(self, size: int = -1, /) -> bytes:
        self._check()
        return self._stream.read(size)


class TreeWriter:
    """Writes entries below a directory, and through no link on the way. UnsafeArchive where one is in the way."""

    def __init__(self, root: Path) -> None:
        self._stack: list[tuple[str, int]] = [("", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]
        self._directories: list[Entry] = []
        self._made: list[str] = []

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop()[1])

    def put(self, entry: Entry, file: Content | None) -> None:
        if entry.kind == "directory":
            self._enter(entry.path)
            self._directories.append(entry)
            return
        above, _, name = entry.path.rpartition("/")
        directory = self._enter(above)
        match entry.kind:
            case "file":
                assert file is not None, "a file comes with its content"
                self._made.append(entry.path)
                _write_file(entry, file, name, directory)
            case "link":
                _make_way(name, directory, entry.path)
                os.symlink(entry.target, name, dir_fd=directory)
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
            case "hardlink":
                self._link(entry, name)
            case "special":
                raise UnsafeArchive(f"{entry.path!r} is a device or FIFO")

    def _link(self, entry: Entry, name: str) -> None:
        above, _, source_name = entry.target.rpartition("/")
        source = os.dup(self._enter(above))
        try:
            directory = self._enter(entry.path.rpartition("/")[0])
            _make_way(name, directory, entry.path)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def undo(self) -> None:
        """Take away the files that were written, so that nobody takes a part for the whole."""
        for path in self._made:
            above, _, name = path.rpartition("/")
            with suppress(OSError, UnsafeArchive):
                os.unlink(name, dir_fd=self._enter(above))

    def finish(self) -> None:
        """Directories get their modes and times last: what is written into them would change both."""
        for entry in reversed(self._directories):
            descriptor = self._enter(entry.path)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def _enter(self, path: str) -> int:
        """The directory at `path`, made where it is missing."""
        parts = path.split("/") if path else []
        shared = 0
        while shared < len(parts) and shared + 1 < len(self._stack) and self._stack[shared + 1][0] == parts[shared]:
            shared += 1
        while len(self._stack) > shared + 1:
            os.close(self._stack.pop()[1])
        for at in range(shared, len(parts)):
            self._stack.append((parts[at], self._step("/".join(parts[: at + 1]), parts[at], self._stack[-1][1])))
        return self._stack[-1][1]

    @staticmethod
    def _step(path: str, name: str, above: int) -> int:
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=above)
            return os.open(name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise UnsafeArchive(
                    f"{path!r} is a link or a file in the workspace; nothing is written through it"
                ) from error
            raise


def _make_way(name: str, directory: int, path: str) -> None:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError) as error:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            raise UnsafeArchive(f"{path!r} is a directory in the workspace; no file replaces it") from error
        raise


def _write_file(entry: Entry, file: Content, name: str, directory: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    except FileExistsError:
        _make_way(name, directory, entry.path)
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        left = entry.size
        while left > 0:
            data = file.read(min(left, _CHUNK))
            if not data:
                raise DamagedArchive(f"it ends within {entry.path!r}")
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(descriptor)
