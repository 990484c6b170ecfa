"""Filter patterns of GitHub's for branches, tags and paths: `*`, `**`, `?`, `+`, `[]`, `!`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from loom.errors import RequestError
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<deep>\*\*/)|(?P<all>\*\*)|(?P<star>\*)|(?P<set>\[[^]]+\])|(?P<other>.)", re.DOTALL
)


class BadPattern(ValueError):
    """A pattern that GitHub refuses too."""


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Search:
    """Return the search for a pattern without its `!`. Raises BadPattern."""
    parts: list[str] = []
    for found in _TOKEN.finditer(pattern):
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
    try:
        return Search(pattern_of(rf"\A{''.join(parts)}\Z", re.DOTALL, pattern))
    except (PatternError, SearchError) as error:
        raise BadPattern(f"{pattern} is no pattern: {error}") from error


def included(name: str, patterns: Sequence[str]) -> bool:
    """Return whether the last pattern that matches is one without `!`. RequestError for one that takes too long."""
    result = False
    for pattern in patterns:
        excludes = pattern.startswith("!")
        try:
            if result == excludes and compiled(pattern[1:] if excludes else pattern).first_in(name) is not None:
                result = not excludes
        except SearchError as error:
            raise RequestError(str(error)) from error
    return result


def any_included(names: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(included(name, patterns) for name in names)
