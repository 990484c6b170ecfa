"""Expand `$NAME` and `${NAME}` in values of the workflow (docs/reference/workflow.md, "Variables").

`$$` is a dollar sign. Undefined names and all other uses of `$` stay as written (`$(date)`, `${X:-y}`). Other languages
have patterns of their own: a match's last group is the name; one named `$` is a dollar sign, one without a group stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping

from loom.errors import RequestError
from loom.util.toposort import order

_NAMES = r"([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}"
_REFERENCE = re.compile(rf"\$(?:(\$)|{_NAMES})")
WITHOUT_ESCAPES = re.compile(rf"\$(?:{_NAMES})")
MAX_LENGTH = 1024 * 1024


class ExpansionTooLong(RequestError, ValueError):
    """An expanded value that exceeds the limit (variables that double each other)."""


def names(text: str, pattern: re.Pattern[str] = _REFERENCE) -> Iterator[str]:
    """Yield every name that a text refers to, in order."""
    if "$" in text or "%" in text:
        for match in pattern.finditer(text):
            if match.lastindex and (name := match[match.lastindex]) != "$":
                yield name


def as_written(_name: str, written: str) -> str:
    return written


def expand(
    text: str,
    values: Mapping[str, str],
    pattern: re.Pattern[str] = _REFERENCE,
    unknown: Callable[[str, str], str] = as_written,
) -> str:
    """Expand a text once; the inserted values are not expanded again. `unknown` makes the text of a name without a value.

    ExpansionTooLong before the result has more than MAX_LENGTH characters.
    """
    if "$" not in text and "%" not in text:
        return text
    left = MAX_LENGTH - len(text)

    def value(match: re.Match[str]) -> str:
        nonlocal left
        name = match[match.lastindex or 0]
        found = values.get(name) if name != "$" else name
        if found is None:
            found = unknown(name, match[0])
        left -= len(found) - len(match[0])
        if left < 0:
            raise ExpansionTooLong(f"the expanded value exceeds {MAX_LENGTH // 1024} KiB")
        return found

    return pattern.sub(value, text)


def expand_all(
    variables: Mapping[str, str],
    known: Mapping[str, str],
    *,
    literal: Collection[str] = (),
    unknown: Callable[[str, str], str] = as_written,
) -> dict[str, str]:
    """Expand variables that may refer to each other, in any order, and to known values. `literal` ones are copied.

    CycleError for variables that refer to each other in a cycle.
    """
    if not any("$" in value for value in variables.values()):
        return dict(variables)
    needs = {name: names(text) for name, text in variables.items() if name not in literal}
    values = {**known}
    for name in order(variables, needs):
        values[name] = expand(variables[name], values, unknown=unknown) if name in needs else variables[name]
    return {name: values[name] for name in variables}
