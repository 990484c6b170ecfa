"""Values and JSON with a type, by msgspec. ValueError (`msgspec.ValidationError`) for what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_ONE_AT_A_TIME = threading.RLock()
"""msgspec ends the process by a segmentation fault where two threads need a type that it has not looked at yet (0.22)."""


def convert(value: object, kind: type[T], dec_hook: Callable[[type, Any], Any] | None = None) -> T:
    """Return a value of plain types as one of this type."""
    with _ONE_AT_A_TIME:
        return msgspec.convert(value, kind, dec_hook=dec_hook)


def decode(data: bytes | bytearray | str, kind: type[T]) -> T:
    """Decode JSON to a value of this type; a path is a text."""
    with _ONE_AT_A_TIME:
        return msgspec.json.decode(data, type=kind, dec_hook=_path)


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}")
