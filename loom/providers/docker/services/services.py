"""A job's services: containers beside it, on a network of its own, ready before its first step.

Each service has a thread that gets its image, starts it and waits until it is ready, and one that follows its output.
Whichever way the block is left, containers, their volumes and the network are gone, and the threads have ended.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import docker.errors
from msgspec import Struct, field
from msgspec.structs import replace

from loom.errors import ImageError, LoomError, NotServing, ProviderError, ServiceError
from loom.plan import model
from loom.providers import labels
from loom.providers import services as any_services
from loom.providers.base import OpenedServices, ResolveRequest
from loom.providers.docker.container.cleanup import remove_container, remove_network
from loom.providers.docker.container.create import HARDENED_SERVICE, limits_of
from loom.providers.docker.engine.client import EngineClient, EngineSocket
from loom.providers.docker.engine.errors import engine_errors, explanation
from loom.providers.docker.engine.retries import asked, retrying, start_failed, starting
from loom.providers.docker.images.images import Images
from loom.providers.docker.images.named import ResolvedImage
from loom.providers.docker.services.readiness import NotReady, ProbeTarget, ports_of, probe_of
from loom.providers.docker.session.attach import attached, follow
from loom.providers.services import Lines, OnDied, Output
from loom.util.within import start_thread, wait_until

# Reads one line from standard input, shell code that stores the secrets, then runs the container's command.
_TAKES_SECRETS = (
    "/bin/sh",
    "-c",
    'IFS= read -r line && eval "$line" || { echo "loom: the secrets did not arrive" >&2; exit 125; }; exec "$@" </dev/null',
    "loom",
)
_LEAVE_WITHIN_S = 10.0
_LED_WITHIN_S = 3600.0
"""The first service of a group may have to pull its image."""


class ServiceGroup(Struct, kw_only=True):
    """The shared settings of a job's services."""

    client: EngineClient
    images: Images
    request: ResolveRequest
    labels: Mapping[str, str]
    output: Output
    """Gets the services' lines, each behind the service's name."""
    network: str
    """Its name, with which those of the containers begin."""
    isolated: bool = False
    """The network has no way out."""
    hardened: bool = False
    proxies: Mapping[str, str] = {}
    shared: frozenset[str] = frozenset()
    """The names of all services, if they share the network stack of the first one, which has them all; else empty."""
    leader: str = ""
    """The container of the first service."""
    led: threading.Event = field(default_factory=threading.Event)
    """`leader` is set."""
    over: threading.Event = field(default_factory=threading.Event)
    """One service failed, so the others need not become ready; or the block is left."""
    on_died: OnDied | None = None
    early: list[Callable[[OnDied], None]] = []
    """Report the ends of services that ended before all were ready: before `on_died` is set."""
    guard: threading.Lock = field(default_factory=threading.Lock)
    """For `on_died` and `early`."""


