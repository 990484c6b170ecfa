"""The base of values, and a type that many functions pass on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, dataclass_transform

from msgspec import Struct, StructMeta, field

Environ = Mapping[str, str]
"""The variables of a process, by their names."""


class _ImmutableMeta(StructMeta):
    """Subclasses inherit all options of a struct but this one."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any) -> Any:
        return super().__new__(cls, name, bases, namespace, **{"kw_only": True, **config})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Immutable(Struct, frozen=True, kw_only=True, metaclass=_ImmutableMeta):
    """The base of values: structs that do not change, and whose fields are given by name. The options are those of `Struct`."""
