"""Match files for `changes` and `exists`, with globs as in GitLab (Ruby's), and paths of its runner."""

from __future__ import annotations

import re
from collections.abc import Iterable

from loom.util import globs

_LIKE_ONE_STAR = re.compile(r"(?<=[^/*])\*{2,}|\*{2,}(?=[^/*])|\*{3,}")
"""Stars that cross no folders: for GitLab's runner, only a `**` that is a whole part of a path does."""


def glob_of_runner(path: str) -> str:
    """Write a path of `artifacts` or `cache` as loom's."""
    return _LIKE_ONE_STAR.sub("*", path.removeprefix("./")) or "."


def is_outside(path: str) -> bool:
    """Return whether GitLab's runner leaves a path of `artifacts` or `cache` out."""
    return path.startswith(("/", "~")) or ".." in path.split("/")


def any_of(wanted: Iterable[str], files: Iterable[str]) -> bool:
    return globs.any_of(filter(None, map(translated, wanted)), files)


def translated(glob: str) -> str | None:
    """Write a glob of GitLab's as loom's; None for one that no file matches.

    `**` crosses folders only as a whole part of a path that is not the last; else it is `*`. No path begins with `./` or
    ends with `/`.
    """
    if not glob or glob.startswith(("./", "/")) or glob.endswith("/"):
        return None
    *folders, last = glob.split("/")
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in folders]
    return "/".join([*parts, re.sub(r"\*+", "*", last)])


def any_changed(changed: Iterable[str] | None, wanted: Iterable[str]) -> bool:
    """Return whether a changed file matches a glob; true for None, an event that changes no files."""
    return True if changed is None else any_of(wanted, changed)
