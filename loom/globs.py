"""Globs over paths that are text: `*` stays in a folder, `**` crosses folders, `?`, `[a-z]`, `{a,b}`; `docs/` is all below."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=4096)
def compile(glob: str) -> re.Pattern[str]:
    """The pattern that matches a whole relative path."""
    text = glob.removeprefix("./")
    if text.endswith("/"):
        text += "**"
    parts: list[str] = []
    position = 0
    braces = 0
    while position < len(text):
        char = text[position]
        if text.startswith("**/", position):
            parts.append("(?:[^/]+/)*")
            position += 3
            continue
        if text.startswith("**", position):
            parts.append(".*")
            position += 2
            continue
        if char == "*":
            parts.append("[^/]*")
        elif char == "?":
            parts.append("[^/]")
        elif char == "[" and (end := text.find("]", position + 2)) > 0:
            inside = text[position + 1 : end]
            negated = inside[0] in "!^"
            members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
            parts.append(f"[{'^/' if negated else ''}{members}]")
            position = end
        elif char == "{" and "}" in text[position:]:
            parts.append("(?:")
            braces += 1
        elif char == "}" and braces:
            parts.append(")")
            braces -= 1
        elif char == "," and braces:
            parts.append("|")
        elif char == "\\" and position + 1 < len(text):
            position += 1
            parts.append(re.escape(text[position]))
        else:
            parts.append(re.escape(char))
        position += 1
    parts.append(")" * braces)
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error:
        return re.compile(re.escape(glob))


def matches(glob: str, path: str) -> bool:
    return compile(glob).fullmatch(path) is not None
