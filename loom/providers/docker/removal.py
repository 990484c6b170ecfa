"""Removing things from the engine, for good: what is not there is no error, and the engine's hiccups are waited out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loom.providers.docker.capabilities import Traits
from loom.providers.docker.client import explanation, retrying, translated

if TYPE_CHECKING:
    import docker


def remove_container(client: docker.DockerClient, name: str) -> None:
    """Running or not, with its anonymous volumes."""
    _remove(f"the container {name}", lambda: end_and_remove(client, name))


def end_and_remove(client: docker.DockerClient, name: str) -> None:
    """The same once, with the engine's own errors."""
    api: Any = client.api
    if Traits(client).podman:
        # Docker kills what it is forced to remove; podman asks it to end, and waits ten seconds for that.
        try:
            api.kill(name)
        except Exception as error:
            if getattr(error, "status_code", None) not in (404, 409, 500):
                raise  # those: it does not run
    api.remove_container(name, v=True, force=True)


def remove_network(client: docker.DockerClient, name: str) -> None:
    api: Any = client.api
    _remove(f"the network {name}", lambda: api.remove_network(name))


def remove_volume(client: docker.DockerClient, name: str) -> None:
    api: Any = client.api
    _remove(f"the volume {name}", lambda: api.remove_volume(name, force=True))


def _remove(what: str, call: Callable[[], object]) -> None:
    def remove() -> None:
        try:
            call()
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status != 404 and not (status == 409 and "already in progress" in explanation(error)):
                raise

    with translated(f"removing {what}"):
        retrying(remove, attempts=6)