class ServiceContainer(any_services.StartedService):
    """One service of a job. `start` returns when it is ready."""

    image: ResolvedImage
    variables: Mapping[str, str]
    """With its address, for the job's steps."""

    def __init__(self, group: ServiceGroup, index: int, service: model.Service, secrets: Mapping[str, bytes]) -> None:
        super().__init__(service, group.output, group.request.cancel)
        self._leads = bool(group.shared) and index == 0
        """It is the first one of a group that shares a network stack."""
        self._group = group
        self._api = group.client.api
        self._name = f"{group.network}-{index}-{re.sub('[^A-Za-z0-9_.-]+', '-', service.name)[:40]}"
        self._values = secrets
        self._secrets = b""
        """The shell code that stores its secrets; empty without any."""
        self._guard = threading.Lock()
        self._made: list[str] = []
        self._outputs: list[EngineSocket] = []
        self._follower = threading.Thread()
        self.container_id, self._why = "", ""
        self._is_ready: Callable[[], None] = lambda: None
        """Raises NotReady."""

    def start(self) -> None:
        service = self.service
        self._secrets = any_services.secrets_line(service, self._values)
        self.image = image = self._image()
        self.check()
        doing = f"reading the image of service {service.name}"
        config = asked(doing, lambda: self._api.inspect_image(image.image_id)).get("Config") or {}
        probe, ports = probe_of(service, config), ports_of(service, config)
        self.lines.on_line = probe.see_line
        self.say(f"starting {image.name} as {', '.join(service.aliases) or service.name}")
        if self._group.shared and not self._leads:
            wait_until(self._can_follow, limit_s=_LED_WITHIN_S, every_s=0.05, pause=self._group.led.wait)
        container_id = starting(
            lambda: self._create(image, config),
            lambda made: self._start(made, image),
            lambda made: remove_container(self._group.client, made),
            self.cancel,
        )
        if self._leads:
            self._group.leader = container_id
            self._group.led.set()
        addressed = self._group.leader or container_id
        self.container_id, target = (
            container_id,
            ProbeTarget(self._group.client, container_id, self._group.network, addressed),
        )
        self._is_ready = lambda: probe.check(target)
        self.wait(begun=time.monotonic(), by=lambda: f" ({probe.what})")
        self.variables = any_services.addresses(service.name, next(iter(service.aliases), service.name), ports)

    def _can_follow(self) -> bool:
        self.check()
        return self._group.led.is_set()

    def _image(self) -> ResolvedImage:
        # Concurrent pulls and builds: their lines are prefixed too.
        getting = Lines(self.service.name, self._group.output)
        try:
            return self._group.images.resolve(self.service.image, replace(self._group.request, on_output=getting.feed))
        except ImageError as error:
            raise error.named_at(self.service.position) from error
        finally:
            getting.end()

    def check(self) -> None:
        super().check()
        if self._group.over.is_set():
            raise ServiceError(f"service {self.service.name} was given up, since another one failed")

    def _create(self, image: ResolvedImage, config: Mapping[str, Any]) -> str:
        service, group = self.service, self._group
        entrypoint: Sequence[str] | None = service.entrypoint
        entrypoint = entrypoint if entrypoint is not None else service.image.entrypoint
        command: Sequence[str] | None = service.command
        variables = dict(service.variables)
        marks = {**group.labels, labels.ROLE: "service", labels.SERVICE: service.name}
        host = {**(HARDENED_SERVICE if group.hardened else {}), **limits_of(service.resources)}
        if self._secrets:
            if entrypoint is None:  # one of the workflow's cancels the image's command
                command = command if command is not None else config.get("Cmd")
                entrypoint = config.get("Entrypoint")
            entrypoint, command = [*_TAKES_SECRETS, *(entrypoint or ())], list(command or ())
            host["tmpfs"] = {**host.get("tmpfs", {}), any_services.FOLDER: "mode=1777,size=4m"}
            files = [secret.name for secret in service.secrets if secret.file]
            variables |= {f"{name}_FILE": f"{any_services.FOLDER}/{name}" for name in files}
            marks[labels.HANDED_OVER] = "true"
        aliases = list(dict.fromkeys((*service.aliases, service.name, *group.shared)))
        where: dict[str, Any] = {
            "networking_config": self._api.create_networking_config(
                {group.network: self._api.create_endpoint_config(aliases=aliases)}
            )
        }
        if group.leader:
            where, host["network_mode"] = {}, f"container:{group.leader}"
        try:
            with engine_errors(), self._guard:
                created = self._api.create_container(
                    image.image_id,
                    entrypoint=None if entrypoint is None else list(entrypoint),
                    command=None if command is None else list(command),
                    user=service.user or service.image.user,
                    environment={**group.proxies, **variables},
                    name=self._name,
                    labels=marks,
                    stdin_open=bool(self._secrets),
                    host_config=self._api.create_host_config(**host),
                    **where,
                )
                self._made.append(str(created["Id"]))
        except docker.errors.APIError as error:
            raise ServiceError(f"service {service.name} could not be created: {explanation(error)}") from error
        return str(created["Id"])

    def _start(self, container_id: str, image: ResolvedImage) -> str:
        name = self.service.name
        # Attach before the start: the first output may explain its end.
        output = attached(self._group.client, container_id, *(("stdin",) if self._secrets else ()), "stdout", "stderr")
        self._follower = threading.Thread(
            target=self._follow, args=(container_id, output), name=f"loom-log-{name}", daemon=True
        )
        self._outputs.append(output)
        self._follower.start()
        try:
            self._api.start(container_id)
        except Exception as error:
            if failed := start_failed(error, f"service {name} could not be started"):
                output.close()
                self._group.output.say(failed.message)
                raise failed from error
            if isinstance(error, docker.errors.APIError):
                shell = " Its secrets are handed over by the image's own /bin/sh, which it has to have."
                raise ServiceError(
                    f"service {name} could not be started: {explanation(error)}",
                    hint=f"Check its command, entrypoint and user against the image {image.name}."
                    + (shell if self._secrets else ""),
                ) from error
            with engine_errors():
                raise
        if self._secrets:
            output.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 60, 0))
            with suppress(OSError):  # a service that has ended does not take them; its end is reported elsewhere
                output.sendall(self._secrets)  # no limit: set in the line before the last
        return container_id

    # Output

    def _follow(self, container_id: str, output: EngineSocket) -> None:
        lines = self.lines
        try:
            follow(output, lines.feed)
        except Exception as error:  # noqa: BLE001  a lost stream must not end the job's thread; it is printed instead
            if not self._group.over.is_set():
                self.say(f"its output was lost: {error}")
        finally:
            output.close()
        lines.end()
        with self._group.guard:
            on_died = self._group.on_died
            if on_died is None:
                self._group.early.append(partial(self._report_end, container_id))
        if on_died is not None:
            self._report_end(container_id, on_died)

    def _report_end(self, container_id: str, on_died: OnDied) -> None:
        if self._group.over.is_set():
            return
        # The stream may close just before the engine records the end.
        ended = wait_until(lambda: self._describe_end(container_id), limit_s=2.0, every_s=0.05)
        if ended and not self._group.over.is_set():
            self.report(ended, on_died)

    def release(self, limit_s: float) -> None:
        """Stop following its output; it keeps running."""
        for output in self._outputs:
            output.close()
        self.join(limit_s)

    def join(self, limit_s: float) -> None:
        """Wait for the end of its output."""
        if self._follower.ident is not None:
            self._follower.join(limit_s)

    def containers(self) -> list[str]:
        """Return the ids of all its resources."""
        with self._guard:
            return list(self._made)

    # Waiting

    def _describe_end(self, container_id: str) -> str:
        """Describe its end; empty while it runs."""
        try:
            state = retrying(lambda: self._api.inspect_container(container_id))["State"]
        except docker.errors.NotFound:
            return "was removed by someone else"
        except Exception as error:  # noqa: BLE001  whatever keeps the engine from answering, the service is not there
            return f"is lost with the engine: {explanation(error)}"
        if state["Running"] or state.get("Restarting"):
            return ""
        return any_services.describe_end(state["ExitCode"], oom=bool(state.get("OOMKilled")))

    def is_ready(self) -> bool:
        try:
            with engine_errors():
                self._is_ready()
        except NotReady as reason:
            self._why = str(reason)
        except docker.errors.APIError as error:
            self._why = explanation(error)
        else:
            return True
        return False

    def why(self) -> str:
        return self._why

    def ended(self) -> str:
        if ended := self._describe_end(self.container_id):
            self.join(2.0)
        return ended

    def pause(self, limit_s: float) -> object:
        return self._group.over.wait(limit_s)  # a failed neighbour ends it


