"""A job's workspace view, for artifacts and caches.

Two kinds: a directory that this process can access (`DirectoryView`), and a session that only exchanges tar streams
(`TarView`: copy-on-write views, volumes, remote engines). Both guarantee:

- Links are never followed, for reading or writing, so nothing outside the workspace is touched.
- Loom's own record is never read, and `.git` only if a pattern names it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import IO, Protocol

from msgspec import Struct
from msgspec.structs import replace

from loom.storage.selection import LOOM_DIRECTORIES, Everything, PathSelection
from loom.storage.tar import Check, CheckedStream, Item, Kind, TarEntry, read
from loom.storage.unpacking import Totals, checked, unpack_items
from loom.util.paths import normal
from loom.util.untrusted_files import special_kind
from loom.values import Immutable

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Skipped(Immutable):
    """A requested file that can't be read: a socket, a device, a file without permission."""

    path: str
    reason: str

    @classmethod
    def special(cls, path: str, kind: str) -> Skipped:
        """`kind` is a result of `special_kind`."""
        return cls(path=path, reason=f"a {kind}, not a file")

    @property
    def is_special(self) -> bool:
        return self.reason.endswith(", not a file")


OnSkipped = Callable[[Skipped], None]


OpenArchive = Callable[[], AbstractContextManager[IO[bytes]]]


def _go_on() -> None:
    """Do nothing: the check of callers that can't be interrupted."""


class WorkspaceView(Protocol):
    @property
    def check(self) -> Check: ...

    def read(self, selection: Everything, on_skipped: OnSkipped) -> Iterator[Item]:
        """Yield the selected entries, directories before their content. OSError when the workspace can't be read."""

    def write(self, *archives: OpenArchive) -> Sequence[Totals]:
        """Unpack uncompressed tar archives in turn, by the rules of `storage.unpacking`; a file replaces a file.

        UnsafeArchive, before or during unpacking, for unsafe entries; OSError when the workspace can't be written;
        DamagedArchive for an invalid or truncated archive.
        """


class DirectoryView(Struct):
    """A directory of this machine."""

    root: Path
    check: Check = _go_on

    def read(self, selection: Everything, on_skipped: OnSkipped) -> Iterator[Item]:
        for item in _Walk(selection, on_skipped, contents=True).from_root(self.root):
            self.check()
            yield item

    def entries(self, selection: PathSelection, on_skipped: OnSkipped) -> Iterator[TarEntry]:
        """Yield as `read`, without opening files."""
        for entry, _ in _Walk(selection, on_skipped, contents=False).from_root(self.root):
            yield entry

    def write(self, *archives: OpenArchive) -> Sequence[Totals]:
        written: list[Totals] = []
        unpack_items(_checked_in_turn(archives, self.check, written), self.root)
        return written


def _checked_in_turn(archives: Iterable[OpenArchive], check: Check, written: list[Totals]) -> Iterator[Item]:
    """Yield the checked entries of all archives; `written` gets the totals of each."""
    for opened in archives:
        written.append(Totals())
        with opened() as stream:
            for entry, content in checked(read(CheckedStream(stream, check)), LOOM_DIRECTORIES):
                written[-1].add(entry)
                yield entry, content


