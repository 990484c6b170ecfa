"""Select workspace paths by the patterns of artifacts, caches and cache keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from loom.util import globs
from loom.util.paths import Tracked, is_below, normal

LOOM_DIRECTORIES = (".git/loom", ".loom/.runtime")
"""Loom's own files in a workspace: never read, never written."""
_GIT = ".git"
_META = re.compile(r"[*?\[{]")


class UnsafePath(ValueError):
    """A path or pattern that leads, or may lead, out of the workspace."""


def pattern_problem(pattern: str) -> str | None:
    """Return the reason why a path pattern is invalid, or None."""
    if not pattern or not pattern.strip("/") or "\0" in pattern:
        return "the path is empty"
    if pattern.startswith(("/", "~")):
        return "the path must be relative to the workspace"
    if ".." in pattern.split("/"):
        return "the path must not climb out of the workspace with `..`"
    return globs.problem(pattern)


class Everything:
    """Selects these paths with everything below; "." is the whole directory."""

    def __init__(self, *paths: str) -> None:
        self.roots = tuple("" if path == "." else path for path in paths)
        """The beginnings of a walk, "" for the workspace; none contains another."""

    def never(self, path: str) -> bool:
        """Return whether this path and everything below is excluded."""
        return False

    def left_out(self, path: str) -> bool:
        """Return whether this path is excluded, though not what is below."""
        return False

    def takes(self, path: str) -> bool:
        """Return whether this path is selected, by itself or by a directory above."""
        return True

    def may_hold(self, directory: str) -> bool:
        """Return whether paths below this directory may be selected."""
        return True


class PathSelection(Everything):
    """A selection of paths. UnsafePath for a pattern that is absolute or climbs out.

    A pattern that matches a directory selects everything below; `*` and `?` stay within a name, `**` spans directories,
    `[abc]` and `{a,b}` work as in a shell; leading dots are ordinary characters.
    """

    def __init__(
        self,
        paths: Iterable[str],
        exclude: Iterable[str] = (),
        beyond: Tracked | None = None,
        *,
        exclude_alone: bool = False,
    ) -> None:
        """`beyond`: select also everything that is not among these. `exclude_alone`: a pattern of `exclude` that matches a
        directory does not concern what is below.
        """
        self.paths = tuple(paths)
        exclude = tuple(exclude)
        for pattern in (*self.paths, *exclude):
            problem = pattern_problem(pattern)
            if problem:
                raise UnsafePath(f"{pattern!r}: {problem}")
        outermost: list[str] = []
        for root in sorted(
            {""} if beyond is not None else {root for pattern in self.paths for root in _roots(pattern)}
        ):
            if not any(is_below(root, other) for other in outermost):
                outermost.append(root)
        super().__init__(*outermost)
        self._include = [(pattern, _all_of(pattern), _depth_patterns(pattern)) for pattern in self.paths]
        self._exclude = [_all_of(pattern) for pattern in exclude if not exclude_alone]
        self._exclude_alone = [globs.compile(normal(pattern) or "**") for pattern in exclude if exclude_alone]
        self._with_git = any(normal(pattern).split("/")[0] == _GIT for pattern in self.paths)
        self._beyond = beyond
        self.matched: set[str] = set()
        """The patterns that have matched so far."""

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(pattern for pattern in self.paths if pattern not in self.matched)

    def takes(self, path: str) -> bool:
        if self.never(path):
            return False
        taken = self._beyond is not None and path not in self._beyond
        for pattern, compiled, _ in self._include:
            if compiled.fullmatch(path):
                self.matched.add(pattern)
                taken = True
        return taken and not self.left_out(path)

    def left_out(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self._exclude_alone)

    def never(self, path: str) -> bool:
        if path == _GIT or path.startswith(".git/"):
            if not self._with_git:
                return True
            if is_below(path, LOOM_DIRECTORIES[0]):
                return True
        elif path.startswith(".loom/") and is_below(path, LOOM_DIRECTORIES[1]):
            return True
        return any(compiled.fullmatch(path) for compiled in self._exclude)

    def may_hold(self, directory: str) -> bool:
        parts = directory.split("/")
        if self._beyond is not None:
            return True
        return any(_reaches(levels, parts) for _, _, alternatives in self._include for levels in alternatives)


def _roots(pattern: str) -> Iterator[str]:
    for plain in globs.expanded(pattern):
        parts = normal(plain).split("/")
        fixed = 0
        while fixed < len(parts) and not _META.search(parts[fixed]):
            fixed += 1
        yield "/".join(parts[:fixed])


def _all_of(pattern: str) -> globs.Glob:
    """Match the pattern and everything below."""
    return globs.compile(normal(pattern) or "**", below=True)


def _depth_patterns(pattern: str) -> list[list[globs.Glob | None]]:
    """Return, for each brace alternative, the levels of the pattern; None for `**`."""
    return [
        [None if part in ("**", "") else globs.compile(part) for part in normal(plain).split("/")]
        for plain in globs.expanded(pattern)
    ]


def _reaches(levels: list[globs.Glob | None], parts: list[str]) -> bool:
    for level, part in zip(levels, parts, strict=False):
        if level is None:
            return True
        if not level.fullmatch(part):
            return False
    return True
