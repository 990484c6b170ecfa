"""A job's services: containers beside it, on a network of its own, ready before its first step.

Each service has a thread that gets its image, starts it and waits until it is ready, and one that follows its output.
Whichever way the block is left, containers, their volumes and the network are gone, and the threads have ended.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import docker.errors

from loom.errors import LoomError, NotServing, ProviderError, ServiceError
from loom.plan import model
from loom.providers import labels
from loom.providers.base import NO_SECRETS, OpenedServices, SecretValues
from loom.providers.docker.container.cleanup import remove_container, remove_network
from loom.providers.docker.engine.errors import engine_errors, explanation
from loom.providers.docker.images.images import ResolvedImage
from loom.providers.docker.services.service import GaveUp, OnDied, ServiceContainer, ServiceGroup
from loom.util.within import beside

_LEAVE_WITHIN_S = 10.0


@contextmanager
def services(
    group: ServiceGroup,
    wanted: Sequence[model.Service],
    secrets: SecretValues = NO_SECRETS,
    on_died: OnDied | None = None,
) -> Iterator[OpenedServices]:
    """Yield when every service is ready. ServiceError (its hint holds the last lines) when one ends or does not get
    ready in its time, ImageError when an image can't be had. The group's output is not written to any more when the block has
    been left. `on_died`: called for those that end after all were ready.
    """
    kept = threading.Event()

    def blamed_for(error: ProviderError) -> ServiceError | None:
        # The engine's answer to the start of the job's container, which joins the first service's network.
        gone = group.leader and any(word in error.message for word in ("network of", "namespace"))
        if not (gone and (ended := containers[0].ended())):
            return None
        return NotServing(
            f"service {wanted[0].name} {ended} before the job had started", hint=containers[0].lines.last()
        )

    try:
        network_id = _create_network(group)
        containers = _containers(group, wanted, secrets.services)
        try:
            images, variables = zip(*_started(group, containers), strict=True)
            group.on_died = on_died
            yield OpenedServices(
                network_id=f"container:{group.leader}" if group.leader else network_id,
                images=images,
                variables={name: value for one in variables for name, value in one.items()},
                keep=kept.set,
                blamed_for=blamed_for,
            )
        finally:
            group.closing.set()
            group.give_up.set()
            if kept.is_set():
                for one in containers:
                    one.release(_LEAVE_WITHIN_S)
            else:
                _remove(group, containers, network_id)
    finally:
        group.output.close()
        group.client.close()
    group.output.check()


def _containers(
    group: ServiceGroup, wanted: Sequence[model.Service], values: Sequence[Mapping[str, bytes]]
) -> list[ServiceContainer]:
    return [
        ServiceContainer(
            group,
            service,
            f"{group.network}-{index}-{re.sub('[^A-Za-z0-9_.-]+', '-', service.name)[:40]}",
            values[index] if values else {},
            leads=bool(group.shared) and index == 0,
        )
        for index, service in enumerate(wanted)
    ]


def _started(
    group: ServiceGroup, containers: Sequence[ServiceContainer]
) -> list[tuple[ResolvedImage, Mapping[str, str]]]:
    """Start all at once: a service may need another one to become ready."""
    running: dict[int, tuple[ResolvedImage, Mapping[str, str]]] = {}
    failed: list[BaseException] = []

    def start(index: int, one: ServiceContainer) -> None:
        try:
            running[index] = one.start()
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            failed.append(error)
            group.give_up.set()

    threads = [
        threading.Thread(target=start, args=(index, one), name=f"loom-service-{one.service.name}", daemon=True)
        for index, one in enumerate(containers)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            if not group.cancel.join(thread):
                raise ServiceError("services were still starting after the second interrupt", code="CANCELED")
    except BaseException:
        # An interrupt in this thread: nothing may be created during removal.
        group.give_up.set()
        for thread in threads:
            thread.join(_LEAVE_WITHIN_S)
        raise
    if failed:
        raise next((error for error in failed if not isinstance(error, GaveUp)), failed[0])
    return [running[index] for index in sorted(running)]


def _remove(group: ServiceGroup, containers: Sequence[ServiceContainer], network_id: str) -> None:
    """Remove the containers. Never raises: failures are printed, and the labels lead the next clean-up to them."""

    def attempt(remove: Callable[[], None]) -> None:
        try:
            remove()
        except LoomError as error:
            group.output.say(error.message)

    removals = [partial(remove_container, group.client, made) for one in containers for made in one.containers()]
    for thread in [beside(partial(attempt, remove), name="remove a service") for remove in removals]:
        thread.join(_LEAVE_WITHIN_S)
    for one in containers:
        one.join(_LEAVE_WITHIN_S)
    attempt(lambda: remove_network(group.client, network_id, disconnect=True))


def _create_network(group: ServiceGroup) -> str:
    try:
        with engine_errors():
            marks = {**group.labels, labels.ROLE: "network"}
            return str(
                group.client.api.create_network(group.network, driver="bridge", internal=group.isolated, labels=marks)[
                    "Id"
                ]
            )
    except docker.errors.APIError as error:
        hint = None
        if "address pool" in str(error):
            hint = "The engine has no more networks to give: `loom clean` removes loom's own, `docker network ls` shows all."
        raise ServiceError(f"the services' network could not be made: {explanation(error)}", hint=hint) from error
