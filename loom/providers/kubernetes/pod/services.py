"""A job's services: containers of its pod. The kubelet probes them, loom follows their logs."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from msgspec import field

from loom.cancel import Cancel
from loom.errors import LoomError, ServiceError
from loom.plan.model import Resolved, Service
from loom.providers.base import OpenedServices
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Cluster, Gone, Json, is_transient
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.pod.spec import PodServiceContainer, host_names
from loom.providers.services import OnDied, Output, ReadyLine, StartedService, addresses, describe_end, named_port
from loom.util.retrying import Policy, retrying

_FOLLOW = Policy(when=is_transient, limit_s=300.0, first_wait_s=0.5)
"""The repetition of a log whose connection breaks."""


class PodServices(OpenedServices, kw_only=True):
    """They start with the pod of their job, in `Provider.open`, and are kept with it."""

    containers: tuple[PodServiceContainer, ...]
    output: Output
    cancel: Cancel
    on_died: OnDied
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
    """Return the container of each service. ServiceError for a service that a pod can't have."""
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


class FollowedService(StartedService):
    """Its log is followed from its beginning; a lost connection goes on where it was."""

    def __init__(self, cluster: Cluster, pods: Pods, pod: str, one: PodServiceContainer, services: PodServices) -> None:
        super().__init__(one.service, services.output, services.cancel)
        self._cluster = cluster
        self._pods = pods
        self._pod = pod
        self.container = one.container
        self._line = None if one.service.ready.log is None else ReadyLine(one.service.ready.log)
        if self._line is not None:
            self.lines.on_line = self._line.see
        self._answer: Any = None
        self._closing = Cancel()
        self._last = ""
        self._thread = threading.Thread(target=self._follow, name=f"log of {one.container}", daemon=True)

    def follow(self) -> None:
        """Wait until it has started, and follow its log. ServiceError when it does not start."""
        name = self.service.name

        def known(pod: Json | None) -> bool:
            state = states.state_of(pod, self.container)
            refused = states.refusal(pod, {self.container: name})
            return self.cancel.requested or "running" in state or "terminated" in state or refused is not None

        seen = self._pods.wait_for(self._pod, known, self.service.ready.timeout_s + 600.0)
        self.check()
        if (refused := states.refusal(seen, {self.container: f"service {name}"})) is not None:
            raise ServiceError(refused.message, hint=refused.hint, code=refused.code)
        self._thread.start()

    def ended(self) -> str:
        if ended := _ended(self._pods.get(self._pod), self.container):
            self._thread.join(2.0)
        return ended

    def is_ready(self) -> bool:
        return self._is_ready(self._pods.get(self._pod))

    def _is_ready(self, seen: Json | None) -> bool:
        return states.is_ready(seen, self.container) and not (self._line and self._line.missing)

    def why(self) -> str:
        told = "; ".join(text for text in states.events_of(self._cluster, self._pod) if text.startswith("Unhealthy"))
        return told or (self._line and self._line.missing) or "the cluster does not say why"

    def pause(self, limit_s: float) -> object:
        return self._pods.wait_for(
            self._pod, lambda seen: bool(_ended(seen, self.container)) or self._is_ready(seen), limit_s
        )

    def _follow(self) -> None:
        try:
            retrying(
                partial(self._once, follow=True),
                _FOLLOW,
                tell=lambda why: self.say(f"its log is asked for again: {why}"),
                worked=lambda: self._answer is not None,
                cancel=self._closing,
            )
        except Gone:
            pass
        except LoomError as error:
            if not self._closing.requested:
                self.say(f"its log can't be read: {error.message}")
        if self._closing.requested:
            with contextlib.suppress(LoomError):
                self._once(since_seconds=60)  # what was printed, and had not arrived
        self.lines.end()

    def _once(self, *, follow: bool = False, **more: Any) -> None:
        self._answer = None
        answer: Any = self._cluster.lines(
            "reading the log of a service",
            "read_namespaced_pod_log",
            self._pod,
            container=self.container,
            follow=follow,
            timestamps=True,
            **more,
        )
        if follow:
            self._answer = answer
            if self._closing.requested:  # `close` has not seen it
                answer.close()
        for line in answer:
            stamp, _, text = line.decode("utf-8", "surrogateescape").partition(" ")
            if stamp > self._last:  # nanoseconds: what a second connection repeats is left out
                self._last = stamp
                self.lines.feed("stdout", text.encode("utf-8", "surrogateescape") + b"\n")

    def close(self) -> None:
        self._closing.request()
        if (answer := self._answer) is not None:
            answer.close()
        self._thread.join(5.0)


def wait_until(cluster: Cluster, pods: Pods, pod: str, services: PodServices) -> None:
    """Follow the services' logs, and wait until each is ready. ServiceError."""
    begun = time.monotonic()
    for one in services.containers:
        started = FollowedService(cluster, pods, pod, one, services)
        started.follow()
        services.followed.append(started)
        started.wait(begun=begun)


def _ended(pod: Json | None, container: str) -> str:
    """Describe how a container ended; empty while it may still run."""
    ended = states.state_of(pod, container).get("terminated")
    if ended is None:
        return ""
    return describe_end(ended.get("exitCode"), oom=ended.get("reason") == "OOMKilled")


@contextlib.contextmanager
def watched(pods: Pods, pod: str, services: PodServices) -> Iterator[None]:
    """Report, within the block, services that end."""
    left = threading.Event()

    def watch() -> None:
        running = {one.container: one for one in services.followed}
        while running and not left.is_set():
            try:
                seen = pods.wait_for(pod, lambda pod: left.is_set() or any(_ended(pod, name) for name in running), 2.0)
            except LoomError as error:
                services.output.say(f"the services are not watched any more: {error.message}")
                return
            for container, one in list(running.items()):
                if _ended(seen, container) and (ended := one.ended()) and not left.is_set():
                    del running[container]
                    one.report(ended, services.on_died)

    thread = threading.Thread(target=watch, name=f"services of {pod}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join(5.0)
