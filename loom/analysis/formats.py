"""Formats of tools' output: the table `patterns.toml`, beside this module."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from loom.analysis.readings import required_by
from loom.record.documents import Why
from loom.record.highlights import Watch
from loom.values import Immutable

GROUPS = ("test", "file", "line", "column", "severity", "message", "code")
"""The named groups of an expression."""


class Format(Immutable, forbid_unknown_fields=True):
    """An entry of the table, which explains its fields."""

    name: str
    pattern: str | list[str]
    within: int = 0
    repeat: bool = False
    joined: bool = False
    words: list[str] = []

    @property
    def expressions(self) -> list[str]:
        return [self.pattern] if isinstance(self.pattern, str) else self.pattern

    @property
    def why(self) -> Why:
        return "test" if any("(?P<test>" in expression for expression in self.expressions) else "error"


Finder = Callable[[str], re.Match[str] | None]
"""Searches a line for an expression, whose groups have the names above."""


class Reader(Struct, frozen=True, eq=False):
    """A format that is ready to read lines."""

    format: Format
    searches: Sequence[Finder]


@cache
def table() -> tuple[Format, ...]:
    data = Path(__file__).with_name("patterns.toml").read_bytes()
    return msgspec.toml.decode(data, type=dict[str, tuple[Format, ...]])["formats"]


def watch() -> Watch:
    """Make the recorder look for what the lines of all formats contain."""
    return Watch(lambda: {word: each.why for each in table() for word in each.words})


@cache
def readers() -> Sequence[Reader]:
    return tuple(Reader(each, [_finder(text) for text in each.expressions]) for each in table())


def _finder(text: str) -> Finder:
    required = required_by(text)
    compiled = cache(re.compile)
    return lambda line: compiled(text).search(line) if required in line else None
