"""Everything of one run that is still in the engine: what was kept to look into, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from loom.errors import LoomError
from loom.providers.docker import labels
from loom.providers.docker.client import explanation, retrying, translated
from loom.providers.docker.removal import remove_container, remove_network, remove_volume

if TYPE_CHECKING:
    import docker


def remove_run(client: docker.DockerClient, run_id: str) -> tuple[list[str], list[str]]:
    """Remove a run's containers, networks, volumes and checkpoint images: `(what went, what could not and why)`.

    ProviderError when the engine can't be asked. The caller has made sure that the run is over.
    """
    api: Any = client.api
    of_run = {"label": [f"{labels.RUN}={run_id}"]}
    with translated(f"looking for what run {run_id} left in the engine"):
        containers = retrying(lambda: api.containers(all=True, filters=of_run))
        networks = retrying(lambda: api.networks(filters=of_run))
        volumes = retrying(lambda: api.volumes(filters=of_run))["Volumes"] or []
        images = retrying(lambda: api.images(all=False, filters=of_run))
    gone: list[str] = []
    problems: list[str] = []

    def remove(what: str, how: Callable[[], None]) -> None:
        try:
            how()
            gone.append(what)
        except LoomError as error:
            problems.append(f"{what}: {error.message}")

    for container in containers:
        name = container["Names"][0].removeprefix("/") if container["Names"] else container["Id"][:12]
        remove(f"container {name}", partial(remove_container, client, container["Id"]))
    for network in networks:
        remove(f"network {network['Name']}", partial(remove_network, client, network["Id"]))
    for volume in volumes:
        remove(f"volume {volume['Name']}", partial(remove_volume, client, volume["Name"]))
    for image in images:
        # By its tag: a checkpoint that a later one was made from goes when that one does.
        for name in image.get("RepoTags") or [image["Id"]]:
            remove(f"image {name}", partial(_remove_image, client, name))
    return gone, problems


def _remove_image(client: docker.DockerClient, image_id: str) -> None:
    api: Any = client.api

    def call() -> None:
        try:
            api.remove_image(image_id, force=True)
        except Exception as error:
            if getattr(error, "status_code", None) == 404:
                return
            if getattr(error, "status_code", None) is not None:
                raise LoomError(explanation(error)) from error
            raise

    with translated(f"removing the image {image_id}"):
        call()
