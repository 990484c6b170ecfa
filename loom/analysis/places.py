"""The places in a project's files that output names, below the project's root; and files that it names as missing or unusable,
with what the checkout shows of them: ignored, CRLF.

A tool names a file relative to its own directory: that of the step when it ended, one that make or ninja entered, or one that
its command line names. The job's files tell which.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice, product
from pathlib import Path

from msgspec.structs import replace

from loom import snapshot
from loom.analysis.known_failures import InSource
from loom.errors import LoomError
from loom.record.documents import Document
from loom.status import Code
from loom.util.paths import JOB_PLACE
from loom.util.untrusted_files import open_regular

MOST_PLACES = 5
_MOST_WALKED = 20_000
"""Entries of the project that are looked at for a file that no known directory has."""
_ROOTS = re.compile(rf"^(?:/workspace|\S*/{JOB_PLACE})(?:/|$)|^\./")


class Location(Document, frozen=True, kw_only=True):
    """A source location in the output."""

    file: str
    line: Code
    column: Code | None = None


def from_root(path: str) -> str:
    """Return the path as it is in the project."""
    return _ROOTS.sub("", path)


_PLACES = (
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


def places_in(lines: Sequence[str], most: int = MOST_PLACES) -> list[Location]:
    """Return `file:line` mentions of the project's own files, last one first; skip library files."""
    found: dict[tuple[str, int], Location] = {}
    for line in reversed(lines):
        for pattern in _PLACES:
            for match in pattern.finditer(line):
                file = from_root(match["file"])
                if is_foreign(file):
                    continue
                column = match.groupdict().get("column")
                if int(match["line"]) == 0:
                    continue
                place = Location(file=file, line=int(match["line"]), column=int(column) if column else None)
                found.setdefault((place.file, place.line), place)
                if len(found) >= most:
                    return list(found.values())
    return list(found.values())


def is_foreign(path: str) -> bool:
    """Return whether the file is a library's, or lies outside the project."""
    return path.startswith("/") or _FOREIGN.search(path) is not None


_ENTERS = re.compile(r"(?P<way>Entering|Leaving) directory [`'‘](?P<path>[^`'’]+)['’]")
_WORD = re.compile(r"[\w.@+/-]+")


class WorkingDirectories:
    """The directories below `root` that paths in `lines` may be relative to; `directory`: the shell's; `command` names others."""

    def __init__(
        self, root: Path | None, lines: Sequence[str], *, directory: str | None = None, command: str | None = None
    ) -> None:
        self._root = root
        self._lines = lines
        self._directory = from_root(directory or "")
        self._command = command or ""

    def file(self, path: str) -> str:
        """Return `path` below the root; as it is where no known directory has it, and no other one or several."""
        if self._root is None or path.startswith("/"):
            return path
        for base in (*self._entered_before(path), self._directory, "", *self._named, *self._entered):
            found = posixpath.normpath(posixpath.join(base, path))
            if not found.startswith(("..", "/")) and self._is_there(found):
                return found
        below = posixpath.normpath(path).lstrip("./")
        ending = [found for found in self._all if found == below or found.endswith(f"/{below}")]
        return ending[0] if len(ending) == 1 else path

    def are_there(self, places: Sequence[Location]) -> bool:
        """Return whether one of the places is in a file that is there; any if nothing is known of the files."""
        return any(self._root is None or self._is_there(self.file(place.file)) for place in places)

    def _is_there(self, path: str) -> bool:
        return self._root is not None and os.path.lexists(self._root / path)

    def placed(self, places: Iterable[Location]) -> list[Location]:
        """Return the first places, below the root; those in files that are there, if any."""
        found = [replace(place, file=self.file(place.file)) for place in islice(dict.fromkeys(places), 2 * MOST_PLACES)]
        return [place for place in found if self._is_there(place.file)] or found

    def _entered_before(self, path: str) -> Sequence[str]:
        """Return the directories that were entered, and not left, where the path is named first; the innermost first."""
        inside: list[str] = []
        for line in self._lines if self._entered else ():
            if path in line:
                break
            if (match := _ENTERS.search(line)) is None:
                continue
            if match["way"] == "Entering":
                inside.insert(0, from_root(match["path"]))
            elif (left := from_root(match["path"])) in inside:
                inside.remove(left)
        return inside

    @cached_property
    def _entered(self) -> Sequence[str]:
        found = (_ENTERS.search(line) for line in reversed(self._lines))
        return list(dict.fromkeys(from_root(match["path"]) for match in found if match is not None))

    @cached_property
    def _named(self) -> Sequence[str]:
        """Return the directories that the command names, also by a file."""
        found: list[str] = []
        for word, base in product(_WORD.findall(self._command), ("", self._directory)):
            path = posixpath.normpath(posixpath.join(base, from_root(word)))
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


# -- files that are missing or unusable ------------------------------------------------------------------------------------

Look = Callable[[Sequence[str]], Mapping[str, InSource]]
"""From paths below the project's root to what is true of those that are there."""
MOST_LOOKED_AT = 10
_BEGINNING = 4096

