"""The two kinds of globs: for paths (`matches`, `compile`) and for names (`match_name`).

Paths (rules, artifacts, caches, includes, branches): `*` stays in a folder, `**` crosses folders, `?`, `[a-z]`,
`{a,b}`; `docs/` matches everything below. Names (jobs, images, cache keys) have no folders: `*` matches any text, `?`,
`[a-z]`. Only `.dockerignore` follows other rules, the engine's.
"""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache

_STARS = {"*": "[^/]*", "**": ".*", "**/": "(?:[^/]+/)*"}
_TOKEN = re.compile(r"(?P<star>(?:\*\*/)+|\*\*|\*)|\\(?P<escaped>.)|(?P<set>\[.[^]]*\])|(?P<other>.)", re.DOTALL)


@lru_cache(maxsize=4096)
def compile(glob: str) -> re.Pattern[str]:
    """Compile a glob to a pattern that matches a whole relative path."""
    text = glob.removeprefix("./")
    try:
        return re.compile(_written(_parts(f"{text}**" if text.endswith("/") else text)), re.DOTALL)
    except re.error:
        return re.compile(re.escape(glob))


def _parts(text: str) -> list[str]:
    """Split a glob: stars as names in `_STARS`, the rest as expressions."""
    parts: list[str] = []
    braces = 0
    for match in _TOKEN.finditer(text):
        char = match["other"]
        if match["star"]:
            star = "**/" if match["star"].endswith("/") else match["star"]
            if parts[-1:] != ["**"] or star == "**/":  # `****` is `**`
                parts.append(star)
        elif match["escaped"]:
            parts.append(re.escape(match["escaped"]))
        elif match["set"]:
            parts.append(_set(match["set"][1:-1]))
        elif char == "?":
            parts.append("[^/]")
        elif char == "{" and "}" in text[match.start() :]:
            parts.append("(?:")
            braces += 1
        elif char == "}" and braces:
            parts.append(")")
            braces -= 1
        elif char == "," and braces:
            parts.append("|")
        else:
            parts.append(re.escape(char))
    return parts + [")"] * braces


def _set(inside: str) -> str:
    negated = inside[0] in "!^"
    members = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[1:] if negated else inside)
    return f"[{'^/' if negated else ''}{members}]"


def _written(parts: list[str]) -> str:
    """Join the parts to an expression without exponential backtracking.

    Between two stars of one kind, the first match is as good as any later one, since the second star can consume the
    rest. So the first star never backtracks (`(?>...)`), except across braces, where the next star may be of another
    kind.
    """
    result = ""
    at = 0
    while at < len(parts):
        star = parts[at]
        end = _same_star(parts, at) if star in _STARS else None
        if end is None:
            result += _STARS.get(star, star)
            at += 1
        else:
            result += f"(?>{_STARS[star]}?{_written(parts[at + 1 : end])})"
            at = end
    return result


def _same_star(parts: list[str], at: int) -> int | None:
    """Return the position of the next star of the same kind, if the parts between allow the shortcut."""
    star = parts[at]
    for end in range(at + 1, len(parts)):
        part = parts[end]
        if part == star:
            whole = star != "**/" or ((at == 0 or parts[at - 1] == "/") and parts[end - 1] == "/")
            return end if whole else None
        crosses = part != "/" and part[0] == "[" and re.fullmatch(part, "/")
        if part in ("(?:", ")", "|") or (part in _STARS and (star, part) != ("**/", "*")) or crosses:
            return None
        if star == "*" and part == "/":
            return None
    return None


def match_name(glob: str, *names: str) -> bool:
    """Whether the glob matches one of the names as a whole."""
    return any(fnmatch.fnmatchcase(name, glob) for name in names)


def matches(glob: str, path: str) -> bool:
    return compile(glob).fullmatch(path) is not None
