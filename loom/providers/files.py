"""Tar streams to and from a local directory, for views that are plain directories."""

from __future__ import annotations

import errno
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Literal, cast

from loom.errors import ProviderError
from loom.storage import tar, unpacking
from loom.storage.selection import Chosen
from loom.storage.tar import Kind, TarEntry
from loom.storage.workspace import DirectoryView, OnSkipped, Skipped
from loom.util.untrusted_files import reader

_CHUNK = 256 * 1024
_READ = 1 << 20
_TAR_BUFFER = 64 * 1024  # the rest of it is copied for each header
_TYPES: dict[Kind, bytes] = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


Edit = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]
"""Changes a member of an archive; None: skips it."""


def unnoticed(_: Skipped) -> None:
    """For callers that ignore skipped special files."""


def archive_of(
    root: Path,
    paths: Iterable[str],
    on_skipped: OnSkipped = unnoticed,
    *,
    change: Edit | None = None,
) -> Iterator[bytes]:
    """Return a tar stream of files and directories (with content) below `root`; missing ones are skipped.

    Special files are skipped and reported to `on_skipped`; an unreadable file is a PermissionError. Links are not
    followed, also in parents.
    """
    return packed(members_of(root, paths, on_skipped, change=change))


Form = Literal[0, 1, 2]
"""A tar format of `tarfile`."""
Members = Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]


def members_of(
    root: Path, paths: Iterable[str], on_skipped: OnSkipped = unnoticed, *, change: Edit | None = None
) -> Members:
    """As `archive_of`, but the members with their content."""
    return _members(root, _Whole(paths), change, on_skipped)


def packed(
    members: Iterable[tuple[tarfile.TarInfo, IO[bytes] | None]], *, form: Form = tarfile.PAX_FORMAT
) -> Iterator[bytes]:
    """Write a tar stream in similar pieces for any file size; `tarfile` buffers whole files.

    `form`: GNU's can be read by every `tar`, and has whole seconds only.
    """
    piece = bytearray()
    total = 0
    for part in _parts(members, form):
        piece += part
        if len(piece) >= _CHUNK:
            yield bytes(piece)
            total += len(piece)
            piece.clear()
    piece += bytes(2 * tarfile.BLOCKSIZE)
    piece += bytes(-(total + len(piece)) % tarfile.RECORDSIZE)
    yield bytes(piece)


def _parts(members: Iterable[tuple[tarfile.TarInfo, IO[bytes] | None]], form: Form) -> Iterator[bytes]:
    for member, content in members:
        yield member.tobuf(form, tarfile.ENCODING, "surrogateescape")
        if content is None:
            continue
        yield from tar.pieces(content, member.size, member.name, most=_CHUNK)
        yield bytes(-member.size % tarfile.BLOCKSIZE)


def _members(root: Path, chosen: Chosen, change: Edit | None, on_skipped: OnSkipped) -> Members:
    def skipped(item: Skipped) -> None:
        if not item.is_special:
            raise PermissionError(errno.EACCES, item.reason, str(root / item.path))
        on_skipped(item)

    if "" in chosen.roots:
        member = _member(TarEntry(".", "directory", root.stat().st_mode & 0o777, root.stat().st_mtime_ns))
        if (changed := member if change is None else change(member)) is not None:
            yield changed, None
    for entry, file in DirectoryView(root).read(chosen, skipped):
        member = _member(entry)
        changed = member if change is None else change(member)
        if changed is not None:
            yield changed, None if file is None else cast("IO[bytes]", _Exactly(file, entry.size))


class _Whole:
    """Yield paths with everything below."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.roots = tuple("" if path == "." else path for path in paths)

    def never(self, path: str) -> bool:
        return False

    left_out = never

    def takes(self, path: str) -> bool:
        return True

    may_hold = takes


def _member(entry: TarEntry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.path)
    member.type = _TYPES[entry.kind]
    member.mode, member.size, member.linkname = entry.mode, entry.size, entry.target
    member.mtime = entry.mtime_ns / 1e9
    return member


class _Exactly:
    """A file of exactly the size in its header, even if it changes meanwhile."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        if len(data) < min(size, self._left):
            data += b"\0" * (min(size, self._left) - len(data))
        self._left -= len(data)
        return data


def renamed(
    archives: Iterable[tuple[str, Iterable[bytes]]],
    on_skipped: OnSkipped = unnoticed,
    *,
    change: Edit | None = None,
    form: Form = tarfile.PAX_FORMAT,
) -> Iterator[bytes]:
    """Merge tar streams. Each comes with a path that replaces the first part of its members' names.

    An empty path keeps names, except a leading `./`. Special files are skipped and reported to `on_skipped`.
    """
    return packed(_renamed(archives, change, on_skipped), form=form)


def _renamed(archives: Iterable[tuple[str, Iterable[bytes]]], change: Edit | None, on_skipped: OnSkipped) -> Members:
    for path, chunks in archives:
        with tarfile.open(mode="r|*", fileobj=cast("IO[bytes]", reader(chunks)), bufsize=_TAR_BUFFER) as archive:
            for member in archive:
                member.name = _under(path, member.name)
                if _is_special(member, on_skipped):
                    continue
                if member.islnk():
                    member.linkname = _under(path, member.linkname)
                # The names of the other archive would override the new ones.
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


def _is_special(member: tarfile.TarInfo, on_skipped: OnSkipped) -> bool:
    if member.isreg() or member.isdir() or member.issym() or member.islnk():
        return False
    on_skipped(Skipped.special(_under("", member.name), "FIFO" if member.isfifo() else "device"))
    return True


def unpack(archive: Iterable[bytes], root: Path, on_skipped: OnSkipped = unnoticed) -> None:
    """Unpack a tar stream over `root`. ProviderError for an unsafe one.

    Devices and FIFOs are skipped and reported to `on_skipped`.
    """

    def special(path: str, kind: str) -> None:
        on_skipped(Skipped.special(_under("", path), kind))

    try:
        unpacking.unpack(cast("IO[bytes]", reader(archive)), root, on_special=special)
    except (unpacking.UnsafeArchive, tar.DamagedArchive) as error:
        raise ProviderError(f"the archive may not be unpacked over the workspace: {error}") from error