# All of a job


@contextmanager
def services(
    group: ServiceGroup,
    wanted: Sequence[model.Service],
    on_died: OnDied,
) -> Iterator[OpenedServices]:
    """Yield when every service is ready. ServiceError (its hint holds the last lines) when one ends or does not get
    ready in its time, ImageError when an image can't be had. The group's output is not written to any more when the block has
    been left. `on_died`: called for those that end after they were ready.
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
        values = group.request.secrets.services or ({},) * len(wanted)
        each = enumerate(zip(wanted, values, strict=True))
        containers = [ServiceContainer(group, index, *one) for index, one in each]
        try:
            _start_all(group, containers)
            with group.guard:
                group.on_died = on_died
            for report in group.early:
                report(on_died)
            yield OpenedServices(
                network_id=f"container:{group.leader}" if group.leader else network_id,
                images=[one.image for one in containers],
                variables={name: value for one in containers for name, value in one.variables.items()},
                container_ids={one.service.name: one.container_id for one in containers},
                keep=kept.set,
                blamed_for=blamed_for,
            )
        finally:
            group.over.set()
            if kept.is_set():
                for one in containers:
                    one.release(_LEAVE_WITHIN_S)
            else:
                _remove(group, containers, network_id)
    finally:
        group.output.close()
        group.client.close()
    group.output.check()


def _start_all(group: ServiceGroup, containers: Sequence[ServiceContainer]) -> None:
    """Start all at once: a service may need another one to become ready."""
    failed: list[BaseException] = []

    def start(one: ServiceContainer) -> None:
        try:
            one.start()
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            failed.append(error)
            group.over.set()

    threads = [
        threading.Thread(target=start, args=(one,), name=f"loom-service-{one.service.name}", daemon=True)
        for one in containers
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            if not group.request.cancel.join(thread):
                raise ServiceError("services were still starting after the second interrupt", code="CANCELED")
    except BaseException:
        # An interrupt in this thread: nothing may be created during removal.
        group.over.set()
        for thread in threads:
            thread.join(_LEAVE_WITHIN_S)
        raise
    if failed:
        raise failed[0]  # the others were given up after it


def _remove(group: ServiceGroup, containers: Sequence[ServiceContainer], network_id: str) -> None:
    """Remove the containers. Never raises: failures are printed, and the labels lead the next clean-up to them."""

    def attempt(remove: Callable[[], None]) -> None:
        try:
            remove()
        except LoomError as error:
            group.output.say(error.message)

    removals = [partial(remove_container, group.client, made) for one in containers for made in one.containers()]
    for thread in [start_thread(partial(attempt, remove), name="remove a service") for remove in removals]:
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
