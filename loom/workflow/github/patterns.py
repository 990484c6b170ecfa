"""Filter patterns of GitHub's for branches, tags and paths: `*`, `**`, `?`, `+`, `[]`, `!`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

MAX_STARS = 12
"""Of one pattern: more would take too long."""
_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<deep>\*\*/)|(?P<all>\*\*)|(?P<star>\*)|(?P<set>\[[^]]+\])|(?P<other>.)", re.DOTALL
)


class BadPattern(ValueError):
    """A pattern that GitHub refuses too, or that would take too long to match."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the expression for a pattern without its `!`. Raises BadPattern."""
    parts: list[str] = []
    stars = 0
    for found in _TOKEN.finditer(pattern):
        stars += bool(found["deep"] or found["all"] or found["star"])
        if found["escaped"]:
            parts.append(re.escape(found["escaped"]))
        elif found["deep"]:
            parts.append("(?:.*/)?")
        elif found["all"] or found["star"]:
            parts.append(".*" if found["all"] else "[^/]*")
        elif found["set"]:
            parts.append("[" + re.sub(r"([\\\[^&~|])", r"\\\1", found["set"][1:-1]) + "]")
        elif found["other"] in "?+":
            if not parts or parts[-1][-1:] in "?+*":
                raise BadPattern(f"{found['other']} in {pattern} stands after nothing that it could repeat")
            parts[-1] += found["other"]
        else:
            parts.append(re.escape(found["other"]))
    if stars > MAX_STARS:
        raise BadPattern(f"{pattern} has more than {MAX_STARS} stars; write fewer")
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise BadPattern(f"{pattern} is no pattern: {error}") from error


def included(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the last pattern that matches is one without `!`. Raises BadPattern."""
    result = False
    for pattern in patterns:
        excludes = pattern.startswith("!")
        if result == excludes and compiled(pattern[1:] if excludes else pattern).fullmatch(name):
            result = not excludes
    return result


def any_included(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(included(name, patterns) for name in names)
