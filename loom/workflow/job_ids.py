"""The ids of jobs, also of those that a job becomes: without what reads files, since a run may need them."""

from __future__ import annotations

import re

MOST = 256
"""The most instances of a job in any language."""


def id_part(text: str, limit: int = 64) -> str:
    """Return a text with the characters of an id alone."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:limit].rstrip("-.") or "x"


def unique_id(wanted: str, taken: set[str]) -> str:
    """Take an id that differs from all others in more than the case of letters."""
    found, number = wanted, 2
    while found.lower() in taken:
        found, number = f"{wanted}-{number}", number + 1
    taken.add(found.lower())
    return found
