"""Lists that are cut off where they would be long: never without the number of what there is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def bounded(name: str, items: Sequence[Any], most: int) -> dict[str, Any]:
    """The first `most` items as `name`, and how many there are as `<name>_total`, for a document."""
    return {name: list(items[:most]), f"{name}_total": len(items)}


def listed(items: Iterable[str], most: int) -> list[str]:
    """The first `most` lines for a reader, and one that says how many more there are."""
    lines = list(items)
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more"]
