"""Tar streams to and from a directory of this machine: how files go in and out of a view that is a plain directory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from loom.errors import ProviderError
from loom.storage import tar

_CHUNK = 256 * 1024
_TAR_BUFFER = 64 * 1024  # what is left of it is copied for each header


Edit = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]
"""Changes a member of an archive on its way; None: leaves it out."""


def archive_of(
    root: Path, paths: Iterable[str], *, change: Edit | None = None, leave_out: frozenset[str] = frozenset()
) -> Iterator[bytes]:
    """A tar stream of files and directories below `root`, directories with all they hold; what does not exist is left out.

    `leave_out`: paths relative to `root` that are not there, with all below them.
    """
    return packed(_members(root, paths, change, leave_out))


def packed(members: Iterable[tuple[tarfile.TarInfo, IO[bytes] | None]]) -> Iterator[bytes]:
    """A tar stream in pieces of about one size, however large a file is. The module's own holds each file as a whole."""
    piece = bytearray()
    total = 0
    for part in _parts(members):
        piece += part
        if len(piece) >= _CHUNK:
            yield bytes(piece)
            total += len(piece)
            piece.clear()
    piece += bytes(2 * tarfile.BLOCKSIZE)
    piece += bytes(-(total + len(piece)) % tarfile.RECORDSIZE)
    yield bytes(piece)


def _parts(members: Iterable[tuple[tarfile.TarInfo, IO[bytes] | None]]) -> Iterator[bytes]:
    for member, content in members:
        yield member.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING, "surrogateescape")
        if content is None:
            continue
        yield from tar.pieces(content, member.size, member.name, most=_CHUNK)
        yield bytes(-member.size % tarfile.BLOCKSIZE)


def _members(
    root: Path, paths: Iterable[str], change: Edit | None, leave_out: frozenset[str]
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    # It is asked for headers alone: it knows which files are the same one by several names.
    headers = tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.PAX_FORMAT)
    for relative in paths:
        for path, name in _below(root / relative, root, leave_out):
            try:
                member = headers.gettarinfo(str(path), arcname=name)
                if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
                    continue  # sockets and devices are no content
                file = path.open("rb") if member.isfile() else None
            except FileNotFoundError:
                continue
            changed = member if change is None else change(member)
            if file is None:
                if changed is not None:
                    yield changed, None
                continue
            with file:
                if changed is not None:
                    yield changed, cast("IO[bytes]", _Exactly(file, changed.size))


class _Exactly:
    """A file of exactly the size that its header says, whatever happens to it meanwhile."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        if len(data) < min(size, self._left):
            data += b"\0" * (min(size, self._left) - len(data))
        self._left -= len(data)
        return data


def _below(path: Path, root: Path, leave_out: frozenset[str]) -> Iterator[tuple[Path, str]]:
    name = path.relative_to(root).as_posix()
    if name in leave_out:
        return
    if path.is_symlink() or not path.is_dir():
        if path.is_symlink() or path.exists():
            yield path, name
        return
    yield path, name
    for child in sorted(path.iterdir()):
        yield from _below(child, root, leave_out)


def renamed(archives: Iterable[tuple[str, Iterable[bytes]]], *, change: Edit | None = None) -> Iterator[bytes]:
    """Several tar streams as one. With each comes a path that stands for the first part of its members' names.

    An empty path means: as they are, but for a leading `./`.
    """
    return packed(_renamed(archives, change))


def _renamed(
    archives: Iterable[tuple[str, Iterable[bytes]]], change: Edit | None
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    for path, chunks in archives:
        with tarfile.open(mode="r|*", fileobj=cast("IO[bytes]", reader(chunks)), bufsize=_TAR_BUFFER) as archive:
            for member in archive:
                member.name = _under(path, member.name)
                if member.islnk():
                    member.linkname = _under(path, member.linkname)
                # The names of the other archive would win over the new ones.
                kept = {key: value for key, value in member.pax_headers.items() if key not in ("path", "linkpath")}
                member.pax_headers = kept
                changed = member if change is None else change(member)
                if changed is not None:
                    yield changed, archive.extractfile(changed) if changed.isfile() else None


def _under(path: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if path:
        parts = [path, *parts[1:]]
    return "/".join(parts) or "."


def unpack(archive: Iterable[bytes], root: Path) -> None:
    """Unpack a tar stream over `root`, devices and FIFOs left out. ProviderError for one that may not be unpacked."""
    try:
        tar.unpack(cast("IO[bytes]", reader(archive)), root, on_special=lambda path: None)
    except (tar.UnsafeArchive, tar.DamagedArchive) as error:
        raise ProviderError(f"the archive may not be unpacked over the workspace: {error}") from error


def reader(chunks: Iterable[bytes]) -> io.BufferedReader:
    """An iterable of chunks as a file to read from."""
    return io.BufferedReader(_Chunks(chunks), _CHUNK)


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
