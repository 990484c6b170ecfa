"""Tables of keywords: the values that each may have, and what loom makes of it.

The check of a file (`shapes`), notices and a page of the reference are made from such a table.

A shape is a list of alternatives: a type of single values, by its name in the `parsers` of the language; words in
parentheses; `map` (the keywords below it); `open` (any names; what each may be stands at `NAME`); `any`; and `[shape]` for
a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace


class Support(StrEnum):
    SAME = "same"
    """As in the system whose language it is."""
    DIFFERS = "differs"
    NO_EFFECT = "no effect"
    REFUSED = "refused"
    NO_JOB = "refuses the job"
    """The file is sound; a job with it is refused when it would run."""


class Keyword(Struct, frozen=True):
    name: str
    """With the keywords that it is below: `artifacts:reports:junit`."""
    shape: str
    about: str = ""
    """In loom's own language its purpose; in others the difference, or the reason why it has no effect or is refused."""
    support: Support = Support.SAME
    required: bool = False
    """In a mapping that is whole: one that others extend may lack it."""
    filled: bool = False
    """A list or mapping has at least one entry."""
    example: str = ""
    """A value, for the message that the keyword is missing."""
    short: str = ""
    """The key of a mapping that a value stands for which is no mapping."""
    form: str = ""
    """What a message calls the mapping and its short form."""


Table = Mapping[str, Mapping[str, Keyword]]
"""The keywords of each mapping, by the name that it has; empty for the whole."""


def nested(prefix: str, keywords: Iterable[Keyword], *left_out: str) -> tuple[Keyword, ...]:
    """Return the keywords as they stand below another one."""
    return tuple(
        replace(one, name=f"{prefix}:{one.name}") for one in keywords if one.name.split(":")[0] not in left_out
    )


def tabled(keywords: Iterable[Keyword]) -> Table:
    table: dict[str, dict[str, Keyword]] = {}
    for one in keywords:
        above, _, key = one.name.rpartition(":")
        table.setdefault(above, {})[key] = one
    return table


class Shape(Struct, frozen=True):
    kinds: tuple[str, ...]
    words: tuple[str, ...] = ()
    items: Shape | None = None


@lru_cache(maxsize=256)
def shape_of(text: str) -> Shape:
    kinds: list[str] = []
    words: tuple[str, ...] = ()
    items: Shape | None = None
    for part in re.findall(r"\[.*\]|\([^)]*\)|\w+", text):
        if part.startswith("["):
            items = shape_of(part[1:-1])
        elif part.startswith("("):
            words = tuple(part[1:-1].split())
        else:
            kinds.append(part)
    return Shape(tuple(kinds), words, items)
