"""Tar streams to and from a local directory, for views that are plain directories."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from loom.errors import ProviderError
from loom.storage import unpacking
from loom.storage.selection import Everything
from loom.storage.tar import DamagedArchive, Item, TarEntry, packed, read
from loom.storage.workspace import DirectoryView, OnSkipped, Skipped
from loom.util.untrusted_files import reader

Edit = Callable[[TarEntry], TarEntry | None]
"""Changes an entry of an archive; None: skips it."""


def _unchanged(entry: TarEntry) -> TarEntry:
    return entry


def unnoticed(_: Skipped) -> None:
    """Ignore skipped special files."""


def archive_of(
    root: Path, paths: Iterable[str], on_skipped: OnSkipped = unnoticed, *, change: Edit = _unchanged
) -> Iterator[bytes]:
    """Return a tar stream of files and directories (with content) below `root`; missing ones are skipped.

    Special files are skipped and reported to `on_skipped`; an unreadable file is a PermissionError. Links are not
    followed, also in parents.
    """
    return packed(members_of(root, paths, on_skipped, change=change))


def members_of(
    root: Path, paths: Iterable[str], on_skipped: OnSkipped = unnoticed, *, change: Edit = _unchanged
) -> Iterator[Item]:
    """Pack as `archive_of`, but the entries with their content."""

    def skipped(item: Skipped) -> None:
        if not item.is_special:
            raise PermissionError(errno.EACCES, item.reason, str(root / item.path))
        on_skipped(item)

    chosen = Everything(*paths)
    if "" in chosen.roots:
        status = root.stat()
        if (changed := change(TarEntry(".", "directory", status.st_mode & 0o777, status.st_mtime_ns))) is not None:
            yield changed, None
    for entry, file in DirectoryView(root).read(chosen, skipped):
        if (changed := change(entry)) is not None:
            yield changed, file


def below(folder: str, entry: TarEntry) -> TarEntry:
    """Return an entry that is moved below a folder."""
    target = f"{folder}/{entry.target}" if entry.kind == "hardlink" else entry.target
    return replace(entry, path=f"{folder}/{entry.path}", target=target)


def renamed(
    archives: Iterable[tuple[str, Iterable[bytes]]],
    on_skipped: OnSkipped = unnoticed,
    *,
    change: Edit = _unchanged,
    owner: tuple[int, int] = (0, 0),
) -> Iterator[bytes]:
    """Merge tar streams. Each comes with a path that replaces the first part of its entries' names.

    An empty path keeps names, except a leading `./`. Special files are skipped and reported to `on_skipped`.
    """
    return packed(_renamed(archives, change, on_skipped), owner)


def _renamed(archives: Iterable[tuple[str, Iterable[bytes]]], change: Edit, on_skipped: OnSkipped) -> Iterator[Item]:
    for path, chunks in archives:
        with reader(chunks) as stream:
            for entry, content in read(stream):
                name = _under(path, entry.path)
                if entry.kind == "special":
                    on_skipped(Skipped.special(name, entry.target))
                    continue
                target = _under(path, entry.target) if entry.kind == "hardlink" else entry.target
                if (changed := change(replace(entry, path=name, target=target))) is not None:
                    yield changed, content


def _under(path: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if path:
        parts = [path, *parts[1:]]
    return "/".join(parts) or "."


def unpack(archive: Iterable[bytes], root: Path, on_skipped: OnSkipped = unnoticed) -> None:
    """Unpack a tar stream over `root`. ProviderError for an unsafe one.

    Devices and FIFOs are skipped and reported to `on_skipped`.
    """

    def special(path: str, kind: str) -> None:
        on_skipped(Skipped.special(_under("", path), kind))

    try:
        unpacking.unpack(reader(archive), root, on_special=special)
    except (unpacking.UnsafeArchive, DamagedArchive) as error:
        raise ProviderError(f"the archive may not be unpacked over the workspace: {error}") from error
