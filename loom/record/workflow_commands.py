"""GitHub's workflow commands: lines of output such as `::error file=a.py,line=3::text` or `##[group]title`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

_COMMAND = re.compile(r"\s*::([a-z-]+)(?: ([^:]*(?::(?!:)[^:]*)*))?::(.*)", re.DOTALL | re.IGNORECASE)
_OLD_COMMAND = re.compile(r".*?##\[([a-z-]+)(?: ([^\]]*))?\](.*)", re.DOTALL | re.IGNORECASE)
_LONGEST_OLD = 10_000
"""Characters of a line with an old command, which may stand anywhere in it: the search takes the square of them."""
NAMES = frozenset(
    {
        *("error", "warning", "notice", "debug", "group", "endgroup", "add-mask", "stop-commands", "echo"),
        *("add-matcher", "remove-matcher", "set-output", "save-state", "set-env", "add-path"),
    }
)


class WorkflowCommand(Struct, frozen=True):
    name: str
    properties: Mapping[str, str]
    value: str


def command_in(line: str) -> WorkflowCommand | None:
    """Return the command of a line, if it is one."""
    found = _COMMAND.match(line) or (_OLD_COMMAND.match(line) if "##[" in line and len(line) < _LONGEST_OLD else None)
    if found is None or found[1].lower() not in NAMES:
        return None
    separator = "," if found.re is _COMMAND else ";"
    pairs = (part.partition("=") for part in (found[2] or "").split(separator) if "=" in part)
    properties = {name.strip().lower(): unescaped(value, of_property=True) for name, _, value in pairs}
    return WorkflowCommand(found[1].lower(), properties, unescaped(found[3]))


def unescaped(text: str, *, of_property: bool = False) -> str:
    """Take back the escapes of a value."""
    for escaped, char in (("%0D", "\r"), ("%0A", "\n"), *((("%3A", ":"), ("%2C", ",")) if of_property else ())):
        text = text.replace(escaped, char)
    return text.replace("%25", "%")


def annotation(level: str, properties: Mapping[str, object], message: str) -> str:
    """Return the command that annotates a line of a file; properties without a value are left out."""
    given = {name: escaped(str(value)) for name, value in properties.items() if value is not None}
    texts = (f"{name}={value.replace(':', '%3A').replace(',', '%2C')}" for name, value in given.items())
    return f"::{level} {','.join(texts)}::{escaped(message)}"


def escaped(text: str) -> str:
    """Encode the value of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def shown(found: WorkflowCommand, *, debug: bool) -> list[str]:
    """Return the lines that people see of a command; none of one that GitHub hides."""
    if found.name not in ("error", "warning", "notice", *(["debug"] if debug else [])):
        return []
    first, *others = found.value.splitlines() or [""]
    file, number = found.properties.get("file"), found.properties.get("line")
    at = f" ({file}{f':{number}' if number else ''})" if file else ""
    title = f"{found.properties['title']}: " if found.properties.get("title") else ""
    return [" ".join(f"{found.name.capitalize()}: {title}{first}{at}".splitlines()), *others]
