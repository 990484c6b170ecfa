"""Tables of keywords: the values that each may have, and what loom makes of it.

The check of a file (`shapes`), notices and a page of the reference are made from such a table.

A shape is a list of alternatives: a type of single values, by its name in the `parsers` of the language; words in
parentheses; `map` (the keywords below it); `open` (any names; what each may be stands at `NAME`); `any`; and `[shape]` for
a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
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


def read_tables(path: Path, **others: Sequence[Keyword]) -> dict[str, tuple[Keyword, ...]]:
    """Read a file of tables, by their names; `others` are tables that its own may name.

    A row is `NAME: SHAPE`, or `NAME:` with `is: SHAPE` and more fields of a `Keyword`; `about` has the name of the support if it
    is not the same. `(TABLE):` and `NAME:(TABLE):` stand for the keywords of another table, here or below a name.
    """
    tables: dict[str, tuple[Keyword, ...]] = {name: tuple(rows) for name, rows in others.items()}
    for name, rows in msgspec.yaml.decode(path.read_bytes()).items():
        tables[name] = tuple(one for key, row in rows.items() for one in _read(key, row, tables))
    return tables


def _read(name: str, row: Any, tables: Mapping[str, Iterable[Keyword]]) -> Iterator[Keyword]:
    if name.endswith(")"):
        above, _, table = name[:-1].rpartition("(")
        yield from (replace(one, name=f"{above}{one.name}") for one in tables[table])
        return
    fields = dict(row) if isinstance(row, dict) else {"is": row}
    support = next((one for one in Support if one in fields), Support.SAME)
    about = fields.pop(support, "") or fields.pop("about", "")
    yield Keyword(name, fields.pop("is"), about, support, **fields)


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
