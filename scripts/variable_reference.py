"""Write the tables of docs/reference/variables.md from the table of variables. Run by `scripts/docs variables`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from loom.workflow.predefined import NOT_SET, OF_GITLAB, PREDEFINED, NotSet, Predefined

PAGE = Path(__file__).parents[1] / "docs/reference/variables.md"
_TABLE = re.compile(r"(<!-- table of (\w+) -->\n\n).*?(?=\n\n)", re.DOTALL)


def page(text: str) -> str:
    """Return the page with its tables as they are now; each stands below a comment with its name."""
    tables = {"every_job": _set(PREDEFINED), "gitlab": _set(OF_GITLAB), "not_set": _not_set(NOT_SET)}
    return _TABLE.sub(lambda found: found[1] + "\n".join(tables[found[2]]), text)


def _set(variables: Iterable[Predefined]) -> Iterator[str]:
    yield "| variable | known from | value |"
    yield "| --- | --- | --- |"
    for one in variables:
        yield f"| `{one.name}` | `{one.known}` | {one.about} |"


def _not_set(variables: Iterable[NotSet]) -> Iterator[str]:
    yield "| variable | why |"
    yield "| --- | --- |"
    for one in variables:
        yield f"| `{one.name}` | {one.why} |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
