"""The JSON that loom writes for itself and reads again. What commands print is `render.output`'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec


def encode_line(document: Any) -> bytes:
    """Encode as one line, with its line end."""
    return msgspec.json.encode(document) + b"\n"


def encode_file(document: Any, *, sort: bool = False) -> bytes:
    """Encode with indentation, for people and machines alike, paths as texts; the keys in the document's order, or sorted."""
    data = msgspec.json.encode(document, enc_hook=str, order="deterministic" if sort else None)
    return msgspec.json.format(data, indent=2) + b"\n"


def decode(data: bytes | str) -> Any:
    """Decode. ValueError for invalid JSON, and for JSON that is nested too deeply."""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a JSON value with each of its texts changed, but not the keys."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_texts(item, change) for key, item in value.items()}
    return [map_texts(item, change) for item in value] if isinstance(value, list | tuple) else value
