"""Find the positions in a project's files that output names, below the project's root.

A tool names a file relative to its own directory: that of a package that it names below, that of the step when it ended, one
that make or ninja entered, or one that its command line names. The job's files tell which; if several may be meant, all are told.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice, product
from pathlib import Path

from msgspec.structs import replace

from loom.record.documents import Document
from loom.status import Code
from loom.util.paths import JOB_DIRECTORY
from loom.util.untrusted_files import read_regular

MOST_LOCATIONS = 5
_MOST_NAMED = 5
_MOST_LOOKED_AT = 40
_LARGEST = 4 << 20
_MOST_WALKED = 20_000
"""Entries of the project that are looked at for a file that no known directory has."""
_ROOTS = re.compile(rf"^(?:/workspace|\S*/{JOB_DIRECTORY})(?:/|$)|^\./")


class Location(Document):
    """A source location in the output."""

    file: str
    line: Code
    column: Code | None = None
    one_of: tuple[str, ...] = ()
    """The files that may be meant, where the output does not tell which; `file` is then as printed."""

    @property
    def text(self) -> str:
        files = [f"{file}:{self.line}" for file in self.one_of or (self.file,)]
        return f"one of {', '.join(files)}" if self.one_of else files[0]


def project_path(path: str) -> str:
    """Return the path as it is in the project."""
    return _ROOTS.sub("", path)


_PATTERNS = (
    re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)'),
    re.compile(r"^(?P<file>[\w@+-][\w.@+-]*(?:[/.][\w@+-][\w.@+-]*)+): (?:line )?(?P<line>\d+)[:,] "),
    re.compile(r"\b(?:at|in) (?P<file>/?(?:[\w.@+-]+/)*[\w@+-]+\.\w{1,4}) (?:on )?line (?P<line>\d+)\b"),
    re.compile(
        r"(?<![\w.@+/-])(?P<file>/?(?:[\w.@+-]+/)*[\w.@+-]*\w\.[A-Za-z]\w{0,9}) \(?(?P<line>\d+):(?P<column>\d+)\b(?!:\d)"
    ),
    re.compile(
        r"(?<![\w.@+/-])(?P<file>/?(?:[\w.@+-]+/)*(?:[\w.@+-]+\.[A-Za-z]\w{0,9}|[A-Z][a-z]+file)):(?P<line>\d+)(?::(?P<column>\d+))?\b"
    ),
    re.compile(
        r"(?<![\w.@+/-])(?P<file>/?(?:[\w.@+-]+/)*[\w.@+-]+\.[A-Za-z]\w{0,9})\((?P<line>\d+)(?:,(?P<column>\d+))?\)"
    ),
)
_FOREIGN = re.compile(r"(?:^|/)(?:site-packages|dist-packages|node_modules|lib/python[\d.]+|\.cargo|go/pkg)/|^<")


def locations_in(lines: Sequence[str]) -> list[Location]:
    """Return `file:line` mentions of the project's own files, last one first; skip library files."""
    found: dict[tuple[str, int], Location] = {}
    for line in reversed(lines):
        for pattern in _PATTERNS:
            for match in pattern.finditer(line):
                file = project_path(match["file"])
                if is_foreign(file):
                    continue
                column = match.groupdict().get("column")
                if int(match["line"]) == 0:
                    continue
                found_at = Location(file=file, line=int(match["line"]), column=int(column) if column else None)
                found.setdefault((found_at.file, found_at.line), found_at)
                if len(found) >= MOST_LOCATIONS:
                    return list(found.values())
    return list(found.values())


def is_foreign(path: str) -> bool:
    """Return whether the file is a library's, or lies outside the project."""
    return path.startswith("/") or _FOREIGN.search(path) is not None


_ENTERS = re.compile(r"(?P<way>Entering|Leaving) directory [`'‘](?P<path>[^`'’]+)['’]")
_WORD = re.compile(r"[\w.@+/-]+")
_PACKAGE = re.compile(
    r"(?:FAIL|ok)\s+(?P<package>[\w.@+/-]+)\s+(?:[\d.]+s\b|\[)"
    r"|npm (?:ERR!|error)\s+(?:at )?(?:location|path):? (?P<directory>\S+)"
)
"""A package of go, with its import path, or of npm, with its directory, below what its tests print."""


