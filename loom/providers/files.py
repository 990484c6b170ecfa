"""Files of a job between directories and the tar streams of an engine, entry by entry."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.storage.selection import Everything
from loom.storage.tar import DamagedArchive, Item, TarEntry, read
from loom.storage.unpacking import UnsafeArchive, checked, unpack_items
from loom.storage.workspace import DirectoryView, OnSkipped, Skipped
from loom.util.untrusted_files import reader


def members_of(root: Path, paths: Iterable[str]) -> Iterator[Item]:
    """Yield files and directories (with content) below `root`, a root with mode and time as `.`; missing ones are left out.

    Special files are left out; an unreadable file is a PermissionError. Links are not followed, also in parents.
    """

    def skipped(item: Skipped) -> None:
        if not item.is_special:
            raise PermissionError(errno.EACCES, item.reason, str(root / item.path))

    chosen = Everything(*paths)
    if "" in chosen.roots:
        status = root.stat()
        yield TarEntry(".", "directory", status.st_mode & 0o777, status.st_mtime_ns), None
    yield from DirectoryView(root).read(chosen, skipped)


def moved_below(folder: str, entry: TarEntry) -> TarEntry:
    """Return an entry that is moved below a folder."""
    target = f"{folder}/{entry.target}" if entry.kind == "hardlink" else entry.target
    return replace(entry, path=f"{folder}/{entry.path}", target=target)


def members_in(archives: Iterable[tuple[str, Iterable[bytes]]], on_skipped: OnSkipped) -> Generator[Item, None, None]:
    """Yield the entries of tar streams. Each comes with a path that replaces the first part of its entries' names.

    An empty path keeps names, but for a leading `./`. Special files are skipped and reported to `on_skipped`.
    """
    for path, chunks in archives:
        with reader(chunks) as stream:
            for entry, content in read(stream):
                name = _under(path, entry.path)
                if entry.kind == "special":
                    on_skipped(Skipped.special(name, entry.target))
                    continue
                target = _under(path, entry.target) if entry.kind == "hardlink" else entry.target
                yield replace(entry, path=name, target=target), content


def _under(path: str, name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if path:
        return "/".join([path, *parts[1:]])
    return name if name.startswith("/") else "/".join(parts) or "."


def unless_canceled(pieces: Iterable[bytes], job_id: str, cancel: Cancel) -> Iterator[bytes]:
    """Yield the pieces that are sent to a job. ProviderError after a cancel."""
    for piece in pieces:
        if cancel.requested:
            raise ProviderError(f"canceled while the workspace was sent to job {job_id}", code="CANCELED")
        yield piece


def unpack(items: Iterable[Item], root: Path) -> None:
    """Unpack entries over `root`. ProviderError for an unsafe one."""
    try:
        unpack_items(checked(items), root)
    except (UnsafeArchive, DamagedArchive) as error:
        raise ProviderError(f"the archive may not be unpacked over the workspace: {error}") from error
