"""Remove loom's resources from the engine: one rule for what to remove, and one way to do it.

Labels record the process and job of each resource. A resource is removed with its job or run by name, when its process
has ended (`reap`), or when it was kept and has expired. Resources of a living process or a kept job are never touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import Any, Literal

from msgspec.structs import replace

from loom.errors import EngineUnavailable, LoomError
from loom.providers import labels
from loom.providers.docker.engine.client import EngineClient, Traits
from loom.providers.docker.engine.errors import explanation, translated
from loom.providers.docker.engine.retries import REMOVAL, retrying
from loom.values import Immutable

UNKNOWN_AFTER_S = 600.0
"""The age at which an ended container counts as abandoned, if its process can't be checked from here."""

UNCLAIMED_S = 7 * 86400.0
"""The time after its expiry at which a kept container goes in any case: its record may be gone, or another machine's."""

Kind = Literal["container", "network", "volume"]


class Resource(Immutable):
    """A resource with loom's labels."""

    kind: Kind
    key: str
    """Its id or name in the engine."""
    name: str
    labels: Mapping[str, str]
    expires_at: float | None = None
    """The expiry time of a kept resource."""
    ended: bool = False
    created: float = 0.0
    problem: str = ""
    """The reason why it could not be removed."""
    in_use: bool = False
    """Another resource uses it, or another process is removing it."""

    @property
    def job(self) -> tuple[str, str]:
        return self.labels.get(labels.RUN, ""), self.labels.get(labels.JOB, "")

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f": {self.problem}" if self.problem else "")


# -- what goes ----------------------------------------------------------------------------------------------------


def reap(client: EngineClient, *, now: Callable[[], float] = time.time) -> list[Resource]:
    """Remove abandoned resources. ProviderError when the engine can't be queried.

    A kept container is `loom clean`'s to remove, which saves its changes first; one without such a loom goes much later.
    """
    found = list(_found(client, "what earlier runs left behind", [labels.PID]))
    kept = {one.job for one in found if one.expires_at is not None and one.expires_at + UNCLAIMED_S > now()}
    done = [_removed(client, one) for one in found if _is_over(one, kept, now())]
    return [one for one in done if not one.in_use]  # the next run finds it unlocked


def _is_over(one: Resource, kept: set[tuple[str, str]], now: float) -> bool:
    if one.expires_at is not None:
        return one.expires_at + UNCLAIMED_S <= now
    gone = labels.maker_is_gone(one.labels)
    if gone is None:
        gone = one.ended and now - one.created > UNKNOWN_AFTER_S
    return gone and one.job not in kept


def tidied(client: EngineClient) -> list[str]:
    """Remove abandoned resources; return failures as lines of text. Never raises."""
    try:
        left = [one for one in reap(client) if one.problem]
        return [f"{one.kind} {one.name} of an earlier run could not be removed: {one.problem}" for one in left]
    except EngineUnavailable:
        return []  # the engine is lost, which its next user reports; the next run retries
    except LoomError as error:
        return [error.message]


def remove_run(client: EngineClient, run_id: str, job_id: str | None = None) -> list[Resource]:
    """Remove everything that a run, or one of its jobs, has in the engine; the caller ensures that it is over.

    ProviderError when the engine can't be queried.
    """
    marks = [f"{labels.RUN}={run_id}", *([f"{labels.JOB}={job_id}"] if job_id is not None else [])]
    return [_removed(client, one) for one in _found(client, f"what run {run_id} left in the engine", marks)]