class WorkingDirectories:
    """The directories below `root` that paths in `lines` may be relative to; `directory`: the shell's; `command` names others.

    Of files without a `root`, everything is believed."""

    def __init__(
        self, root: Path | None, lines: Sequence[str], *, directory: str | None = None, command: str | None = None
    ) -> None:
        self._root = root
        self._lines = lines
        self._directory = project_path(directory or "")
        self._command = command or ""

    def file(self, path: str) -> str:
        """Return `path` below the root; as it is where no file is known, or several."""
        found = self._candidates(path)
        return found[0] if len(found) == 1 else path

    def are_there(self, locations: Sequence[Location]) -> bool:
        """Return whether one of the locations is in a file that is there."""
        return any(self._candidates(each.file) for each in locations)

    def resolved(self, locations: Iterable[Location]) -> list[Location]:
        """Return the first locations that the files have, below the root, or with the files that may be meant."""
        found: dict[tuple[str, int], Location] = {}
        for each in islice(dict.fromkeys(locations), _MOST_LOOKED_AT):
            files = self._candidates(each.file, each.line)
            several = tuple(files[:_MOST_NAMED]) if len(files) > 1 else ()
            for file in files[:1]:
                placed = replace(each, file=each.file if several else file, one_of=several)
                found.setdefault((placed.file, placed.line), placed)
        return list(found.values())[:MOST_LOCATIONS]

    def _candidates(self, path: str, line: int = 0) -> Sequence[str]:
        """Return the files with such a line that may be meant, by the surest of what is known of directories."""
        if self._root is None:
            return (path,)
        if path.startswith("/"):
            return ()
        sure = (*self._package_below(path), *self._entered_before(path), self._directory, "")
        for bases in (*([base] for base in sure), self._named):
            paths = dict.fromkeys(posixpath.normpath(posixpath.join(base, path)) for base in bases)
            if found := [each for each in paths if not each.startswith(("..", "/")) and self._has(each, line)]:
                return found
        below = posixpath.normpath(path).lstrip("./")
        ending = (found for found in self._all if found == below or found.endswith(f"/{below}"))
        return sorted(each for each in ending if self._has(each, line))

    def _has(self, path: str, line: int) -> bool:
        """Return whether there is such a file, and it has the line, or can't be read."""
        file = (self._root or Path()) / path
        if not line or not os.path.lexists(file):
            return os.path.lexists(file)
        try:  # a file that ends too early has an error behind its last line
            return read_regular(file, at_most=_LARGEST).count(b"\n") + 1 >= line
        except (OSError, ValueError):
            return True

    def _package_below(self, path: str) -> Iterator[str]:
        """Yield the directories that the package may have that is named first below the path."""
        lines = iter(self._lines)
        if not any(path in line for line in lines):
            return
        if (match := next(filter(None, map(_PACKAGE.search, lines)), None)) is None:
            return
        if match["directory"] is not None:
            yield project_path(match["directory"])
            return
        parts = match["package"].split("/")
        for first, base in product(range(len(parts)), dict.fromkeys((self._directory, ""))):
            yield posixpath.join(base, *parts[first:])

    def _entered_before(self, path: str) -> Sequence[str]:
        """Return the directories that were entered, and not left, where the path is named first; the innermost first."""
        inside: list[str] = []
        for line in self._lines:
            if path in line:
                break
            if (match := _ENTERS.search(line)) is None:
                continue
            if match["way"] == "Entering":
                inside.insert(0, project_path(match["path"]))
            elif (left := project_path(match["path"])) in inside:
                inside.remove(left)
        return inside

    @cached_property
    def _named(self) -> Sequence[str]:
        """Return the directories that the command names, also by a file."""
        found: list[str] = []
        for word, base in product(_WORD.findall(self._command), ("", self._directory)):
            path = posixpath.normpath(posixpath.join(base, project_path(word)))
            if self._root is None or path in (".", "/") or path.startswith(("..", "/")):
                continue
            if (self._root / path).is_dir():
                found.append(path)
            elif "/" in path and os.path.lexists(self._root / path):
                found.append(posixpath.dirname(path))
        return list(dict.fromkeys(found))

    @cached_property
    def _all(self) -> Sequence[str]:
        """Return the paths of the project's first files."""
        found: list[str] = []
        for folder, folders, names in os.walk(self._root or ""):
            folders[:] = [name for name in folders if name not in (".git", "node_modules", ".venv", "venv")]
            below = os.path.relpath(folder, self._root)
            found += (name if below == "." else f"{below}/{name}" for name in names)
            if len(found) > _MOST_WALKED:
                return ()
        return found
