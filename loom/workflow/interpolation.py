"""Expand `$NAME` and `${NAME}` in values of the workflow (docs/reference/workflow.md, "Variables").

`$$` is a dollar sign. Undefined names and all other uses of `$` stay as written (`$(date)`, `${X:-y}`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from loom.errors import RequestError
from loom.util.toposort import order

_REFERENCE = re.compile(r"\$(?:\$|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
MAX_LENGTH = 1024 * 1024


class ExpansionTooLong(RequestError, ValueError):
    """An expanded value that exceeds the limit (variables that double each other)."""


def names(text: str) -> Iterator[str]:
    """Return every name that a text refers to, in order."""
    if "$" in text:
        for match in _REFERENCE.finditer(text):
            if name := match[1] or match[2]:
                yield name


def expand(text: str, values: Mapping[str, str]) -> str:
    """Expand a text once; the inserted values are not expanded again."""
    if "$" not in text:
        return text

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return "$" if name is None else values.get(name, match[0])

    return substituted(_REFERENCE, value, text)


def substituted(pattern: re.Pattern[str], value: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace the matches of a pattern. ExpansionTooLong before the result has more than MAX_LENGTH characters."""
    left = MAX_LENGTH - len(text)

    def bounded(match: re.Match[str]) -> str:
        nonlocal left
        found = value(match)
        left -= len(found) - len(match[0])
        if left < 0:
            raise ExpansionTooLong(f"the expanded value exceeds {MAX_LENGTH // 1024} KiB")
        return found

    return pattern.sub(bounded, text)


def expand_all(
    variables: Mapping[str, str], known: Mapping[str, str], *, literal: Collection[str] = ()
) -> dict[str, str]:
    """Expand variables that may refer to each other, in any order, and to known values. `literal` ones are copied.

    CycleError for variables that refer to each other in a cycle.
    """
    if not any("$" in value for value in variables.values()):
        return dict(variables)
    needs = {name: names(text) for name, text in variables.items() if name not in literal}
    values = {**known}
    for name in order(variables, needs):
        values[name] = expand(variables[name], values) if name in needs else variables[name]
    return {name: values[name] for name in variables}