def _found(client: EngineClient, what: str, marks: list[str]) -> Iterator[Resource]:
    """Sort by the order of removal."""
    api = client.api
    filters = {"label": marks}
    with translated(f"looking for {what}"):
        containers = retrying(lambda: api.containers(all=True, filters=filters))
        networks = retrying(lambda: api.networks(filters=filters))
        volumes = retrying(lambda: api.volumes(filters=filters))["Volumes"] or []
    for one in containers:
        name = str((one.get("Names") or [one["Id"][:12]])[0]).lstrip("/")
        yield Resource(
            kind="container",
            key=one["Id"],
            name=name,
            labels=one["Labels"],
            expires_at=labels.kept_until(name),
            ended=one["State"] in ("exited", "dead"),
            created=float(one["Created"]),
        )
    for one in networks:
        yield Resource(kind="network", key=one["Id"], name=one["Name"], labels=one["Labels"])
    for one in volumes:
        yield Resource(kind="volume", key=one["Name"], name=one["Name"], labels=one["Labels"] or {})


# -- how it goes --------------------------------------------------------------------------------------------------


def _removed(client: EngineClient, one: Resource) -> Resource:
    how = {"container": remove_container, "network": remove_network, "volume": remove_volume}[one.kind]
    try:
        how(client, one.key)
    except LoomError as error:
        conflict = getattr(error.__cause__, "status_code", None) == HTTPStatus.CONFLICT
        return replace(one, problem=error.message, in_use=conflict)
    return one


def remove_container(client: EngineClient, name: str) -> None:
    """Remove a container, running or not, with its anonymous volumes."""

    def call() -> None:
        if Traits(client).podman:
            # Docker kills a container on forced removal; podman asks it to end first and waits ten seconds.
            try:
                client.api.kill(name)
            except Exception as error:
                if getattr(error, "status_code", None) not in (404, 409, 500):
                    raise  # these: it is not running
        client.api.remove_container(name, v=True, force=True)

    _remove(f"the container {name}", call)


def remove_network(client: EngineClient, name: str, *, disconnect: bool = False) -> None:
    """`disconnect`: first detach remaining containers, which the engine may be slow to remove."""
    api = client.api

    def call() -> None:
        try:
            api.remove_network(name)
        except Exception as error:
            if not disconnect or getattr(error, "status_code", 404) == 404:
                raise
            with suppress(Exception):  # the next attempt reports the reason
                for container_id in api.inspect_network(name).get("Containers") or {}:
                    api.disconnect_container_from_network(container_id, name, force=True)
            raise

    _remove(f"the network {name}", call)


def remove_volume(client: EngineClient, name: str) -> None:
    _remove(f"the volume {name}", lambda: client.api.remove_volume(name, force=True))


def _remove(what: str, call: Callable[[], object]) -> None:
    """Remove permanently: a missing resource is no error, and temporary engine errors are retried."""

    def remove() -> None:
        try:
            call()
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status != 404 and not (status == 409 and "already in progress" in explanation(error)):
                raise

    try:
        with translated(f"removing {what}"):
            retrying(remove, REMOVAL)
    except EngineUnavailable as error:
        error.hint = error.hint or "the next loom removes it"
        raise


# -- images that loom built ---------------------------------------------------------------------------------------


class PrunedImage(Immutable):
    name: str
    image_id: str
    size: int


def prune_builds(client: EngineClient, *, before: float) -> tuple[PrunedImage, ...]:
    """Remove loom's built images last used before that time (seconds since the epoch), except those in use."""
    api = client.api
    removed = []
    with translated("looking for images that loom built"):
        for listed in api.images(labels.BUILD_REPOSITORY):
            found = api.inspect_image(listed["Id"])
            if datetime.fromisoformat(str(found["Metadata"]["LastTagTime"])).timestamp() >= before:
                continue
            removed += [
                PrunedImage(name=name, image_id=str(found["Id"]), size=int(found["Size"]))
                for name in found["RepoTags"]
                if name.startswith(f"{labels.BUILD_REPOSITORY}:") and _untagged(api, name)
            ]
    return tuple(removed)


def _untagged(api: Any, name: str) -> bool:
    """Remove this name of an image, unless it is in use, or already gone."""
    try:
        api.remove_image(name)
    except Exception as error:
        if getattr(error, "status_code", None) is None:
            raise
        return False
    return True
