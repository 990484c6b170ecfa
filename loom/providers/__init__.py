"""Kinds of places that jobs run in: `base` is the promise, each other module or folder keeps it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from loom.errors import ProviderError

if TYPE_CHECKING:
    from loom.providers.base import Provider, Setup

MODULES = {
    "docker": "loom.providers.docker.provider",
    "host": "loom.providers.host",
}
"""Each provider's name, and the module with a function `provider(setup)` that makes it. No other place names them."""


def make(name: str, setup: Setup) -> Provider:
    """A provider by its name. ProviderError for one that this loom does not have."""
    if name not in MODULES:
        raise ProviderError(
            f"there is no provider {name!r} for jobs", hint=f"this loom has: {', '.join(MODULES)}; is it an older one?"
        )
    return cast("Provider", import_module(MODULES[name]).provider(setup))
