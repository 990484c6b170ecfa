"""Removal of what loom made in the engine: the one rule of what may go, and the one way in which it goes.

Labels record which process made a resource, and for which job. A resource goes when its job or run is removed by name, when
the process that made it has ended (`reap`), or when the time is over until which it was kept on purpose. The resources of a
living loom are never touched, nor those of a job that is kept.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, LoomError
from loom.providers.docker import labels
from loom.providers.docker.capabilities import Traits
from loom.providers.docker.errors import explanation, translated
from loom.providers.docker.retries import REMOVAL, retrying

if TYPE_CHECKING:
    import docker

UNKNOWN_AFTER_S = 600.0
"""The age from which a container that has ended counts as left behind, when its maker can't be looked for from here."""

Kind = Literal["container", "network", "volume", "image"]


class Resource(Struct, frozen=True, kw_only=True):
    """Something in the engine that carries loom's labels."""

    kind: Kind
    key: str
    """Its id or name for the engine."""
    name: str
    labels: Mapping[str, str]
    expires_at: float | None = None
    """Until when it is kept on purpose."""
    ended: bool = False
    created: float = 0.0

    @property
    def job(self) -> tuple[str, str]:
        return self.labels.get(labels.RUN, ""), self.labels.get(labels.JOB, "")


class Removed(Struct, frozen=True):
    """A resource that was removed, or could not be (then `problem` says why)."""

    kind: Kind
    name: str
    job_id: str
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f": {self.problem}" if self.problem else "")


# -- what goes ----------------------------------------------------------------------------------------------------


def reap(client: docker.DockerClient, *, now: Callable[[], float] = time.time) -> list[Removed]:
    """Remove what dead looms left in the engine, and what was kept and has expired. ProviderError when it can't be asked."""
    found = list(_found(client, "what earlier runs left behind", [labels.PID], [f"{labels.CHECKPOINT}=1"]))
    kept = {one.job for one in found if one.kind == "container" and (one.expires_at or 0) > now()}
    done = []
    for one in found:
        if _may_go(one, kept, now()):
            try:
                done.append(_removed(client, one))
            except _InUse:
                continue  # another loom may be at it already; the next one finds it free
    return done


def _may_go(one: Resource, kept: set[tuple[str, str]], now: float) -> bool:
    if one.expires_at is not None:
        return one.expires_at <= now
    gone = labels.maker_is_gone(one.labels)
    if gone is None:
        gone = one.ended and now - one.created > UNKNOWN_AFTER_S
    return gone and one.job not in kept


def tidied(client: docker.DockerClient) -> list[str]:
    """Remove what dead looms left; what could not be removed, as lines of text. Never raises."""
    try:
        return [
            f"{one.kind} {one.name} of an earlier run could not be removed: {one.problem}"
            for one in reap(client)
            if one.problem
        ]
    except EngineUnavailable:
        return []  # it was lost meanwhile, which whoever uses it reports; the next loom looks again
    except LoomError as error:
        return [error.message]


def remove_run(client: docker.DockerClient, run_id: str, job_id: str | None = None) -> list[Removed]:
    """Remove all that a run, or one job of it, has in the engine; the caller has made sure that it is over.

    ProviderError when the engine can't be asked. The checkpoints of a single job stay.
    """
    marks = [f"{labels.RUN}={run_id}", *([f"{labels.JOB}={job_id}"] if job_id is not None else [])]
    of_images = None if job_id is not None else [*marks, f"{labels.CHECKPOINT}=1"]
    done = []
    for one in _found(client, f"what run {run_id} left in the engine", marks, of_images):
        try:
            done.append(_removed(client, one))
        except _InUse as error:
            done.append(Removed(one.kind, one.name, one.job[1], error.message))
    return done


def _found(client: docker.DockerClient, what: str, marks: list[str], of_images: list[str] | None) -> Iterator[Resource]:
    """In the order in which they can be removed."""
    api: Any = client.api
    filters = {"label": marks}
    with translated(f"looking for {what}"):
        containers = retrying(lambda: api.containers(all=True, filters=filters))
        networks = retrying(lambda: api.networks(filters=filters))
        volumes = retrying(lambda: api.volumes(filters=filters))["Volumes"] or []
        images = retrying(lambda: api.images(filters={"label": of_images})) if of_images else []
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
    for one in images:
        marks_of = one.get("Labels") or {}
        expires = str(marks_of.get(labels.EXPIRES, "0"))
        until = float(expires) if expires.isdigit() else math.inf
        # By its tag: one that a later checkpoint was made from goes when that one does.
        for name in one.get("RepoTags") or [one["Id"]]:
            yield Resource(kind="image", key=name, name=name, labels=marks_of, expires_at=until)


# -- how it goes --------------------------------------------------------------------------------------------------


