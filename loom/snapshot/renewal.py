"""Bring a filled workspace up to date with its source: only files that changed are copied, and the whole proof is made again.

A file stays only if it is untouched on both sides: inode, size and times of the source's and of the workspace's are those
that were noted when it had been copied. Everything else is copied again, or removed, whoever made it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from functools import lru_cache
from operator import itemgetter
from pathlib import Path

import msgspec
from msgspec import Struct, field

from loom import __version__
from loom.errors import SnapshotError
from loom.snapshot import copy_files
from loom.snapshot.copy_workers import could_not_write
from loom.snapshot.index import directories
from loom.snapshot.lock import alone_in
from loom.snapshot.removal import delete
from loom.util import atomic, processes
from loom.util.paths import ancestors
from loom.util.private import make_private

Folder = tuple[bytes, bytes, bytes]
"""The files of a directory: their sorted names joined by NUL, the facts of the sources, and those of the copies."""
Folders = dict[bytes, Folder]
"""By the path of a directory and a slash, the root by nothing."""
_EMPTY: Folder = (b"", b"", b"")
_MOST_OPEN = 64
"""The number of directories whose facts are at hand at once: an index has those of a path among one another."""


class KnownFiles(Struct):
    """The files of a filled workspace that are as the copy left them if their facts still hold.

    For the same loom in the same boot: a crash may lose what was written.
    """

    umask: int
    """The umask with which they were copied."""
    files: Folders = {}
    objects: Folders = {}
    """The same of git's objects."""
    index: bytes = b""
    """The digest of an index that has the facts of all `files` in the source but those `apart`."""
    apart: set[bytes] = set()
    loom: str = __version__
    boot_id: str = field(default_factory=processes.boot_id)


def keep_known(known: KnownFiles, kept: Path) -> None:
    """Write `known` where no job can write. Without it the workspace is never renewed, so a failure is no error."""
    with suppress(OSError):
        make_private(kept.parent)
        atomic.write(kept, msgspec.msgpack.encode(known), mode=0o600)


def take_known(kept: Path) -> KnownFiles | None:
    """Read what `keep_known` wrote, and remove it: whoever has it changes the workspace."""
    try:
        known = _read(kept)
        kept.unlink()
    except OSError:
        return None
    return known


def _read(kept: Path) -> KnownFiles | None:
    try:
        known = msgspec.msgpack.decode(kept.read_bytes(), type=KnownFiles)
    except (OSError, ValueError):
        return None
    return known if (known.loom, known.boot_id) == (__version__, processes.boot_id()) else None


def put_in(folders: Folders, copied: copy_files.Copied) -> None:
    """Move the files of `copied` to `folders`."""
    copied.sort(key=itemgetter(0))
    while copied:
        prefix, files = copied.pop()
        while copied and copied[-1][0] == prefix:
            files |= copied.pop()[1]
        key = os.fsencode(prefix)
        folders[key] = _pack(_unpack(folders.get(key, _EMPTY)) | files)


def take_out(folders: Folders, paths: Iterable[str]) -> dict[str, bytes]:
    """Remove these files; return those that were there, with the facts of both sides."""
    taken: dict[str, bytes] = {}
    for prefix, names in _by_directory(paths).items():
        key = os.fsencode(prefix)
        left = _unpack(folders.pop(key, _EMPTY))
        taken.update((prefix + name, left.pop(name)) for name in names if name in left)
        if left:
            folders[key] = _pack(left)
    return taken


def files_in(folders: Folders) -> dict[str, bytes]:
    """Return all files, with the facts of both sides."""
    result: dict[str, bytes] = {}
    for prefix, folder in folders.items():
        result.update((os.fsdecode(prefix) + name, facts) for name, facts in _unpack(folder).items())
    return result


def _paths_in(folders: Folders) -> Iterator[str]:
    for prefix, (names, _, _) in folders.items():
        yield from (os.fsdecode(prefix) + name for name in os.fsdecode(names).split("\0"))


def _by_directory(paths: Iterable[str]) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for path in paths:
        directory, slash, name = path.rpartition("/")
        result.setdefault(directory + slash, []).append(name)
    return result


def _pack(files: dict[str, bytes]) -> Folder:
    names = sorted(files)
    theirs = b"".join([files[name][: copy_files.FACTS_SIZE] for name in names])
    return _joined(names), theirs, b"".join([files[name][copy_files.FACTS_SIZE :] for name in names])


