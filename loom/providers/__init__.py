"""The providers of sessions for jobs: `base` defines the interface, each other module or folder implements it."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from typing import TYPE_CHECKING, cast

from msgspec.structs import replace

from loom.config.pools import HERE
from loom.errors import ProviderError, RequestError
from loom.util.extras import install_command
from loom.util.units import meant

if TYPE_CHECKING:
    from loom.providers.base import Provider, Setup

MODULES = {
    "docker": "loom.providers.docker.provider",
    "host": "loom.providers.host",
    "kubernetes": "loom.providers.kubernetes.provider",
}
"""Each provider's name, and its module with a function `provider(setup)`. `pools.HERE` names those of this machine."""


def parsed(target: str, pools: Collection[str], place: str = "") -> tuple[str, str]:
    """Return a provider's name, and its context or nothing (`kubernetes:CONTEXT`). RequestError for one that does not exist.

    `pools`: further names that could have been meant; `place`: where the target was written.
    """
    name, _, context = target.partition(":")
    if name not in MODULES:
        raise RequestError(
            f"{place}there is no provider or pool {name!r} for jobs{meant(name, (*MODULES, *pools))}",
            hint=f"this loom has: {', '.join((*MODULES, *pools))}; pools of your own are in ~/.config/loom/config.yml;"
            f" a context of your kubeconfig is kubernetes:{name}",
        )
    if context and name in HERE:
        raise RequestError(f"{place}the provider {name} has no contexts", hint=f"leave out `:{context}`")
    return name, context


def make(target: str, setup: Setup) -> Provider:
    """Return a provider by its name, with an optional context. RequestError for an unknown one."""
    name, context = parsed(target, setup.config.pools)
    try:
        module = import_module(MODULES[name])
    except ModuleNotFoundError as error:
        raise ProviderError(
            f"the provider {name} needs the package {error.name}, which is not installed",
            hint=install_command(name),
            code="PROVIDER_NOT_INSTALLED",
        ) from error
    return cast("Provider", module.provider(replace(setup, context=context or None)))
