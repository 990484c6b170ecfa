"""The two kinds of globs: for paths (`matches`, `compile`) and for names (`match_name`).

Paths (rules, artifacts, caches, includes, branches): `*` stays in a folder, `**` crosses folders, `?`, `[a-z]`,
`{a,b}`; `docs/` matches everything below. Names (jobs, images, cache keys) have no folders: `*` matches any text, `?`,
`[a-z]`. Only `.dockerignore` follows other rules, the engine's. What a glob costs is bounded, whoever wrote it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from functools import lru_cache

from loom.errors import RequestError

MOST_ALTERNATIVES = 200
"""The limit for the alternatives in a glob's braces together."""
MOST_STARS = 200
"""The limit for the stars of all alternatives together."""
LONGEST = 2000
_STARS = {"*": "[^/]", "**": ".", "**/": "[^/]++/"}
"""What each star repeats."""
_TOKEN = re.compile(r"(?P<star>(?:\*\*/)+|\*\*|\*)|\\(?P<escaped>.)|(?P<set>\[.[^]]*\])|(?P<other>.)", re.DOTALL)
_CHEAP = 250_000
"""Steps that a search which goes back may take for one path."""
_BELOW = "(?:/.*)?"


class GlobError(RequestError, ValueError):
    """A glob that stands for too much; the message has the glob, the reason and the next move."""

    default_code = "GLOB_TOO_LARGE"


class Glob:
    """A glob that is ready to match whole relative paths; `below`: also everything below such a path."""

    def __init__(self, glob: str, *, below: bool) -> None:
        text = glob.removeprefix("./")
        alternatives = [_parts(each) for each in expanded(f"{text}**" if text.endswith("/") else text)]
        end = _BELOW if below else ""
        written = "|".join("".join(map(_expression, parts)) for parts in alternatives)
        try:
            self._pattern = re.compile(f"(?:{written}){end}", re.DOTALL)
        except re.error:
            alternatives = [[re.escape(char) for char in glob]]
            self._pattern = re.compile(re.escape(glob) + end, re.DOTALL)
        self._alternatives, self._below = alternatives, below
        self._stars = {(parts.count("**/"), sum(part in _STARS for part in parts)) for parts in alternatives}

    def fullmatch(self, path: str) -> bool:
        folders, length = path.count("/") + 1, len(path)
        if all(folders**deep * length ** (stars - deep) <= _CHEAP for deep, stars in self._stars):
            return self._pattern.fullmatch(path) is not None
        return any(_fits(parts, path, below=self._below) for parts in self._alternatives)


@lru_cache(maxsize=4096)
def compile(glob: str, *, below: bool = False) -> Glob:
    """Prepare a glob for matching. Raises GlobError."""
    return Glob(glob, below=below)


def any_of(wanted: Iterable[str], paths: Iterable[str]) -> bool:
    """Return whether one of the paths matches one of the globs. Raises GlobError."""
    compiled = [compile(glob) for glob in wanted]
    return any(glob.fullmatch(path) for path in paths for glob in compiled)


def problem(glob: str) -> str | None:
    """Return the problem of an invalid glob, or None."""
    try:
        compile(glob)
    except GlobError as error:
        return str(error)
    return None


def expanded(glob: str) -> list[str]:
    """Return the globs without braces that a glob stands for, in order. Raises GlobError."""
    if len(glob) > LONGEST:
        raise GlobError(f"the glob {glob[:40]}... is longer than {LONGEST} characters; write several shorter ones")
    outer: list[tuple[list[str], list[str]]] = []
    done: list[str] = []
    found = [""]
    for match in _TOKEN.finditer(glob):
        char = match["other"]
        if char == "{" and "}" in glob[match.start() :]:
            outer.append((done, found))
            done, found = [], [""]
        elif char == "," and outer:
            done, found = done + found, [""]
        elif char == "}" and outer:
            choices = done + found
            done, found = outer.pop()
            found = _joined(glob, found, choices)
        else:
            found = [before + match[0] for before in found]
    while outer:
        choices = done + found
        done, found = outer.pop()
        found = _joined(glob, found, choices)
    if sum(each.count("*") for each in found) > MOST_STARS:
        raise GlobError(
            f"the glob {glob} has more than {MOST_STARS} stars, those of each alternative counted; write fewer"
        )
    return found


def _joined(glob: str, before: list[str], choices: list[str]) -> list[str]:
    choices = list(dict.fromkeys(choices))
    if len(before) * len(choices) > MOST_ALTERNATIVES:
        raise GlobError(
            f"the braces of the glob {glob} stand for more than {MOST_ALTERNATIVES} paths; write several globs, or a star"
        )
    return [start + choice for start in before for choice in choices]


def _parts(text: str) -> list[str]:
    """Split a glob without braces: stars as names in `_STARS`, the rest as expressions of one character."""
    parts: list[str] = []
    for match in _TOKEN.finditer(text):
        if match["star"]:
            star = "**/" if match["star"].endswith("/") else match["star"]
            if parts[-1:] != ["**"] or star == "**/":  # `****` is `**`
                parts.append(star)
        elif match["escaped"]:
            parts.append(re.escape(match["escaped"]))
        elif match["set"]:
            parts.append(_set(match["set"][1:-1]))
        else:
            parts.append("[^/]" if match["other"] == "?" else re.escape(match["other"]))
    return parts


def _set(inside: str) -> str:
    negated = inside[0] in "!^"
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
    return f"[{'^/' if negated else ''}{members}]"


def _expression(part: str) -> str:
    return f"(?:{_STARS[part]})*" if part in _STARS else part


def _fits(parts: list[str], path: str, *, below: bool) -> bool:
    """Match a glob without braces by all the places where each part may end: no part is tried twice from one place."""
    ends = {0}
    for part in parts:
        match = re.compile(_STARS.get(part, part), re.DOTALL).match
        starts, ends = [*ends], ends if part in _STARS else set()
        while starts:
            if (found := match(path, starts.pop())) and found.end() not in ends:
                ends.add(found.end())
                if part in _STARS:
                    starts.append(found.end())
    return len(path) in ends or (below and any(path[end] == "/" for end in ends))


def match_name(glob: str, *names: str) -> bool:
    """Return whether the glob matches one of the names as a whole."""
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def matches(glob: str, path: str) -> bool:
    return compile(glob).fullmatch(path)