def _unpack(folder: Folder) -> dict[str, bytes]:
    names, theirs, ours = folder
    size = copy_files.FACTS_SIZE
    starts = range(0, len(ours), size)
    each = zip(os.fsdecode(names).split("\0"), starts, strict=False)  # no names split into an empty one
    return {name: theirs[at : at + size] + ours[at : at + size] for name, at in each}


def _joined(names: Iterable[str]) -> bytes:
    return os.fsencode("\0".join(names))


def hand_over(workspace: Path, kept: Path, target: Path, target_kept: Path, *, stripped: bool = False) -> bool:
    """Make a workspace that nobody needs the content of the missing or empty directory `target`, to be renewed there.

    False if it is in use or has no known files; it then remains under its name. `stripped`: also if it has something that
    can't be removed, and everything else goes now.
    """
    with alone_in(workspace) as alone:
        try:
            inside = f"{os.path.realpath(workspace)}/"
            if not alone or not kept.exists() or any(at.startswith(inside) for at in processes.current_directories()):
                return False
            if stripped and not _strip_all(workspace, _read(kept)):
                return False
            kept.rename(target_kept)
            workspace.rename(target)
        except OSError:
            return False
        return True


def _strip_all(workspace: Path, known: KnownFiles | None) -> bool:
    return known is not None and None not in (
        strip(workspace, known.objects, known.umask, of_git=True),
        strip(workspace, known.files, known.umask, of_git=False),
    )


def is_as_copied(workspace: Path, kept: Path) -> bool:
    """Return whether all files beside `.git` are as the copy left them, after removing others."""
    known = _read(kept)
    return known is not None and strip(workspace, known.files, known.umask, of_git=False) == set()


def strip(workspace: Path, folders: Folders, umask: int, *, of_git: bool) -> set[str] | None:
    """Remove all but the files in `folders` that are as the copy left them, in `.git` or beside it; return what was in
    `folders`, and is gone from it now.

    None if that can't be done. No directory is left that a copy would not make.
    """
    if workspace.stat().st_uid != os.geteuid():
        return None
    known = {".git", *directories(map(os.fsdecode, folders))}
    made = {(os.geteuid(), os.getegid(), 0o777 & ~one) for one in (umask, copy_files.umask_here())}
    gone: set[str] = set()
    missing = dict(folders)
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        prefix = f"{directory}/" if directory else ""
        files: dict[str, bytes] = {}
        # By its descriptor: the kernel then looks up one name for each file, and not the whole path.
        descriptor = os.open(workspace / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if _has_attributes(descriptor):
                return None
            with os.scandir(descriptor) as scanned:
                entries = [entry for entry in scanned if directory or (entry.name == ".git") is of_git]
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):
                    files[entry.name] = copy_files.facts_of(status)
                    continue
                path = prefix + entry.name
                if path in known and (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) in made:
                    waiting.append(path)
                elif delete(workspace / path):
                    return None
            folder = missing.pop(os.fsencode(prefix), _EMPTY)
            names = sorted(files)
            if (_joined(names), b"".join([files[name] for name in names])) == (folder[0], folder[2]):
                continue
            noted = _unpack(folder)
            for name, facts in files.items():
                if noted.get(name, b"")[copy_files.FACTS_SIZE :] == facts:
                    del noted[name]
                else:
                    os.unlink(name, dir_fd=descriptor)
            gone.update(prefix + name for name in noted)
        finally:
            os.close(descriptor)
    gone.update(files_in(missing))
    take_out(folders, gone)
    return gone


def _has_attributes(directory: int) -> bool:
    """Return whether it has attributes, such as an access list for all files that are made there."""
    try:
        return any(not name.startswith("security.") for name in os.listxattr(directory))
    except OSError:
        return False  # its file system has none


