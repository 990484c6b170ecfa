"""Unpack tar archives; no other module does.

All archives are untrusted: a cache folder may be planted, a record may be a copy, and jobs wrote the content of both.
`checked` verifies every entry before a byte is written:

- Names are relative and never climb; loom's own paths in a workspace are refused.
- Only files, directories, links and hard links to files of the same archive; without set-uid, set-gid and sticky bits.
- A symbolic link may point anywhere (a virtual environment's `python` does), because nothing of loom follows it.
- The number of entries, their bytes, and the length and depth of names are bounded.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

from msgspec import Struct

from loom.storage.tar import Content, Item, TarEntry
from loom.util.paths import ancestors, is_below, normal

MOST_ENTRIES = 4_000_000
MOST_BYTES = 128 << 30
"""Limits of an archive's unpacked size: above any real one, and low enough that a small archive can't fill a machine."""
LONGEST_PATH = 4096
DEEPEST_PATH = 256
"""Every directory on an entry's path is held open while it is written."""
_CHUNK = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeArchive(ValueError):
    """An archive with an unsafe entry; the message names the entry and the reason."""


def checked(items: Iterable[Item], reserved: Iterable[str] = ()) -> Iterator[Item]:
    """Yield the entries with normalised path and mode, until one breaks the rules or is `reserved`: UnsafeArchive."""
    reserved = tuple(reserved)
    files: set[str] = set()
    links: set[str] = set()
    held = Totals()
    for entry, content in items:
        name = entry.path
        path = _safe_path(name)
        if any(is_below(path, directory) for directory in reserved):
            raise UnsafeArchive(f"{name!r} is a path of loom's own record")
        if not path:
            continue
        if links and not links.isdisjoint(ancestors(path)):
            raise UnsafeArchive(f"{name!r} leads through a link of the same archive")
        target = entry.target
        match entry.kind:
            case "special":
                raise UnsafeArchive(f"{name!r} is a device or FIFO")
            case "link":
                if not target or "\0" in target or len(target) > LONGEST_PATH:
                    raise UnsafeArchive(f"{name!r} is a link to {target[:100]!r}, which is not a path")
                links.add(path)
                files.discard(path)
            case "hardlink":
                target = normal(target)
                if entry.target.startswith("/") or target not in files:
                    raise UnsafeArchive(
                        f"{name!r} is a hard link to {entry.target!r}, which is not a file of the archive"
                    )
                files.add(path)
            case "file":
                files.add(path)
            case "directory":
                pass
        held.add(entry)
        yield TarEntry(path, entry.kind, entry.mode & 0o777, entry.mtime_ns, entry.size, target), content


class Totals(Struct, kw_only=True):
    """An archive's number of entries and bytes; `add` raises UnsafeArchive beyond the limits, both for packing and unpacking."""

    entries: int = 0
    files: int = 0
    bytes: int = 0

    def add(self, entry: TarEntry) -> None:
        self.entries += 1
        self.files += entry.kind != "directory"
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


def unpack_items(items: Iterable[Item], root: Path) -> Totals:
    """Unpack entries that are `checked` over the directory `root`; a file replaces a file. Removes written files on failure.

    UnsafeArchive where a link is in the way, OSError when `root` can't be written; else as the entries' source.
    """
    written = Totals()
    with closing(TreeWriter(root)) as writer:
        try:
            for entry, file in items:
                writer.put(entry, file)
                written.add(entry)
            writer.finish()
        except BaseException:
            writer.undo()
            raise
    return written


class TreeWriter:
    """Writes entries below a directory, never through a link. UnsafeArchive when a link is in the way."""

    def __init__(self, root: Path) -> None:
        self._stack: list[tuple[str, int]] = [("", os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))]
        self._directories: dict[str, TarEntry] = {}
        self._made: list[str] = []

    def close(self) -> None:
        while self._stack:
            os.close(self._stack.pop()[1])

    def put(self, entry: TarEntry, file: Content | None) -> None:
        if entry.kind == "directory":
            self._enter(entry.path)
            self._directories[entry.path] = entry
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

    def _link(self, entry: TarEntry, name: str) -> None:
        above, _, source_name = entry.target.rpartition("/")
        source = os.dup(self._enter(above))
        try:
            directory = self._enter(entry.path.rpartition("/")[0])
            _make_way(name, directory, entry.path)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def undo(self) -> None:
        """Remove the written files, so that nobody mistakes a part for the whole."""
        for path in self._made:
            above, _, name = path.rpartition("/")
            with suppress(OSError, UnsafeArchive):
                os.unlink(name, dir_fd=self._enter(above))

    def finish(self) -> None:
        """Set modes and times of directories last, because writing into them changes both."""
        for entry in reversed(self._directories.values()):
            descriptor = self._enter(entry.path)
            os.fchmod(descriptor, entry.mode)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def _enter(self, path: str) -> int:
        """Return the directory at `path`, creating missing ones."""
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
                os.mkdir(name, 0o700, dir_fd=above)
            made = os.open(name, _DIRECTORY, dir_fd=above)
            os.fchmod(made, os.fstat(above).st_mode & 0o777 | 0o700)  # the mode that the job's directories have
            return made
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


def _write_file(entry: TarEntry, file: Content, name: str, directory: int) -> None:
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
            left -= len(data)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(descriptor)
