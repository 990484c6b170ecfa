"""Tables of keywords: the values that each may have, and what loom makes of it.

The check of a file (`shapes`), notices and a page of the reference are made from such a table.

A shape is a list of alternatives: `text`, `scalar` (text, number or boolean), `alphanumeric` (text or a whole number),
`integer`, `boolean`, `duration`, words in parentheses, `map` (the keywords below it), `open` (any names; what each may be
stands at `NAME`), `any`, and `[shape]` for a list, which may contain lists of its items. `null` is as good as no keyword,
everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache

from msgspec import Struct


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
    support: Support = Support.SAME
    about: str = ""
    """The difference, or the reason why it has no effect or is refused."""


def below(prefix: str, keywords: Iterable[Keyword], *left_out: str) -> tuple[Keyword, ...]:
    """Return the keywords as they stand below another one."""
    return tuple(
        Keyword(f"{prefix}:{one.name}", one.shape, one.support, one.about)
        for one in keywords
        if one.name.split(":")[0] not in left_out
    )


def by_name(keywords: Iterable[Keyword]) -> Mapping[str, Keyword]:
    return {one.name: one for one in keywords}


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
