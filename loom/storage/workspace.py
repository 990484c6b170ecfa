"""A job's view of the workspace, for what loom itself takes out of it or puts into it (artifacts, caches).

Two kinds: a directory this process can read and write (`DirectoryView`), and a place that only gives and takes tar
streams (`TarView`: copy-on-write views, volumes, remote engines). Both promise:

- Links are never followed, neither to read nor to write: nothing outside of the workspace is touched, whatever a job
  left behind or an archive holds.
- Loom's own record is never part of what is read, and `.git` only where a pattern names it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from msgspec import Struct

from loom.secrets.masking import Masker
from loom.storage.files import reader
from loom.storage.tar import (
    Check,
    Checked,
    Entry,
    Held,
    Item,
    Kind,
    Writer,
    Written,
    below,
    checked,
    climbs_out,
    normal,
    packed,
    read,
    unpack,
)
from loom.util import globs
from loom.util.special_files import special_kind

_OWN = (".git/loom", ".loom/.runtime")
_GIT = ".git"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_META = re.compile(r"[*?\[{]")


class UnsafePath(ValueError):
    """A path or pattern that leads, or may lead, out of the workspace."""


class Skipped(Struct, frozen=True, kw_only=True):
    """Something that was asked for and can't be taken: a socket, a device, a file that may not be read."""

    path: str
    reason: str

    @classmethod
    def special(cls, path: str, kind: str) -> Skipped:
        """`kind` is what `special_kind` says."""
        return cls(path=path, reason=f"a {kind}, not a file")

    @property
    def is_special(self) -> bool:
        return self.reason.endswith(", not a file")


OnSkipped = Callable[[Skipped], None]


# Patterns


def pattern_problem(pattern: str) -> str | None:
    """Why a path pattern can't be used, None when it can."""
    if not pattern or not pattern.strip("/") or "\0" in pattern:
        return "the path is empty"
    if pattern.startswith(("/", "~")):
        return "the path must be relative to the workspace"
    if ".." in pattern.split("/"):
        return "the path must not climb out of the workspace with `..`"
    return None


class Selection:
    """Which paths are meant. UnsafePath for a pattern that is absolute or climbs out.

    A pattern that matches a directory means all below it; `*` and `?` stay within a name, `**` spans directories,
    `[abc]` and `{a,b}` work as in a shell; names that start with a dot are nothing special.
    """

    def __init__(self, paths: Iterable[str], exclude: Iterable[str] = ()) -> None:
        self.paths = tuple(paths)
        exclude = tuple(exclude)
        for pattern in (*self.paths, *exclude):
            problem = pattern_problem(pattern)
            if problem:
                raise UnsafePath(f"{pattern!r}: {problem}")
        self._include = [(pattern, _compiled(pattern), _depth_patterns(pattern)) for pattern in self.paths]
        self._exclude = [_compiled(pattern) for pattern in exclude]
        self._with_git = any(normal(pattern).split("/")[0] == _GIT for pattern in self.paths)
        self.matched: set[str] = set()
        """The patterns that something was found for so far."""

    @property
    def roots(self) -> tuple[str, ...]:
        """The directories or files to start at, "" for the workspace itself; none of them lies in another."""
        found: list[str] = []
        for root in sorted({root for pattern in self.paths for root in _roots(pattern)}):
            if not any(below(root, other) for other in found):
                found.append(root)
        return tuple(found)

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(pattern for pattern in self.paths if pattern not in self.matched)

    def takes(self, path: str) -> bool:
        """Whether this path itself is meant (by its own name, or because a directory above it is)."""
        if self.never(path):
            return False
        taken = False
        for pattern, compiled, _ in self._include:
            if compiled.match(path):
                self.matched.add(pattern)
                taken = True
        return taken

    def never(self, path: str) -> bool:
        """Whether this path and all below it are out, whatever else matches."""
        if path == _GIT or path.startswith(".git/"):
            if not self._with_git:
                return True
            if below(path, _OWN[0]):
                return True
        elif path.startswith(".loom/") and below(path, _OWN[1]):
            return True
        return any(compiled.match(path) for compiled in self._exclude)

    def may_hold(self, directory: str) -> bool:
        """Whether something below this directory may be meant."""
        parts = directory.split("/")
        return any(_reaches(levels, parts) for _, _, alternatives in self._include for levels in alternatives)


