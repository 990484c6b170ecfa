"""GitHub's problem matchers as formats: https://github.com/actions/toolkit/blob/main/docs/problem-matchers.md"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from loom.analysis.formats import GROUPS, Finder, Format, Reader
from loom.errors import RequestError
from loom.util import typed
from loom.values import Immutable
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of


class _Pattern(Immutable, rename="camel"):
    """`file` and the others are numbers of groups of `regexp`."""

    regexp: str
    file: int | None = None
    line: int | None = None
    column: int | None = None
    severity: int | None = None
    message: int | None = None
    code: int | None = None
    loop: bool = False


class _Matcher(Immutable):
    owner: str
    pattern: list[_Pattern] = []
    severity: str = "error"


class _File(Immutable, rename="camel"):
    problem_matcher: list[_Matcher]


def formats(data: bytes) -> list[Format]:
    """Read a file of matchers; those of warnings and notices alone are left out. ValueError, with the reason."""
    try:
        file = typed.decode(data, _File)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a file of problem matchers: {error}") from error
    return [_format(matcher) for matcher in file.problem_matcher if matcher.severity == "error"]


def limited(formats: Iterable[Format], written_in: str) -> list[Reader]:
    """Prepare a stranger's formats: RequestError from searches that take too long, with the file they are written in."""
    return [
        Reader(each, [_finder(f"{written_in}: {each.name}", text) for text in each.expressions]) for each in formats
    ]


def _finder(name: str, text: str) -> Finder:
    search = Search(pattern_of(text))

    def found(line: str) -> re.Match[str] | None:
        try:
            return search.first_in(line)
        except SearchError as error:
            raise RequestError(f"{name}: {error}") from error

    return found


def _format(matcher: _Matcher) -> Format:
    try:
        expressions = [_expression(pattern) for pattern in matcher.pattern]
    except PatternError as error:
        raise ValueError(f"matcher {matcher.owner}: {error}") from error
    if not any(pattern.message for pattern in matcher.pattern):
        raise ValueError(f"matcher {matcher.owner}: no pattern has a message")
    return Format(name=matcher.owner, pattern=expressions, repeat=matcher.pattern[-1].loop)


def _expression(pattern: _Pattern) -> str:
    names = {number: name for name in GROUPS if (number := getattr(pattern, name, None)) is not None}
    expression = _named(pattern.regexp, names)
    pattern_of(expression)
    return expression


_PART = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\((?!\?)|\(\?<(?![=!])[^>]*>", re.DOTALL)
"""An escape, a class, or the beginning of a group that captures, which JavaScript may name."""


def _named(regexp: str, names: Mapping[int, str]) -> str:
    """Name the groups of an expression, by their numbers."""
    number = 0

    def begin(part: re.Match[str]) -> str:
        nonlocal number
        if not part[0].startswith("("):
            return part[0]
        number += 1
        return f"(?P<{names[number]}>" if number in names else "("

    return _PART.sub(begin, regexp)
