"""Truncate long lists, always with the total."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def bounded(name: str, items: Sequence[Any], most: int) -> dict[str, Any]:
    """Return the first `most` items as `name` and their total as `<name>_total`, for a document."""
    return {name: list(items[:most]), f"{name}_total": len(items)}


def listed(items: Iterable[str], most: int) -> list[str]:
    """Return the first `most` lines, plus a line with the number of the others."""
    lines = list(items)
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]


def by_reason(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return names by their reasons, of `(name, reason)`; both keep their order."""
    found: dict[str, list[str]] = {}
    for name, reason in items:
        found.setdefault(reason, []).append(name)
    return found