def _braces(pattern: str) -> list[str]:
    """`a{b,c}` as [`ab`, `ac`], from the inside out."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [whole for choice in match[1].split(",") for whole in _braces(before + choice + after)][:1000]


def _roots(pattern: str) -> Iterator[str]:
    for plain in _braces(pattern):
        parts = normal(plain).split("/")
        fixed = 0
        while fixed < len(parts) and not _META.search(parts[fixed]):
            fixed += 1
        yield "/".join(parts[:fixed])


def _compiled(pattern: str) -> re.Pattern[str]:
    """Matches what the pattern matches, and all below it."""
    return re.compile(f"(?:{globs.compile(normal(pattern) or '**').pattern})(?:/.*)?\\Z", re.DOTALL)


def _depth_patterns(pattern: str) -> list[list[re.Pattern[str] | None]]:
    """Per brace choice, each level of the pattern; None for `**`."""
    return [
        [None if part in ("**", "") else globs.compile(part) for part in normal(plain).split("/")]
        for plain in _braces(pattern)
    ]


def _reaches(levels: list[re.Pattern[str] | None], parts: list[str]) -> bool:
    for level, part in zip(levels, parts, strict=False):
        if level is None:
            return True
        if not level.fullmatch(part):
            return False
    return True


# The views


def _go_on() -> None:
    """The check of who can't be interrupted."""


class WorkspaceView(Protocol):
    @property
    def check(self) -> Check: ...

    def read(self, selection: Selection, on_skipped: OnSkipped) -> Iterator[Item]:
        """What is meant by `selection`, directories before what they hold. OSError when the place can't be read."""
        ...

    def write(self, open_archive: Callable[[], AbstractContextManager[IO[bytes]]]) -> Written:
        """Unpack an uncompressed tar archive over what is there, by the rules of `storage.tar`; a file replaces a file.

        UnsafeArchive, before or while unpacking, for what is never unpacked; OSError when the place can't be written;
        DamagedArchive for what is no whole archive.
        """
        ...


class DirectoryView:
    """A directory of this machine."""

    def __init__(self, root: Path, check: Check = _go_on) -> None:
        self.root = root
        self.check = check

    def read(self, selection: Chosen, on_skipped: OnSkipped) -> Iterator[Item]:
        for item in _Walk(selection, on_skipped, contents=True).from_root(self.root):
            self.check()
            yield item

    def entries(self, selection: Selection, on_skipped: OnSkipped) -> Iterator[Entry]:
        """What `read` would give, without opening any file."""
        for entry, _ in _Walk(selection, on_skipped, contents=False).from_root(self.root):
            yield entry

    def write(self, open_archive: Callable[[], AbstractContextManager[IO[bytes]]]) -> Written:
        with open_archive() as opened:
            return unpack(opened, self.root, check=self.check, reserved=_OWN)


class Chosen(Protocol):
    """What a walk needs to know of which paths are meant; `Selection` is one."""

    @property
    def roots(self) -> tuple[str, ...]: ...
    def never(self, path: str) -> bool: ...
    def takes(self, path: str) -> bool: ...
    def may_hold(self, directory: str) -> bool: ...


