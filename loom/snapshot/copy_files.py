"""Copy files from a work tree: fast, never through symbolic links, and detecting concurrent changes.

This module imports only light parts of the standard library, because it is also a program: large trees are copied by
several processes (`copy_workers` starts them), as Python threads block each other between system calls. Paths are `str`
with surrogate escapes, relative to the source's root.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
import struct
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` alone would double a helper's start time
    from collections.abc import Callable, Iterable, Iterator
    from typing import IO, Any

ANY, REGULAR, EXECUTABLE, LINK, LINK_FROM_FILE, OBJECT, SAME = range(7)
"""What a file is to become: as git sees it on disk (most likely a file), a plain file, an executable one, as it is (most
likely a link), a link also where a plain file stands for one, a read-only file, or one with the same mode."""
GITS_UMASK = 0o022
"""The umask of a usual checkout: files are 0644 or 0755."""
_LINKS = (LINK, LINK_FROM_FILE)

ATTEMPTS = 3
_LONGEST_LINK = 4095
_SPARSE_FROM = 1 << 20
_CHUNK = 1 << 26
# Precomputed, because they are used for every file.
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_TO_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_MAKE_AGAIN = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
# errno values for files that can't be opened: missing, a symbolic link, a socket.
_NOT_A_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)
_NO_NAMES = ("", ".", "..")
_NOT_SUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)


Copied = list[tuple[str, dict[str, bytes]]]
"""The paths of directories, each with a slash, the root by nothing; and the facts of both sides of their files, by name."""


class Findings:
    """The exceptions of a copy; all other files were copied normally."""

    def __init__(self) -> None:
        self.files = 0
        self.bytes = 0
        self.absent: list[str] = []
        """Missing, or no longer a file: deleted for git."""
        self.directories: list[str] = []
        """A directory in place of a file (also counted as absent)."""
        self.recent: list[str] = []
        """Copied, but changed (or possibly swapped) after the copy began, so earlier facts are void."""
        self.unstable: list[str] = []
        """Changed during each attempt; the workspace has the last version read."""
        self.denied: list[tuple[str, int]] = []
        """Could not be read."""
        self.special: list[tuple[str, int]] = []
        """Sockets, FIFOs and devices in place of files, with their modes."""
        self.no_links: list[str] = []
        """Plain files in place of links, with content that is no valid target."""
        self.copied: Copied = []
        """The files that a later copy may leave as they are."""

    def add(self, other: dict[str, Any]) -> None:
        for name, value in other.items():
            own = getattr(self, name)
            own += value
            setattr(self, name, own)

    def note(self, prefix: str, name: str, theirs: os.stat_result, ours: os.stat_result) -> None:
        # Whole milliseconds: the file system's times are too coarse to show every change.
        if theirs.st_ctime_ns % 1_000_000 and ours.st_ctime_ns % 1_000_000:
            self.keep(prefix, name, facts_of(theirs) + facts_of(ours))

    def keep(self, prefix: str, name: str, facts: bytes) -> None:
        if not self.copied or self.copied[-1][0] != prefix:
            self.copied.append((prefix, {}))
        self.copied[-1][1][name] = facts


_FACTS = struct.Struct("<IQQQqq")
FACTS_SIZE = _FACTS.size
Facts = bytes


def facts_of(status: os.stat_result) -> Facts:
    """Return what changes when a file is replaced or changed; no program can set a change time."""
    times = status.st_mtime_ns, status.st_ctime_ns
    return _FACTS.pack(status.st_mode, status.st_dev, status.st_ino, status.st_size, *times)


def _times(status: os.stat_result) -> tuple[int, int]:
    """Return those that tell of a change of an open file, in nanoseconds; all facts take five times as long."""
    return status.st_mtime_ns, status.st_ctime_ns


def mode_in(facts: Facts) -> int:
    return stat.S_IMODE(_FACTS.unpack_from(facts)[0])


def size_in(facts: Facts) -> int:
    return int(_FACTS.unpack_from(facts)[3])


def separate(facts: bytes) -> Iterator[tuple[int, ...]]:
    """Return the facts of each file, which were joined."""
    return _FACTS.iter_unpack(facts)


def are_in_index(facts: tuple[int, ...], entry: tuple[int, ...]) -> bool:
    """Return whether the source's file has the facts of an entry of git's index."""
    _, _, inode, size, time_ns, changed_ns = facts
    changed_s, changed, time_s, time, _, number, _, _, _, length, _ = entry
    same_file = (inode & 0xFFFFFFFF, size) == (number, length)
    return same_file and (time_ns, changed_ns) == (time_s * 10**9 + time, changed_s * 10**9 + changed)


class Stopped(Exception):
    """`stop` returned true during a file."""


class WriteFailed(Exception):
    """The workspace could not be written: (path, error number)."""


class Directories:
    """Open descriptors of one directory and its ancestors, cached for neighbouring files; never of one outside of `root`."""

    def __init__(self, root: int, *, umask: int | None, since_ns: int) -> None:
        """`umask`: create missing directories, with its modes."""
        self._stack: list[tuple[str, int, bool]] = [("", root, False)]
        self._umask = umask
        self._since = since_ns

    def enter(self, path: str) -> tuple[int, bool]:
        """Return (descriptor, whether it or an ancestor changed since the copy began). OSError for a missing directory;
        OSError for a link, WriteFailed for a path that could lead out of the root by its text."""
        while not (self._stack[-1][0] == "" or path == self._stack[-1][0] or path.startswith(self._stack[-1][0] + "/")):
            os.close(self._stack.pop()[1])
        here, descriptor, recent = self._stack[-1]
        rest = path[len(here) + 1 :] if here else path
        for name in rest.split("/") if rest else ():
            if name in _NO_NAMES:
                raise WriteFailed(path, errno.EINVAL)
            made = False
            if self._umask is not None:
                try:
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    made = True
                except FileExistsError:
                    pass
            descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=descriptor)
            if self._umask is None:
                recent = recent or os.fstat(descriptor).st_ctime_ns >= self._since
            elif made:
                os.fchmod(descriptor, 0o777 & ~self._umask)
            here = f"{here}/{name}" if here else name
            self._stack.append((here, descriptor, recent))
        return descriptor, recent

    def close(self) -> None:
        while len(self._stack) > 1:
            os.close(self._stack.pop()[1])


class Copier:
    """Copies groups of files, each of one directory, from one root to another."""

    def __init__(
        self,
        source: str,
        target: str,
        *,
        since_ns: int,
        stop: Callable[[], bool] | None = None,
        umask: int = GITS_UMASK,
    ) -> None:
        self.stop = stop
        self.umask = umask
        self._source_root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._target_root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._since = since_ns
        self._source = Directories(self._source_root, umask=None, since_ns=since_ns)
        self._target = Directories(self._target_root, umask=umask, since_ns=since_ns)
        self._exact_modes = umask_here() & ~umask == 0
        self._move = _kernel_copy
        self.findings = Findings()

    def check(self) -> None:
        if self.stop is not None and self.stop():
            raise Stopped

    def close(self) -> None:
        self._source.close()
        self._target.close()
        os.close(self._source_root)
        os.close(self._target_root)

    def copy(self, directory: str, files: Iterable[tuple[str, int]]) -> None:
        """Copy `files` (name, kind) of `directory`."""
        found = self.findings
        prefix = f"{directory}/" if directory else ""
        try:
            source, recent = self._source.enter(directory)
        except PermissionError as error:
            found.denied += [(prefix + name, error.errno or errno.EACCES) for name, _ in files]
            return
        except OSError:
            # Missing, or now a file or symbolic link: deleted for git.
            found.absent += [prefix + name for name, _ in files]
            return
        target = -1
        for name, become in files:
            try:
                if target < 0:
                    try:
                        target = self._target.enter(directory)[0]
                    except (NotADirectoryError, FileExistsError):
                        raise _InTheWay from None
                self._one(source, target, prefix, name, become, recent)
            except _Unreadable as error:
                found.denied.append((prefix + name, error.args[0]))
            except _InTheWay:
                found.absent.append(prefix + name)
            except OSError as error:
                raise WriteFailed(prefix + name, error.errno or errno.EIO) from error

    def _one(self, source: int, target: int, prefix: str, name: str, become: int, recent: bool) -> None:
        found = self.findings
        if become in _LINKS:
            try:
                link = os.readlink(name, dir_fd=source)
                status = os.stat(name, dir_fd=source, follow_symlinks=False)
            except OSError:
                pass  # no longer a link
            else:
                self._link(target, name, link, status)
                if recent or status.st_ctime_ns >= self._since:
                    found.recent.append(prefix + name)
                else:
                    found.note(prefix, name, status, os.stat(name, dir_fd=target, follow_symlinks=False))
                return
        attempt = 0
        while True:
            attempt += 1
            try:
                reading = os.open(name, _OPEN_TO_READ, dir_fd=source)
            except OSError as error:
                if attempt > 1:
                    os.unlink(name, dir_fd=target)
                self._note_unopened(source, target, prefix, name, become, recent, error)
                return
            try:
                before = os.fstat(reading)
                if not stat.S_ISREG(before.st_mode):
                    if attempt > 1:
                        os.unlink(name, dir_fd=target)
                    found.absent.append(prefix + name)
                    if stat.S_ISDIR(before.st_mode):
                        found.directories.append(prefix + name)
                    else:
                        found.special.append((prefix + name, before.st_mode))
                    return
                if become == LINK_FROM_FILE:
                    # core.symlinks=false stores links as plain files with their target.
                    where = os.read(reading, _LONGEST_LINK + 1)
                    if not where or b"\0" in where or len(where) > _LONGEST_LINK:
                        found.no_links.append(prefix + name)
                        return
                    self._link(target, name, os.fsdecode(where), before)
                    found.recent.append(prefix + name)
                    return
                size, written = self._file(reading, target, name, mode_of(become, before, self.umask), before, attempt)
                after = os.fstat(reading)
            finally:
                os.close(reading)
            if stable := size == after.st_size and _times(after) == _times(before):
                break
            if attempt == ATTEMPTS:
                found.unstable.append(prefix + name)
                break
            time.sleep(0.005 * attempt)
        found.files += 1
        found.bytes += size
        if recent or after.st_ctime_ns >= self._since:
            found.recent.append(prefix + name)
        elif stable:
            found.note(prefix, name, after, written)

    def _note_unopened(
        self, source: int, target: int, prefix: str, name: str, become: int, recent: bool, error: OSError
    ) -> None:
        """Classify a file that could not be opened."""
        found = self.findings
        try:
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
        except OSError:
            found.absent.append(prefix + name)
            return
        if stat.S_ISLNK(status.st_mode) and become != LINK:
            self._one(source, target, prefix, name, LINK, recent)  # a link in place of a tracked file
            return
        if not stat.S_ISREG(status.st_mode):
            found.absent.append(prefix + name)
            found.special.append((prefix + name, status.st_mode))  # ENXIO: a socket
            return
        if error.errno in _NOT_A_FILE:
            self._one(source, target, prefix, name, become, recent)  # created between the two checks
            return
        found.denied.append((prefix + name, error.errno or errno.EACCES))

    def _link(self, target: int, name: str, link: str, status: os.stat_result) -> None:
        try:
            os.symlink(link, name, dir_fd=target)
        except FileExistsError:
            raise _InTheWay from None
        os.utime(name, ns=(status.st_mtime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)
        self.findings.files += 1
        self.findings.bytes += len(link)

    def _file(
        self, reading: int, target: int, name: str, mode: int, before: os.stat_result, attempt: int
    ) -> tuple[int, os.stat_result]:
        """Return the number of bytes, and the status of the copy."""
        try:
            writing = os.open(name, _MAKE if attempt == 1 else _MAKE_AGAIN, mode, dir_fd=target)
        except (FileExistsError, IsADirectoryError):
            raise _InTheWay from None
        try:
            size = 0
            if before.st_size:
                if before.st_size >= _SPARSE_FROM and before.st_blocks * 512 < before.st_size:
                    size = self._sparse(reading, writing, before.st_size)
                else:
                    size = self._move(self, reading, writing, before.st_size)
            if not self._exact_modes:
                os.fchmod(writing, mode)
            os.utime(writing, ns=(before.st_mtime_ns, before.st_mtime_ns))
            return size, os.fstat(writing)
        finally:
            os.close(writing)

    def _sparse(self, reading: int, writing: int, size: int) -> int:
        """Copy the data extents; keep the holes."""
        position = 0
        while position < size:
            try:
                start = os.lseek(reading, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break  # only a hole up to the end
                return position + self._move(self, reading, writing, size - position)
            end = os.lseek(reading, start, os.SEEK_HOLE)
            os.lseek(reading, start, os.SEEK_SET)
            os.lseek(writing, start, os.SEEK_SET)
            moved = self._move(self, reading, writing, end - start)
            if moved < end - start:
                return start + moved
            position = end
        os.ftruncate(writing, size)
        return size


def mode_of(become: int, status: os.stat_result, umask: int) -> int:
    if become == OBJECT:
        return 0o444
    if become == SAME:
        return status.st_mode & 0o777
    executable = become == EXECUTABLE or (become != REGULAR and status.st_mode & 0o100)
    return (0o777 if executable else 0o666) & ~umask


class _InTheWay(Exception):
    """A file and a directory with one name: the source changed between two checks."""


class _Unreadable(Exception):
    """Reading failed after opening: (error number)."""


def _kernel_copy(copier: Copier, reading: int, writing: int, size: int) -> int:
    """Copy `size` bytes (fewer at the end of the file) inside the kernel; btrfs and xfs share blocks."""
    moved = 0
    try:
        while moved < size:
            got = os.copy_file_range(reading, writing, min(size - moved, _CHUNK))
            moved += got
            if got == 0 or moved == size:
                break
            copier.check()
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    else:
        if moved or not size:
            return moved
    # Between file systems, or on one that returns nothing.
    copier._move = _read_write
    return moved + _read_write(copier, reading, writing, size - moved)


def _read_write(copier: Copier, reading: int, writing: int, size: int) -> int:
    moved = 0
    while moved < size:
        try:
            data = os.read(reading, min(1 << 20, size - moved))
        except OSError as error:
            raise _Unreadable(error.errno) from error
        if not data:
            break
        copier.check()
        view = memoryview(data)
        while view:
            view = view[os.write(writing, view) :]
        moved += len(data)
    return moved


def umask_here() -> int:
    """Return the umask of this process."""
    # os.umask() would briefly change it for all threads.
    try:
        with open("/proc/self/status", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    return 0o777


def send(stream: IO[bytes], value: Any) -> None:
    data = marshal.dumps(value)
    stream.write(len(data).to_bytes(4, "big") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Receive the next value; None when the other side is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    data = stream.read(int.from_bytes(head, "big"))
    return marshal.loads(data) if len(data) == int.from_bytes(head, "big") else None


Portion = list[tuple[str, list[tuple[str, int]]]]
"""Work for one copier: directories, and files of each."""


def portions(files: Iterable[tuple[str, int]], size: int) -> Iterator[Portion]:
    """Split a sorted list of paths into portions of `size` files."""
    portion: Portion = []
    current: str | None = None
    group: list[tuple[str, int]] = []
    count = 0
    for path, become in files:
        directory, _, name = path.rpartition("/")
        if directory != current or count >= size:
            if count >= size:
                yield portion
                portion, count = [], 0
            group = []
            portion.append((directory, group))
            current = directory
        group.append((name, become))
        count += 1
    if portion:
        yield portion


def main() -> None:
    """Run a helper process: portions in, findings out, until the input closes."""
    first = receive(sys.stdin.buffer)
    if first is None:
        return
    source, target, since, umask = first
    os.umask(umask)  # so that no file needs another call for its mode
    copier = Copier(source, target, since_ns=since, umask=umask)
    while (portion := receive(sys.stdin.buffer)) is not None:
        copier.findings = Findings()
        try:
            for directory, files in portion:
                copier.copy(directory, files)
        except WriteFailed as error:
            answer = {"failed": error.args}
        else:
            answer = vars(copier.findings)
        try:
            send(sys.stdout.buffer, answer)
        except BrokenPipeError:  # the parent was killed
            os._exit(1)  # skip Python's own attempt to write the rest
