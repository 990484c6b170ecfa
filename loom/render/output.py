"""Print JSON documents and tables, for all commands."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from loom.record.documents import Document
from loom.record.lines import encodable
from loom.util.controls import json_shown


def json_text(document: Any) -> str:
    """Print a document: indented UTF-8 without terminal controls; U+FFFD replaces bytes that are not UTF-8."""
    return json_shown(json.dumps(encodable(msgspec.to_builtins(document)), indent=2, ensure_ascii=False)) + "\n"


def print_json(document: Document | Mapping[str, Any]) -> None:
    """Print what `--json` asks for. The document has its `schema_version` and `kind`."""
    sys.stdout.write(json_text(document))


def print_kind(schema: str, values: Mapping[str, Any], *, kind: str | None = None) -> None:
    """Print the values that `--json` asks for as a document of a kind, which has the schema's name without another one."""
    print_json({"schema_version": f"loom.{schema}.v1", "kind": kind or schema, **values})


def print_either(
    as_json: bool, schema: str, values: Mapping[str, Any], lines: Iterable[str], *, kind: str | None = None
) -> None:
    """Print the values as by `print_kind`, else the lines for people."""
    if as_json:
        print_kind(schema, values, kind=kind)
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)


def table(rows: Sequence[Sequence[str]], columns: int | None = None, spare: Sequence[int] = ()) -> list[str]:
    """Format rows with the same number of cells as aligned columns, two spaces apart.

    `columns`: the room for a row. For it the cells of the columns `spare`, one after the other, lose their middle.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    over = 0 if columns is None else sum(widths) + 2 * (len(widths) - 1) - columns
    for at in spare:
        cut = max(0, min(over, widths[at] - _LEGIBLE))
        widths[at], over = widths[at] - cut, over - cut
    return [
        "  ".join(_without_middle(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def stacked(first: str, others: Iterable[str], columns: int) -> list[str]:
    """Format a row for a terminal that is too narrow for the table: the cells after the first stand below it."""
    rest = ", ".join(filter(None, others))
    return [first, *textwrap.wrap(rest, columns, initial_indent="    ", subsequent_indent="    ")]


_LEGIBLE = 10
"""The columns in which a cut cell still says something."""


def _without_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"