class _Walk:
    """One walk below a directory, by directory descriptors: a directory that becomes a link meanwhile is not entered."""

    def __init__(self, selection: Chosen, on_skipped: OnSkipped, *, contents: bool) -> None:
        self._selection = selection
        self._on_skipped = on_skipped
        self._contents = contents
        self._seen: dict[tuple[int, int], str] = {}

    def from_root(self, path: Path) -> Iterator[Item]:
        root = os.open(path, _DIRECTORY)
        try:
            for start in self._selection.roots:
                yield from self._start(root, start)
        finally:
            os.close(root)

    def _start(self, root: int, start: str) -> Iterator[Item]:
        """From one of the selection's roots on; nothing when it is not there or lies behind a link."""
        if not start:
            yield from self._below(root, "", inside=False)
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

    def _below(self, directory: int, prefix: str, *, inside: bool) -> Iterator[Item]:
        with os.scandir(directory) as listing:
            names = sorted(entry.name for entry in listing)
        for name in names:
            yield from self._one(directory, name, f"{prefix}/{name}" if prefix else name, inside=inside)

    def _one(self, directory: int, name: str, path: str, *, inside: bool) -> Iterator[Item]:
        """`inside`: a directory above is meant, so this is too unless it is excluded."""
        selection = self._selection
        if selection.never(path):
            return
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return  # a root that is not there, or gone since its directory was listed
        except PermissionError as error:
            self._on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        taken = inside or selection.takes(path)
        if stat.S_ISDIR(status.st_mode):
            if taken or selection.may_hold(path):
                yield from self._directory(directory, name, path, status, taken=taken)
        elif not taken:
            return
        elif stat.S_ISLNK(status.st_mode):
            yield _entry(path, "link", status, os.readlink(name, dir_fd=directory)), None
        elif kind := special_kind(status.st_mode):
            self._on_skipped(Skipped.special(path, kind))
        else:
            yield from self._file(directory, name, path, status)

    def _directory(self, above: int, name: str, path: str, status: os.stat_result, *, taken: bool) -> Iterator[Item]:
        try:
            opened = os.open(name, _DIRECTORY, dir_fd=above)
        except OSError as error:
            self._on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        try:
            if taken:
                yield _entry(path, "directory", status), None
            yield from self._below(opened, path, inside=taken)
        finally:
            os.close(opened)

    def _file(self, directory: int, name: str, path: str, status: os.stat_result) -> Iterator[Item]:
        if status.st_nlink > 1:
            same = (status.st_dev, status.st_ino)
            if same in self._seen:
                yield _entry(path, "hardlink", status, self._seen[same]), None
                return
            self._seen[same] = path
        if not self._contents:
            yield _entry(path, "file", status), None
            return
        try:
            # Not blocking: a FIFO that took the file's place meanwhile would wait for a writer for ever.
            opened = _opened(name, directory)
        except OSError as error:
            self._on_skipped(Skipped(path=path, reason=error.strerror or str(error)))
            return
        with os.fdopen(opened, "rb", buffering=0) as file:
            status = os.fstat(opened)
            if kind := special_kind(status.st_mode):  # it took the file's place meanwhile
                self._on_skipped(Skipped.special(path, kind))
            elif stat.S_ISREG(status.st_mode):
                yield _entry(path, "file", status), file


