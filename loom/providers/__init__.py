"""The kinds of places that run jobs: `base` defines the interface, each other module or folder implements it."""

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
"""Each provider's name, and its module with a function `provider(setup)`. The only list of providers."""


def make(name: str, setup: Setup) -> Provider:
    """Return a provider by name. ProviderError for an unknown one."""
    if name not in MODULES:
        raise ProviderError(
            f"there is no provider {name!r} for jobs", hint=f"this loom has: {', '.join(MODULES)}; is it an older one?"
        )
    return cast("Provider", import_module(MODULES[name]).provider(setup))
