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
MOST_STARS = 50
LONGEST = 2000
_STARS = {"*": "[^/]*", "**": ".*", "**/": "(?:[^/]+/)*"}
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
        written = "|".join("".join(_STARS.get(part, part) for part in parts) for parts in alternatives)
        try:
            self._pattern = re.compile(f"(?:{written}){end}", re.DOTALL)
        except re.error:
            alternatives = [[re.escape(char) for char in glob]]
            self._pattern = re.compile(re.escape(glob) + end, re.DOTALL)
        self._stars = max(sum(part in _STARS for part in parts) for parts in alternatives)
        self._automata = [_Automaton(parts, below=below) for parts in alternatives] if self._stars > 1 else []

    def fullmatch(self, path: str) -> bool:
        if self._stars <= 1 or len(path) ** self._stars <= _CHEAP:
            return self._pattern.fullmatch(path) is not None
        return any(automaton.fullmatch(path) for automaton in self._automata)


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
    for each in found:
        if each.count("*") > MOST_STARS:
            raise GlobError(f"the glob {glob} has more than {MOST_STARS} stars; write fewer")
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


class _Automaton:
    """Matches a glob without braces in one pass over a path, in which it never goes back."""

    _MOST = 4096

    def __init__(self, parts: list[str], *, below: bool) -> None:
        self._moves: list[list[tuple[re.Pattern[str], int]]] = []
        self._skips: dict[int, int] = {}
        for part in [*parts, *(["end", "**"] if below else ())]:
            here = len(self._moves)
            if part == "**/":
                self._moves += [[(_NAME, here + 1)], [(_NAME, here + 1), (_SLASH, here)]]
                self._skips[here] = here + 2
            elif part in _STARS:
                self._moves.append([(_NAME if part == "*" else _ANY, here)])
                self._skips[here] = here + 1
            else:
                self._moves.append([(_SLASH if part == "end" else re.compile(part, re.DOTALL), here + 1)])
        last = len(self._moves)
        self._ends = frozenset({last, last - 2} if below else {last})
        self._start = self._reached({0})
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def fullmatch(self, path: str) -> bool:
        at = self._start
        for char in path:
            after = self._steps.get((at, char))
            if after is None:
                if len(self._steps) >= self._MOST:
                    self._steps.clear()
                moves = (move for node in at if node < len(self._moves) for move in self._moves[node])
                after = self._steps[at, char] = self._reached({to for test, to in moves if test.match(char)})
            if not after:
                return False
            at = after
        return not self._ends.isdisjoint(at)

    def _reached(self, nodes: set[int]) -> frozenset[int]:
        """Add the nodes that follow without a character."""
        for node in list(nodes):
            while (node := self._skips.get(node, -1)) >= 0 and node not in nodes:
                nodes.add(node)
        return frozenset(nodes)


_NAME, _SLASH, _ANY = (re.compile(text, re.DOTALL) for text in ("[^/]", "/", "."))


def match_name(glob: str, *names: str) -> bool:
    """Return whether the glob matches one of the names as a whole."""
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def matches(glob: str, path: str) -> bool:
    return compile(glob).fullmatch(path)