class Renewer(copy_files.Copier):
    """Copies into a workspace that already has files. `files`: those that the copy has not reached yet."""

    def __init__(self, source: Path, target: Path, known: KnownFiles, *, since_ns: int) -> None:
        super().__init__(str(source), str(target), since_ns=since_ns, umask=known.umask)
        self._workspace = target
        self._known = known
        self.files: dict[str, bytes] = {}
        self.kept = copy_files.Findings()

    def strip(self) -> None:
        """Remove all but untouched files. SnapshotError if that can't be done."""
        gone = strip(self._workspace, self._known.files, self._known.umask, of_git=False)
        if gone is None:
            raise SnapshotError(f"{self._workspace}: something in it can't be removed")
        self.files = dict.fromkeys(gone, b"")

    def keep_only(self, paths: Iterable[str]) -> None:
        """Remove what the snapshot no longer has, so that nothing is in the way of what it has now."""
        try:
            self.remove(self.files.keys() - set(paths))
        except OSError as error:
            raise could_not_write(self._workspace, copy_files.WriteFailed(error.filename, error.errno)) from error

    def finish(self, absent: Iterable[str]) -> None:
        """Remove what the source turned out not to have."""
        self.keep_only(self.files.keys() - set(absent))
        if self.files:
            raise SnapshotError(f"{self._workspace}: files were neither renewed nor removed")

    def remove(self, paths: Iterable[str]) -> None:
        """Remove these files, and directories that are empty then."""
        above: set[str] = set()
        for path in sorted(paths):
            directory, _, name = path.rpartition("/")
            del self.files[path]
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._target.enter(directory)[0])
            above.update(ancestors(path))
        for directory in sorted(above, reverse=True):
            parent, _, name = directory.rpartition("/")
            with suppress(OSError):  # something else is in it
                os.rmdir(name, dir_fd=self._target.enter(parent)[0])
        self._target.close()  # the directories that it has open may be removed

    def changed(
        self, tracked: Set[str], entries: Iterable[tuple[str, tuple[int, ...]]], digest: bytes, *, written_s: int
    ) -> set[str]:
        """Return the files, known and `tracked`, that may not have the facts of an index, which was written then.

        And those of the very second, of which git reads the content: it may be the same under another time.
        """
        known = self._known
        if known.index == digest:
            return self.files.keys() | set(map(os.fsdecode, known.apart))
        known.index = digest

        @lru_cache(_MOST_OPEN)
        def noted(prefix: str) -> dict[str, tuple[int, ...]]:
            names, theirs, _ = known.files.get(os.fsencode(prefix), _EMPTY)
            return dict(zip(os.fsdecode(names).split("\0"), copy_files.separate(theirs), strict=False))

        apart: set[str] = set()
        within, files = "", noted("")
        for path, entry in entries:
            directory, slash, name = path.rpartition("/")
            if (prefix := directory + slash) != within:
                within, files = prefix, noted(prefix)
            facts = files.get(name) if entry[2] < written_s else None
            if not facts or not copy_files.are_in_index(facts, entry):
                apart.add(path)
        return apart.union(path for path in _paths_in(known.files) if path not in tracked)

    def keep_but(self, paths: Set[str], *, count: int) -> None:
        """Count the known files but these as copied. SnapshotError if they are not so many: some tracked file is not known."""
        known = self._known.files
        self.files |= take_out(known, paths)
        self.kept.files = sum(len(theirs) for _, theirs, _ in known.values()) // copy_files.FACTS_SIZE
        self.kept.bytes = sum(facts[3] for _, theirs, _ in known.values() for facts in copy_files.separate(theirs))
        if self.kept.files != count:
            raise SnapshotError(f"{self._workspace}: other files are known than those of the index")

    def _one(self, source: int, target: int, prefix: str, name: str, become: int, recent: bool) -> None:
        path = prefix + name
        if (noted := self.files.pop(path, None)) is not None:
            if noted and self._stands(source, name, become, noted):
                self.findings.files += 1
                self.findings.bytes += copy_files.size_in(noted)
                self.findings.keep(prefix, name, noted)
                if recent:
                    self.findings.recent.append(path)
                return
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=target)
        super()._one(source, target, prefix, name, become, recent)

    def _stands(self, source: int, name: str, become: int, noted: bytes) -> bool:
        """Return whether the copy is the one that would be made now."""
        try:
            theirs = os.stat(name, dir_fd=source, follow_symlinks=False)
        except OSError:
            return False
        if copy_files.facts_of(theirs) != noted[: copy_files.FACTS_SIZE] or become == copy_files.LINK_FROM_FILE:
            return False
        mode = copy_files.mode_in(noted[copy_files.FACTS_SIZE :])
        return not stat.S_ISREG(theirs.st_mode) or mode == copy_files.mode_of(become, theirs, self.umask)