class _Walk(Struct):
    """Walks below a directory by directory descriptors, so that a directory replaced by a link is not entered."""

    selection: Everything
    on_skipped: OnSkipped
    contents: bool
    _seen: dict[tuple[int, int], str] = {}

    def from_root(self, path: Path) -> Iterator[Item]:
        root = os.open(path, _DIRECTORY)
        try:
            for start in self.selection.roots:
                yield from self._start(root, start)
        finally:
            os.close(root)

    def _start(self, root: int, start: str) -> Iterator[Item]:
        """Walk from one of the selection's roots; empty if it is missing or behind a link."""
        if not start:
            yield from self._entries_below(root, "", inside=False)
            return
        above, _, name = start.rpartition("/")
        held = os.dup(root)
        try:
            for part in above.split("/") if above else ():
                try:
                    deeper = os.open(part, _DIRECTORY, dir_fd=held)
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        return
                    raise
                os.close(held)
                held = deeper
            yield from self._one(held, name, start, inside=False)
        finally:
            os.close(held)

    def _entries_below(self, directory: int, prefix: str, *, inside: bool) -> Iterator[Item]:
        with os.scandir(directory) as listing:
            names = sorted(entry.name for entry in listing)
        for name in names:
            yield from self._one(directory, name, f"{prefix}/{name}" if prefix else name, inside=inside)

    def _one(self, directory: int, name: str, path: str, *, inside: bool) -> Iterator[Item]:
        """`inside`: a directory above is selected, so this is selected too unless excluded."""
        selection = self.selection
        if selection.never(path):
            return
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return  # a missing root, or one removed during the walk
        except PermissionError as error:
            self.on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        taken = not selection.left_out(path) if inside else selection.takes(path)
        if stat.S_ISDIR(status.st_mode):
            if taken or selection.may_hold(path):
                yield from self._directory(directory, name, path, status, taken=taken)
        elif not taken:
            return
        elif stat.S_ISLNK(status.st_mode):
            yield _entry(path, "link", status, os.readlink(name, dir_fd=directory)), None
        elif kind := special_kind(status.st_mode):
            self.on_skipped(Skipped.special(path, kind))
        else:
            yield from self._file(directory, name, path, status)

    def _directory(self, above: int, name: str, path: str, status: os.stat_result, *, taken: bool) -> Iterator[Item]:
        try:
            opened = os.open(name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            self.on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        try:
            if taken:
                yield _entry(path, "directory", status), None
            yield from self._entries_below(opened, path, inside=taken)
        finally:
            os.close(opened)

    def _file(self, directory: int, name: str, path: str, status: os.stat_result) -> Iterator[Item]:
        if status.st_nlink > 1:
            same = (status.st_dev, status.st_ino)
            if same in self._seen:
                yield _entry(path, "hardlink", status, self._seen[same]), None
                return
            self._seen[same] = path
        if not self.contents:
            yield _entry(path, "file", status), None
            return
        try:
            # Open without blocking: a FIFO may have replaced the file.
            opened = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            self.on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        with os.fdopen(opened, "rb", buffering=0) as file:
            status = os.fstat(opened)
            if kind := special_kind(status.st_mode):  # it replaced the file meanwhile
                self.on_skipped(Skipped.special(path, kind))
            elif stat.S_ISREG(status.st_mode):
                yield _entry(path, "file", status), file


def _entry(path: str, kind: Kind, status: os.stat_result, target: str = "") -> TarEntry:
    size = status.st_size if kind == "file" else 0
    mode = 0o777 if kind == "link" else status.st_mode & 0o777
    return TarEntry(path, kind, mode, status.st_mtime_ns, size, target)


class Archives(Protocol):
    """A job's files that are reached only through tar streams."""

    def get(self, paths: Iterable[str], on_skipped: OnSkipped) -> Generator[Item, None, None]:
        """Yield files and directories (with their content) by their paths; missing ones are left out; `.` is everything.

        Sockets, FIFOs and devices are left out and reported to `on_skipped` (an engine's archives never contain sockets).
        """

    def put(self, items: Iterable[Item]) -> None:
        """Unpack these over the job's files; they will belong to the job's user."""


class TarView(Struct):
    """A session that exchanges tar streams."""

    _archives: Archives
    check: Check = _go_on

    def read(self, selection: Everything, on_skipped: OnSkipped) -> Iterator[Item]:
        roots = [root or "." for root in selection.roots]

        def skipped(item: Skipped) -> None:
            if selection.takes(item.path):
                on_skipped(item)

        taken: set[str] = set()
        # For a skipped file, the paths that share it: the stream has its content under that name only.
        sharing: dict[str, list[str]] = {}
        for entry, content in self._members(roots, skipped):
            path = normal(entry.path)
            if not path or ".." in path.split("/") or not selection.takes(path):
                continue
            target = normal(entry.target) if entry.kind == "hardlink" else entry.target
            if entry.kind == "hardlink" and target not in taken:
                sharing.setdefault(target, []).append(path)
            else:
                taken.add(path)
                yield replace(entry, path=path, mode=entry.mode & 0o777, target=target), content
        # Requested alone, each of them is a file.
        others = {first: more for first, *more in sharing.values()}
        for entry, content in self._members(sorted(others), skipped) if others else ():
            path = normal(entry.path)
            if path in others and entry.kind == "file":
                yield replace(entry, path=path, mode=entry.mode & 0o777), content
                for other in others.pop(path):
                    yield TarEntry(other, "hardlink", entry.mode & 0o777, entry.mtime_ns, 0, path), None
        for path, more in others.items():
            for gone in (path, *more):
                on_skipped(Skipped(path=gone, reason="a hard link to a file whose content could not be read"))

    def _members(self, paths: Iterable[str], on_skipped: OnSkipped) -> Iterator[Item]:
        with closing(self._archives.get(paths, on_skipped)) as items:
            for entry, content in items:
                self.check()
                yield entry, None if content is None else CheckedStream(content, self.check)

    def write(self, *archives: OpenArchive) -> Sequence[Totals]:
        written: list[Totals] = []
        for _ in _checked_in_turn(archives, self.check, written):
            pass  # other code unpacks them, so all are verified first
        # One transfer for all: each is a request to the engine, or a command in the pod.
        self._archives.put(_checked_in_turn(archives, self.check, []))
        return written


def view_of(files: Path | Archives, check: Check = _go_on) -> WorkspaceView:
    """Return the view of a session's files: a directory if this process can read it, else tar streams."""
    return DirectoryView(files, check) if isinstance(files, Path) else TarView(files, check)
