"""A job's services: containers of its pod. The kubelet probes them, loom follows their logs."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import field

from loom.cancel import Cancel
from loom.errors import LoomError, ServiceError
from loom.plan.model import Service
from loom.providers.base import OpenedServices, Resolved
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.pod.spec import PodServiceContainer, host_names
from loom.providers.services import Lines, Output, addresses, canceled, named_port, wait_for
from loom.workflow.patterns import compile_pattern

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster
    from loom.providers.kubernetes.cluster.pods import Pods

_LOOK_S = 1.0


class PodServices(OpenedServices, kw_only=True):
    """They start with the pod of their job, in `Provider.open`, and are kept with it."""

    containers: tuple[PodServiceContainer, ...]
    output: Output
    cancel: Cancel
    on_died: Callable[[str, str], None]
    followed: list[FollowedService] = field(default_factory=list)

    def leave(self) -> None:
        """Read the logs up to now, and stop. Call before the pod is removed with its logs."""
        for one in self.followed:
            one.close()
        self.followed.clear()

    def close(self) -> None:
        self.leave()
        self.output.close()


def containers_of(services: Sequence[Service], images: Sequence[Resolved]) -> tuple[PodServiceContainer, ...]:
    """Give each service a container. ServiceError for what a pod can't have."""
    found: list[PodServiceContainer] = []
    for number, (service, image) in enumerate(zip(services, images, strict=True)):
        if service.secrets:
            raise ServiceError(
                f"service {service.name} takes secrets: a pod can't have such a service",
                hint="run this job in Docker (`runner_pool`)",
                code="POD_UNSUPPORTED",
            )
        slug = re.sub(r"[^a-z0-9]+", "-", service.name.lower()).strip("-")[:40] or "service"
        found.append(
            PodServiceContainer(service=service, container=f"svc-{number}-{slug}".rstrip("-"), image=image.image_id)
        )
    return tuple(found)


def variables(services: Sequence[Service]) -> dict[str, str]:
    """Return the variables with their addresses for a job's steps; the same names as for other providers."""
    found: dict[str, str] = {}
    for service in services:
        port = named_port(service.ready)
        host = next(iter(host_names(service)), "localhost")
        found |= addresses(service.name, host, [port] if port is not None else [])
    return found


class FollowedService:
    """Implements `services.StartedService`. Its log is followed from its beginning; a lost connection goes on where it was."""

    def __init__(self, cluster: Cluster, pods: Pods, pod: str, one: PodServiceContainer, services: PodServices) -> None:
        self.service = one.service
        self._cluster = cluster
        self._pods = pods
        self._pod = pod
        self._container = one.container
        self._services = services
        pattern = one.service.ready.log
        self._pattern = compile_pattern(f"/{pattern}/") if pattern is not None else None
        self._seen = pattern is None
        """A line matched `ready: log`."""
        self.lines = Lines(one.service.name, services.output, self._look_at)
        self._answer: Any = None
        self._closing = threading.Event()
        self._last = ""
        self._thread = threading.Thread(target=self._follow, name=f"log of {one.container}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        self._services.output.check()
        if self._services.cancel.requested:
            raise canceled(self.service)

    def ended(self) -> str:
        if ended := _ended(self._pods.get(self._pod), self._container):
            self._thread.join(2.0)
        return ended

    def is_ready(self) -> bool:
        return self._is_ready(self._pods.get(self._pod))

    def _is_ready(self, seen: Mapping[str, Any] | None) -> bool:
        return states.is_ready(seen, self._container) and self._seen

    def why(self) -> str:
        told = "; ".join(text for text in states.events_of(self._cluster, self._pod) if text.startswith("Unhealthy"))
        ready = self.service.ready
        return told or (f"no line matches {ready.log!r}" if ready.log else "the cluster does not say why")

    def pause(self, limit_s: float) -> object:
        return self._pods.wait_for(
            self._pod, lambda seen: bool(_ended(seen, self._container)) or self._is_ready(seen), limit_s
        )

    def _look_at(self, line: str) -> None:
        self._seen = self._seen or (self._pattern is not None and self._pattern.found_in(line))

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                self._once(follow=True)
                break
            except LoomError as error:
                if error.code == "POD_GONE":
                    break
                self._closing.wait(_LOOK_S)
        else:
            with contextlib.suppress(LoomError):
                self._once(since_seconds=60)  # what was printed, and had not arrived
        self.lines.end()

    def _once(self, *, follow: bool = False, **more: Any) -> None:
        answer: Any = self._cluster.lines(
            "reading the log of a service",
            "read_namespaced_pod_log",
            self._pod,
            container=self._container,
            follow=follow,
            timestamps=True,
            **more,
        )
        if follow:
            self._answer = answer
            if self._closing.is_set():  # `close` has not seen it
                answer.close()
        for line in answer:
            stamp, _, text = line.decode("utf-8", "surrogateescape").partition(" ")
            if stamp > self._last:  # nanoseconds: what a second connection repeats is left out
                self._last = stamp
                self.lines.feed("stdout", text.encode("utf-8", "surrogateescape") + b"\n")

    def close(self) -> None:
        self._closing.set()
        if self._answer is not None:
            self._answer.close()
        self._thread.join(5.0)


def wait_until(cluster: Cluster, pods: Pods, pod: str, services: PodServices) -> None:
    """Follow the services' logs, and wait until each is ready. ServiceError."""
    begun = time.monotonic()
    for one in services.containers:
        started = _followed(cluster, pods, pod, one, services)
        wait_for(started, partial(services.output.say_of, one.service.name), begun=begun)


def _followed(
    cluster: Cluster, pods: Pods, pod: str, one: PodServiceContainer, services: PodServices
) -> FollowedService:
    """Wait until a service has started, and follow its log."""
    service = one.service
    seen = pods.wait_for(
        pod,
        lambda pod: (
            services.cancel.requested
            or bool({"running", "terminated"} & states.state_of(pod, one.container).keys())
            or states.refusal(pod, {one.container: service.name}) is not None
        ),
        service.ready.timeout_s + 600.0,
    )
    if services.cancel.requested:
        raise canceled(service)
    if (refused := states.refusal(seen, {one.container: f"service {service.name}"})) is not None:
        raise ServiceError(refused.message, hint=refused.hint, code=refused.code)
    services.followed.append(FollowedService(cluster, pods, pod, one, services))
    return services.followed[-1]


def _ended(pod: Mapping[str, Any] | None, container: str) -> str:
    """Describe how a container ended; empty while it may still run."""
    ended = states.state_of(pod, container).get("terminated")
    if ended is None:
        return ""
    out_of_memory = ": it was out of memory" if ended.get("reason") == "OOMKilled" else ""
    return f"ended with exit code {ended.get('exitCode')}{out_of_memory}"


@contextlib.contextmanager
def watched(pods: Pods, pod: str, services: PodServices) -> Iterator[None]:
    """Report, within the block, services that end."""
    left = threading.Event()

    def watch() -> None:
        running = {one.container: one.service.name for one in services.containers}
        while running and not left.is_set():
            seen = pods.wait_for(pod, lambda pod: left.is_set() or any(_ended(pod, name) for name in running), 2.0)
            for container, name in list(running.items()):
                if (ended := _ended(seen, container)) and not left.is_set():
                    del running[container]
                    services.output.say(f"{name}: {ended}")
                    services.on_died(name, ended.removeprefix("ended with "))

    thread = threading.Thread(target=watch, name=f"services of {pod}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join(5.0)
