"""Remove what a loom that is gone left in the engine: killed, crashed, or the machine lost its power.

Whose a thing is, its labels say. What a living loom made is never touched, nor what was kept on purpose and has not
expired: neither the container nor the services and volumes of its job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.errors import LoomError
from loom.providers.docker import labels
from loom.providers.docker.checkpoint import remove_images
from loom.providers.docker.client import retrying, translated
from loom.providers.docker.removal import remove_container, remove_network, remove_volume

if TYPE_CHECKING:
    import docker

UNKNOWN_AFTER_S = 600.0
"""How old a container that has ended must be to be taken for left behind, when its loom can't be looked for from here."""


class Reaped(Struct, frozen=True):
    """Something that was removed, or could not be (then `problem` says why)."""

    kind: str
    name: str
    job_id: str
    problem: str = ""


def reap(client: docker.DockerClient, *, now: Callable[[], float] = time.time) -> list[Reaped]:
    """Remove what dead looms left in the engine, and what was kept and has expired. ProviderError when it can't be asked."""
    api: Any = client.api
    ours = {"label": [labels.PID]}
    with translated("looking for what earlier runs left behind"):
        containers = retrying(lambda: api.containers(all=True, filters=ours))
        networks = retrying(lambda: api.networks(filters=ours))
        volumes = retrying(lambda: api.volumes(filters=ours))["Volumes"] or []
    kept: set[tuple[str, str]] = set()
    expired: set[str] = set()
    for container in containers:
        until = labels.kept_until(_name(container))
        if until is not None and until > now():
            kept.add(_job(container["Labels"]))
        elif until is not None:
            expired.add(container["Id"])
    done: list[Reaped] = []

    def remove(kind: str, name: str, labelled: Mapping[str, str], how: Callable[[], None]) -> None:
        try:
            how()
            problem = ""
        except LoomError as error:
            if getattr(error.__cause__, "status_code", None) == HTTPStatus.CONFLICT:
                return  # what uses it is just being removed, by another loom too: the next one finds it free
            problem = str(error)
        done.append(Reaped(kind, name, labelled.get(labels.JOB, ""), problem))

    for container in containers:
        marks = container["Labels"]
        gone = labels.maker_is_gone(marks)
        if gone is None:
            gone = container["State"] in ("exited", "dead") and now() - float(container["Created"]) > UNKNOWN_AFTER_S
        if container["Id"] in expired or (gone and _job(marks) not in kept):
            remove("container", _name(container), marks, partial(remove_container, client, container["Id"]))
    for network in networks:
        marks = network["Labels"]
        if labels.maker_is_gone(marks) and _job(marks) not in kept:
            remove("network", network["Name"], marks, partial(remove_network, client, network["Id"]))
    for volume in volumes:
        marks = volume["Labels"] or {}
        if labels.maker_is_gone(marks) and _job(marks) not in kept:
            remove("volume", volume["Name"], marks, partial(remove_volume, client, volume["Name"]))
    done += [Reaped("image", "of a checkpoint", "", problem) for problem in remove_images(client, now=now)]
    return done


def _name(container: Mapping[str, Any]) -> str:
    names = container.get("Names") or [container["Id"]]
    return str(names[0]).lstrip("/")


def _job(labelled: Mapping[str, str]) -> tuple[str, str]:
    return labelled.get(labels.RUN, ""), labelled.get(labels.JOB, "")
