"""Bring a filled workspace up to date with its source: only files that changed are copied, and the whole proof is made again.

A file stays only if it is untouched on both sides: inode, size and times of the source's and of the workspace's are those
that were noted when it had been copied. Everything else is copied again, or removed, whoever made it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import Struct

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
from loom.values import Immutable


class KnownFiles(Struct, frozen=True):
    """The files of a filled workspace that are as the copy left them if their facts still hold."""

    files: Mapping[str, bytes]
    """The facts of the source's file and of the copy."""
    objects: Mapping[str, bytes]
    """The same of git's objects."""
    umask: int
    """The umask with which they were copied."""


class _Document(Immutable):
    """Known files as they are kept, for the same loom in the same boot: a crash may lose what was written."""

    loom: str
    boot_id: str
    umask: int
    objects: int
    """The number of objects, which come first."""
    paths: bytes
    facts: bytes


def keep_known(known: KnownFiles, kept: Path) -> None:
    """Write `known` where no job can write. Without it the workspace is never renewed, so a failure is no error."""
    document = _Document(
        loom=__version__,
        boot_id=processes.boot_id(),
        umask=known.umask,
        objects=len(known.objects),
        paths=os.fsencode("\0".join((*known.objects, *known.files))),
        facts=b"".join((*known.objects.values(), *known.files.values())),
    )
    with suppress(OSError):
        make_private(kept.parent)
        atomic.write(kept, msgspec.msgpack.encode(document), mode=0o600)


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
        document = msgspec.msgpack.decode(kept.read_bytes(), type=_Document)
    except (OSError, ValueError):
        return None
    size = 2 * copy_files.FACTS_SIZE
    paths = os.fsdecode(document.paths).split("\0")
    same = (document.loom, document.boot_id) == (__version__, processes.boot_id())
    if not same or len(paths) * size != len(document.facts):
        return None
    both = zip(paths, (document.facts[at : at + size] for at in range(0, len(document.facts), size)), strict=True)
    objects = dict(islice(both, document.objects))
    return KnownFiles(objects=objects, files=dict(both), umask=document.umask)


def hand_over(workspace: Path, kept: Path, target: Path, target_kept: Path, *, stripped: bool = False) -> bool:
    """Make a workspace that nobody needs the content of the missing or empty directory `target`, to be renewed there.

    False if it is in use or has no known files; it then remains under its name. `stripped`: also if it has something that
    can't be removed, and everything else goes now.
    """
    with alone_in(workspace) as alone:
        try:
            if not alone or not kept.exists():
                return False
            if stripped and not _strip_all(workspace, _read(kept)):
                return False
            kept.rename(target_kept)
            workspace.rename(target)
        except OSError:
            return False
        return True


def _strip_all(workspace: Path, known: KnownFiles | None) -> bool:
    return known is not None and all(strip(workspace, known, of_git=of_git) is not None for of_git in (True, False))


def strip(workspace: Path, known: KnownFiles, *, of_git: bool) -> dict[str, bytes] | None:
    """Remove all but the known files that are as the copy left them, in `.git` or beside it; return all known ones there.

    Those that are gone have no facts any more. None if that can't be done. No directory is left that a copy would not make.
    """
    if workspace.stat().st_uid != os.geteuid():
        return None
    noted = known.objects if of_git else known.files
    standing = dict.fromkeys(noted, b"")
    folders = {*directories(noted), ".git"}
    made = {(os.geteuid(), os.getegid(), 0o777 & ~umask) for umask in (known.umask, copy_files.umask_here())}
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        prefix = f"{directory}/" if directory else ""
        # By its descriptor: the kernel then looks up one name for each file, and not the whole path.
        descriptor = os.open(workspace / directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if _has_attributes(descriptor):
                return None
            with os.scandir(descriptor) as scanned:
                entries = [entry for entry in scanned if directory or (entry.name == ".git") is of_git]
            for entry in entries:
                path, status = prefix + entry.name, entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    if path in folders and (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) in made:
                        waiting.append(path)
                    elif delete(workspace / path):
                        return None
                    continue
                facts = noted.get(path, b"")
                if copy_files.facts_of(status) == facts[copy_files.FACTS_SIZE :]:
                    standing[path] = facts
                else:
                    os.unlink(entry.name, dir_fd=descriptor)
        finally:
            os.close(descriptor)
    return standing


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
        standing = strip(self._workspace, self._known, of_git=False)
        if standing is None:
            raise SnapshotError(f"{self._workspace}: something in it can't be removed")
        self.files = standing

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

    def unchanged(self, paths: Iterable[str], entries: Iterable[tuple[int, ...]], *, written_s: int) -> set[str]:
        """Return the untouched files whose facts are still those of the entries of an index that was written then.

        Not the files of that very second, of which git reads the content: it may be the same under another time.
        """
        return {
            path
            for path, entry in zip(paths, entries, strict=True)
            if entry[2] < written_s and (noted := self.files.get(path)) and copy_files.are_in_index(noted, entry)
        }

    def keep(self, paths: Iterable[str]) -> None:
        """Count these files as copied."""
        self.kept.copied = [(path, self.files.pop(path)) for path in paths]
        self.kept.files = len(self.kept.copied)
        self.kept.bytes = copy_files.sizes_in(facts for _, facts in self.kept.copied)

    def _one(self, source: int, target: int, prefix: str, name: str, become: int, recent: bool) -> None:
        path = prefix + name
        if (noted := self.files.pop(path, None)) is not None:
            if noted and self._stands(source, name, become, noted):
                self.findings.files += 1
                self.findings.bytes += copy_files.size_in(noted)
                self.findings.copied.append((path, noted))
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
