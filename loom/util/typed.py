"""Values and JSON with a type, by msgspec. ValueError (`msgspec.ValidationError`) for what does not fit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

import msgspec
from msgspec import Struct, StructMeta, field

T = TypeVar("T")
_ONE_AT_A_TIME = threading.RLock()
"""msgspec ends the process by a segmentation fault where two threads need a type that it has not looked at yet (0.22)."""


class _ImmutableMeta(StructMeta):
    """Subclasses inherit all options of a struct but this one."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **config})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Immutable(Struct, frozen=True, kw_only=True, metaclass=_ImmutableMeta):
    """The base of values: structs that do not change, and whose fields are given by name. The options are those of `Struct`."""


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