class _InUse(LoomError):
    """Something else uses it, or removes it at this moment."""


def _removed(client: docker.DockerClient, one: Resource) -> Removed:
    how = {
        "container": remove_container,
        "network": remove_network,
        "volume": remove_volume,
        "image": _remove_image,
    }[one.kind]
    try:
        how(client, one.key)
        problem = ""
    except LoomError as error:
        if getattr(error.__cause__, "status_code", None) == HTTPStatus.CONFLICT:
            raise _InUse(error.message) from error
        problem = error.message
    return Removed(one.kind, one.name, one.job[1], problem)


def remove_container(client: docker.DockerClient, name: str) -> None:
    """Running or not, with its anonymous volumes."""
    api: Any = client.api

    def call() -> None:
        if Traits(client).podman:
            # Docker kills what it is forced to remove; podman asks it to end, and waits ten seconds for that.
            try:
                api.kill(name)
            except Exception as error:
                if getattr(error, "status_code", None) not in (404, 409, 500):
                    raise  # those: it does not run
        api.remove_container(name, v=True, force=True)

    _remove(f"the container {name}", call)


def remove_network(client: docker.DockerClient, name: str, *, disconnect: bool = False) -> None:
    """`disconnect`: take off first what is still on it, such as a container that the engine is slow to remove."""
    api: Any = client.api

    def call() -> None:
        try:
            api.remove_network(name)
        except Exception as error:
            if not disconnect or getattr(error, "status_code", 404) == 404:
                raise
            with suppress(Exception):  # the next attempt has the reason
                for container_id in api.inspect_network(name).get("Containers") or {}:
                    api.disconnect_container_from_network(container_id, name, force=True)
            raise

    _remove(f"the network {name}", call)


def remove_volume(client: docker.DockerClient, name: str) -> None:
    api: Any = client.api
    _remove(f"the volume {name}", lambda: api.remove_volume(name, force=True))


def _remove_image(client: docker.DockerClient, name: str) -> None:
    api: Any = client.api
    _remove(f"the image {name}", lambda: api.remove_image(name, force=True))


def _remove(what: str, call: Callable[[], object]) -> None:
    """For good: what is not there is no error, and the engine's hiccups are waited out."""

    def remove() -> None:
        try:
            call()
        except Exception as error:
            status = getattr(error, "status_code", None)
            if status != 404 and not (status == 409 and "already in progress" in explanation(error)):
                raise

    with translated(f"removing {what}"):
        retrying(remove, REMOVAL)


class Removals:
    """Removal in the background: whoever waits for a job does not wait for it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._problems: list[str] = []

    def start(self, name: str, remove: Callable[[], Iterable[str] | None]) -> None:
        """Call `remove` in a thread of its own; what it raises or returns are problems."""

        def run() -> None:
            try:
                self.failed(remove() or ())
            except LoomError as error:
                self.failed([str(error)])

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def failed(self, problems: Iterable[str]) -> None:
        with self._lock:
            self._problems += problems

    def wait(self, cancel: Cancel) -> None:
        """Until all that was started has ended, or the second request of `cancel` has ended the waiting."""
        with self._lock:
            threads, self._threads = self._threads, []
        for thread in threads:
            if not cancel.join(thread):
                self.failed([f"not waited for any longer: {thread.name}; the next loom removes it"])

    def problems(self) -> list[str]:
        """What could not be removed since the last call."""
        with self._lock:
            problems, self._problems = self._problems, []
        return problems


# -- images that loom built ---------------------------------------------------------------------------------------


class PrunedImage(Struct, frozen=True, kw_only=True):
    name: str
    image_id: str
    size: int


def prune_builds(client: docker.DockerClient, *, before: float) -> tuple[PrunedImage, ...]:
    """Remove what loom built and last used before that time (seconds since the epoch); what a container uses stays."""
    api: Any = client.api
    removed = []
    with translated("looking for images that loom built"):
        for listed in api.images(labels.BUILD_REPOSITORY):
            found = api.inspect_image(listed["Id"])
            if datetime.fromisoformat(str(found["Metadata"]["LastTagTime"])).timestamp() < before:
                removed += [
                    PrunedImage(name=name, image_id=str(found["Id"]), size=int(found["Size"]))
                    for name in untagged(client, found["RepoTags"])
                ]
    return tuple(removed)


def untagged(client: docker.DockerClient, names: Iterable[str]) -> Iterator[str]:
    """Remove these names where loom's builds have given them; the names that went: one in use stays."""
    api: Any = client.api
    for name in names:
        if name.startswith(f"{labels.BUILD_REPOSITORY}:"):
            try:
                api.remove_image(name)
            except Exception as error:
                if getattr(error, "status_code", None) is None:
                    raise
                continue  # in use, or gone already
            yield name
