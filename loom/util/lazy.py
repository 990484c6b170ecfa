"""A package's names, each imported from its module when first asked for: what `loom run` imports keeps it waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A `__getattr__` for `package`, whose `modules` define the names (`{"module": "name another_name=name_there"}`)."""
    home = {}
    for module, names in modules.items():
        for name, _, there in (text.partition("=") for text in names.split()):
            home[name] = (f"{package}.{module}", there or name)

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = home[name]
        return getattr(import_module(module), there)

    return find
