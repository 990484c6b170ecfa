"""The formats of tools' output: an entry of the table `patterns.yml`, or of a project's own, and what reads lines by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct

from loom.record.documents import Why

GROUPS = ("test", "file", "line", "column", "severity", "message", "code")
"""The named groups of an expression."""


class Format(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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


Finder = Callable[[str], Mapping[str, str | None] | None]
"""Return the named groups of an expression that is found in a line."""


class Reader(Struct, frozen=True, eq=False):
    """A format that is ready to read lines."""

    format: Format
    searches: Sequence[Finder]


@cache
def table() -> tuple[Format, ...]:
    data = Path(__file__).with_name("patterns.yml").read_bytes()
    return msgspec.yaml.decode(data, type=tuple[Format, ...])