def _opened(name: str, directory: int) -> int:
    """Open a file, also one whose mode keeps out its owner, if that is us: the engine, as root, would give it too."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except PermissionError:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            status, place = (
                os.fstat(held),
                Path(f"/proc/self/fd/{held}"),
            )  # the entry itself, whatever has its name meanwhile
            if status.st_uid != os.geteuid() or stat.S_ISLNK(status.st_mode):
                raise
            place.chmod(stat.S_IMODE(status.st_mode) | 0o400)
            try:
                return os.open(place, flags)
            finally:
                place.chmod(stat.S_IMODE(status.st_mode))
        finally:
            os.close(held)


def _entry(path: str, kind: Kind, status: os.stat_result, target: str = "") -> Entry:
    size = status.st_size if kind == "file" else 0
    mode = 0o777 if kind == "link" else status.st_mode & 0o777
    return Entry(path, kind, mode, status.st_mtime_ns, size, target)


class Archiver(Protocol):
    """What a session offers of its workspace as tar streams (`providers.base.Session`)."""

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = ...) -> Iterator[bytes]: ...

    def put_archive(self, archive: Iterable[bytes]) -> None: ...


class TarView:
    """A place that gives and takes tar streams."""

    def __init__(self, archiver: Archiver, check: Check = _go_on) -> None:
        self._archiver = archiver
        self.check = check

    def read(self, selection: Selection, on_skipped: OnSkipped) -> Iterator[Item]:
        roots = [root or "." for root in selection.roots]

        def skipped(item: Skipped) -> None:
            if selection.takes(item.path):
                on_skipped(item)

        taken: set[str] = set()
        # By a file that is not taken: the paths that share it. The stream has its content under that name only.
        sharing: dict[str, list[str]] = {}
        for entry, content in self._members(roots, skipped):
            path = normal(entry.path)
            if not path or ".." in path.split("/") or entry.kind == "special" or not selection.takes(path):
                continue
            target = normal(entry.target) if entry.kind == "hardlink" else entry.target
            if entry.kind == "hardlink" and target not in taken:
                sharing.setdefault(target, []).append(path)
            else:
                taken.add(path)
                yield _renamed(entry, path, target), content
        # Asked for alone, each of them is a file.
        others = {first: more for first, *more in sharing.values()}
        for entry, content in self._members(sorted(others), skipped) if others else ():
            path = normal(entry.path)
            if path in others and entry.kind == "file":
                yield _renamed(entry, path, ""), content
                for other in others.pop(path):
                    yield Entry(other, "hardlink", entry.mode & 0o777, entry.mtime_ns, 0, path), None
        for path, more in others.items():
            for gone in (path, *more):
                on_skipped(Skipped(path=gone, reason="a hard link whose content could not be had"))

    def _members(self, paths: Iterable[str], on_skipped: OnSkipped) -> Iterator[Item]:
        with reader(self._archiver.get_archive(paths, on_skipped)) as stream:
            if stream.peek(1):
                yield from cast("Iterator[Item]", read(Checked(stream, self.check)))

    def write(self, open_archive: Callable[[], AbstractContextManager[IO[bytes]]]) -> Written:
        written = Written()
        # What unpacks it is not ours: the whole is looked at before anything is handed over.
        with open_archive() as opened:
            for entry, _ in checked(read(Checked(opened, self.check)), _OWN):
                written.files += entry.kind != "directory"
                written.bytes += entry.size
        with open_archive() as opened:
            self._archiver.put_archive(packed(checked(read(Checked(opened, self.check)), _OWN)))
        return written


def _renamed(entry: Entry, path: str, target: str) -> Entry:
    return Entry(path, entry.kind, entry.mode & 0o777, entry.mtime_ns, entry.size, target)


# Archives


def without_secret_names(
    items: Iterable[Item], masker: Masker | None, on_skipped: Callable[[Skipped], None]
) -> Iterator[Item]:
    """Leave out what has a secret in its name or in the target of its link, and name it masked; contents are not looked at."""
    if masker is None or not masker.active:
        yield from items
        return
    left_out = ""
    for entry, content in items:
        if left_out and below(entry.path, left_out):
            continue  # in a directory that is left out: to say it once is enough
        path, target = os.fsencode(entry.path), os.fsencode(entry.target)
        shown = masker.mask_bytes(path)
        if shown != path:
            left_out = entry.path
            on_skipped(Skipped(path=os.fsdecode(shown), reason="a secret is in its name"))
        elif masker.mask_bytes(target) != target:
            on_skipped(Skipped(path=entry.path, reason="a secret is in the target of its link"))
        else:
            yield entry, content


class Hashed:
    """A file that knows the size and the checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def packing(
    archive: Writer, view: WorkspaceView, selection: Selection, skipped: list[Skipped], masker: Masker | None
) -> Iterator[Entry]:
    """Put what is meant by `selection` into an archive, each entry given when it is in; what is left out goes to `skipped`.

    Left out is what can't be read, and what holds a secret of `masker`'s in its name, its link or its content.
    """
    masker = masker if masker is not None and masker.active else None
    held, left_out = Held(), set[str]()
    for entry, content in without_secret_names(view.read(selection, skipped.append), masker, skipped.append):
        held.add(entry)
        if entry.kind == "hardlink" and entry.target in left_out:
            skipped.append(Skipped(path=entry.path, reason=f"the same file as {entry.target}, which was left out"))
            continue
        secret = _add(archive, entry, content, masker, view.check)
        if secret is not None:
            left_out.add(entry.path)
            skipped.append(Skipped(path=entry.path, reason=f"it holds the secret {secret}"))
            continue
        yield entry


def _add(archive: Writer, entry: Entry, content: IO[bytes] | None, masker: Masker | None, check: Check) -> str | None:
    """Add an entry, or else the name of the secret that its content holds."""
    if masker is None or content is None:
        archive.add(entry, None if content is None else Checked(content, check))
        return None
    with _rereadable(content, check) as twice:
        secret = masker.found_in(twice)
        if secret is None:
            twice.seek(0)
            archive.add(entry, Checked(twice, check))
    return secret


@contextmanager
def _rereadable(content: IO[bytes], check: Check) -> Iterator[IO[bytes]]:
    """The same content to be read twice: what comes out of a tar stream can be read once."""
    if isinstance(content, io.FileIO):
        yield content
        return
    with tempfile.SpooledTemporaryFile(max_size=8 << 20) as copy:
        shutil.copyfileobj(Checked(content, check), copy, 1 << 20)
        copy.seek(0)
        yield cast("IO[bytes]", copy)


def leads_out(entry: Entry) -> bool:
    """Whether a link points outside of the workspace, as text; what it may lead over on the way is not looked at."""
    if entry.kind != "link":
        return False
    return entry.target.startswith("/") or climbs_out(entry.path, entry.target)


def view_of(session: Session, check: Check = _go_on) -> WorkspaceView:
    """How to reach a session's view of the workspace."""
    directory = session.workspace_view()
    return TarView(session, check) if directory is None else DirectoryView(directory, check)


class Session(Archiver, Protocol):
    def workspace_view(self) -> Path | None: ...
