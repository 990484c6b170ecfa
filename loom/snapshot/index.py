"""Interpret a git index: the files to copy, their kinds, and entries that need further checks."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import Struct, field

from loom.snapshot import copy_files, git
from loom.snapshot.model import Source
from loom.snapshot.source import truth
from loom.util.paths import RUNTIME, ancestors

LIST = ("ls-files", "-z", "--stage", "-v")
_ENTRY = re.compile(rb"([^\t]*)\t([^\0]*)\0")


class Index(Struct):
    """The listing by `git` with `LIST`, and the findings of the walk over it."""

    listing: bytes
    paths: list[str]
    """Those of all entries, in their order."""
    unmerged: dict[str, str] = {}
    """Conflicts, with the mode that git uses."""
    gitlinks: list[str] = []
    pinned_gitlinks: dict[str, tuple[str, str]] = {}
    """path -> (tag, commit) of hidden submodules."""
    replaced: set[str] = field(default_factory=set)
    """Files and links where a submodule was."""
    pinned: list[tuple[str, str]] = []
    """(path, tag): skip-worktree and assume-unchanged entries, which git ignores on disk."""
    runtime: list[str] = []
    """Tracked paths at the record's location, which are never part of a snapshot."""
    pinned_empty: bool = False
    """Whether one of them is empty or intent-to-add."""

    def tracked(self, source: Source, *, outermost: bool) -> Iterator[tuple[str, int]]:
        """Yield (path, what it is to become) of every tracked file, in the index's order; the fields get all else."""
        # The mode of a file without one in the index, and of a file that replaced a link.
        modes = modes_count(source)
        other = copy_files.ANY if modes else copy_files.REGULAR
        if modes:
            become = {b"100644": copy_files.ANY, b"100755": copy_files.ANY, b"120000": copy_files.LINK}
        else:
            become = {b"100644": copy_files.REGULAR, b"100755": copy_files.EXECUTABLE, b"120000": copy_files.REGULAR}
        if not truth(source.config.get("core.symlinks", ()), True):
            become[b"120000"] = copy_files.LINK_FROM_FILE
        for entry, path in zip(_ENTRY.finditer(self.listing), self.paths, strict=True):
            about = entry[1]
            tag, mode, stage = about[:1], about[2:8], about[-1:]
            if tag == b"H" and stage == b"0" and (kind := become.get(mode)) is not None:
                if outermost and path.startswith(RUNTIME) and is_runtime(path):
                    self.runtime.append(path)
                    continue
                yield path, kind
            elif stage != b"0":
                if path not in self.unmerged:
                    mode = _mode_in_conflict(entry)
                    self.unmerged[path] = mode.decode()
                    if mode == b"160000" and is_directory(source.root, path):
                        self.gitlinks.append(path)
                    else:
                        yield path, become.get(mode, other)
            elif mode == b"160000" and tag != b"H":
                self.gitlinks.append(path)
                self.pinned_gitlinks[path] = tag.decode(), about[9:-2].decode()
            elif mode == b"160000":
                if is_directory(source.root, path) or not os.path.lexists(source.root / path):
                    self.gitlinks.append(path)
                else:
                    self.replaced.add(path)
                    yield path, other
            else:
                self.pinned.append((path, tag.decode()))
                self.pinned_empty = self.pinned_empty or about[9:-2].decode() in git.EMPTY_BLOBS

    def entries(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path, mode, id) of each entry."""
        for entry, path in zip(_ENTRY.finditer(self.listing), self.paths, strict=True):
            _, mode, sha, _ = entry[1].decode().split(" ")
            yield path, mode, sha


def modes_count(source: Source) -> bool:
    """Return whether git goes by executable bits on disk."""
    return truth(source.config.get("core.filemode", ()), True)


def pin_name(tag: str) -> str:
    """Return the flag that hides an entry from git, from its tag in the listing."""
    return "skip-worktree" if tag.upper() == "S" else "assume-unchanged"


def _mode_in_conflict(first: re.Match[bytes]) -> bytes:
    """Select one of a path's conflict entries by their first: ours, else the base, else theirs."""
    following = _ENTRY.match(first.string, first.end())
    ours = following is not None and following[2] == first[2] and first[1][-1:] + following[1][-1:] == b"12"
    return (following if ours and following else first)[1][2:8]


def is_runtime(path: str) -> bool:
    return path == RUNTIME or path.startswith(RUNTIME + "/")


def directories(paths: Iterable[str]) -> set[str]:
    """Return all directories above these paths."""
    result: set[str] = set()
    for path in paths:
        directory = path.rpartition("/")[0]
        while directory and directory not in result:
            result.add(directory)
            directory = directory.rpartition("/")[0]
    return result


def is_directory(root: Path, path: str) -> bool:
    """Return whether it is a real directory below `root`: neither it nor one above it is a link."""
    found = (lstat(root / one) for one in (*ancestors(path), path))
    return all(status is not None and stat.S_ISDIR(status.st_mode) for status in found)


def lstat(path: Path) -> os.stat_result | None:
    """Return its status; None if missing or inaccessible."""
    try:
        return path.lstat()
    except OSError:
        return None


def same_content(source: Path, target: Path) -> bool:
    """Return whether the source has the same bytes at this path, or nothing there."""
    ours, theirs = lstat(source), lstat(target)
    if ours is None or theirs is None:
        return True
    if stat.S_ISLNK(ours.st_mode) or stat.S_ISLNK(theirs.st_mode):
        both = stat.S_ISLNK(ours.st_mode) and stat.S_ISLNK(theirs.st_mode)
        return both and source.readlink() == target.readlink()
    if not stat.S_ISREG(ours.st_mode):
        return False
    try:
        return ours.st_size == theirs.st_size and source.read_bytes() == target.read_bytes()
    except OSError:
        return False


def walk(root: Path) -> Iterator[tuple[str, list[str], list[os.DirEntry[str]]]]:
    """Walk as `os.walk`, which fails at a thousand nested directories; jobs may create more."""
    waiting = [str(root)]
    while waiting:
        here = waiting.pop()
        folders: list[str] = []
        files: list[os.DirEntry[str]] = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
                    else:
                        files.append(entry)
        except OSError:
            continue
        yield here, folders, files
        waiting += [os.path.join(here, name) for name in folders]  # noqa: PTH118