_MISSING = (
    re.compile(r"[Nn]o such file or directory: ['\"](?P<path>[^'\"]+)['\"]"),
    re.compile(r"open (?P<path>\S+): no such file", re.IGNORECASE),
    re.compile(r"ENOENT[^'\"]*['\"](?P<path>[^'\"]+)['\"]"),
    re.compile(
        r"(?:can't open|cannot open|cannot access|cannot stat|can't cd to) (?:file )?['\"‘]?(?P<path>[^'\"’:]+)"
    ),
    re.compile(r"^(?:[^:]*: )*(?:line )?(?:\d+: )?(?P<path>[^\s:'\"]+): [Nn]o such file or directory"),
    re.compile(r"['\"‘`](?P<path>[^'\"’`]+)['\"’`]:? [Nn]o such file"),
    re.compile(r"(?:FileNotFoundException:|rb_sysopen -|access jarfile|-provided path) (?P<path>[^\s:]+)"),
    re.compile(r"cache key.*\"/(?P<path>[^\"]+)\": not found"),
    re.compile(r"No rule to make target '(?P<path>[^']+)'"),
    re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): (?:not found|cannot execute: required file not found)\s*$"),
    re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): \S+: bad interpreter"),
)
_NOT_RUN = re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): Permission denied\s*$")
_BY_SCRIPT = re.compile(r"^(?P<path>[\w./@+-]+): (?:line )?\d+: ")
_CHANGES_DIRECTORY = re.compile(r"(?:^|[;&|\n]\s*)cd\s+['\"]?(?P<path>[^'\";&|\n]+)", re.MULTILINE)


def look_at(lines: Sequence[str], command: str | None, look: Look, *, exit_code: int | None) -> dict[str, InSource]:
    """Return, for each line that names a file, what is true of that file, where that explains the line."""
    named = {line: found for line in lines if (found := _named_in(line, command))}
    there = look(list(dict.fromkeys(path for line in reversed(named) for path in named[line])))
    explained = {}
    for line, paths in named.items():
        seen = next((there[path] for path in paths if path in there), None)
        if seen is not None and (kept := _explaining(line, seen, exit_code)) is not None:
            explained[line] = kept
    return explained


def _explaining(line: str, seen: InSource, exit_code: int | None) -> InSource | None:
    """Return only what has to do with what the line says."""
    if _NOT_RUN.search(line):
        return InSource(path=seen.path, executable=False) if exit_code == 126 and not seen.executable else None
    if seen.ignored or seen.empty_submodule:
        return seen
    if seen.crlf and (_BY_SCRIPT.search(line) or seen.script):
        return InSource(path=seen.path, crlf=True)
    if (by := _BY_SCRIPT.search(line)) is not None and from_root(by["path"]) == seen.path:
        return None  # it ran
    is_run = re.search(r": (?:not found|cannot execute|No such file)|bad interpreter", line)
    if is_run and seen.script and not seen.crlf and "/" in line:
        return InSource(path=seen.path, interpreter=seen.interpreter)
    return None


def missing_paths(lines: Sequence[str], command: str | None) -> list[str]:
    """Return the paths, relative to the project's root, that the output reports as missing; last one first."""
    return list(dict.fromkeys(path for line in reversed(lines) for path in _named_in(line, command)))


def _named_in(line: str, command: str | None) -> list[str]:
    below = ["", *(f"{match['path'].strip().rstrip('/')}/" for match in _CHANGES_DIRECTORY.finditer(command or ""))]
    known = [from_root(path.strip()) for path in _paths_in(line)]
    return [
        f"{from_root(folder)}{path}"
        for path in known
        if path and not path.startswith(("/", "-", ".."))
        for folder in below
    ]


def _paths_in(line: str) -> list[str]:
    python = re.search(r"No module named '([^']+)'", line)
    if python:
        stem = python[1].replace(".", "/")
        return [f"{base}{stem}{end}" for base in ("", "src/") for end in (".py", "/__init__.py", "")]
    node = re.search(r"Cannot find module '(\.[^']*|/[^']+)'", line)
    if node:
        return [f"{node[1]}{end}" for end in ("", ".js", ".json", ".ts", "/index.js")]
    patterns = (*_MISSING, _NOT_RUN, _BY_SCRIPT)
    return [match["path"] for pattern in patterns for match in [pattern.search(line)] if match]


# -- in the checkout ------------------------------------------------------------------------------------------------------


def look_below(root: Path, paths: Sequence[str]) -> dict[str, InSource]:
    """Look at those of `paths` that are there. Asks git only about them, and only if there are any."""
    listed = _beginning(root / ".gitmodules").decode("utf-8", "replace")
    known = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", listed, re.MULTILINE)
    modules = [module for module in known if not (root / module).is_dir() or not any((root / module).iterdir())]
    found = {
        path: InSource(path=module, empty_submodule=True)
        for path in paths
        for module in modules
        if path == module or path.startswith(f"{module}/")
    }
    there = [path for path in paths if path not in found and os.path.lexists(root / path)][:MOST_LOOKED_AT]
    if not there:
        return found
    rules = _ignored(root, there)
    return found | {path: _seen(root, path, rules) for path in there}


def _seen(root: Path, path: str, rules: Mapping[str, str]) -> InSource:
    ignored = next((rule for name, rule in rules.items() if path == name or path.startswith(f"{name}/")), None)
    beginning = _beginning(root / path)
    first = beginning.partition(b"\n")[0]
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    return InSource(
        path=path,
        ignored=ignored is not None,
        rule=ignored,
        crlf=b"\r\n" in beginning,
        script=bool(words),
        interpreter=words[-1] if words and words[0].endswith("/env") else words[0] if words else None,
        executable=os.access(root / path, os.X_OK) or not beginning,
    )


def _beginning(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_BEGINNING)
    except (OSError, ValueError):
        return b""


def _ignored(root: Path, there: Sequence[str]) -> dict[str, str]:
    """Return the paths that git ignores, and by which rule."""

    try:
        source = snapshot.discover(root, environ=os.environ)
        rules = {path: snapshot.ignore_rule(source, path) for path in there}
        return {path: snapshot.readable(str(rule)) for path, rule in rules.items() if rule is not None and rule.ignores}
    except (LoomError, OSError):
        return {}
