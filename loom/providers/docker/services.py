"""A job's services: containers beside it, on a network of its own, ready before its first step.

    with services(client, job.services, ...) as network:
        ...the job runs with network.network_id; `db:5432` is the service with the alias `db`...

Each service has a thread that gets its image, starts it and waits until it is ready, and one that follows its output.
Whichever way the block is left, containers, their volumes and the network are gone, and the threads have ended.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

import docker
import docker.errors
from msgspec import Struct

from loom import plan
from loom.cancel import Cancel
from loom.errors import ServiceError
from loom.providers.docker.attach import Demultiplexer, Hijacked
from loom.providers.docker.client import explanation, start_failed, starting
from loom.providers.docker.images import ClientFactory, Images, ResolvedImage
from loom.providers.docker.labels import ROLE
from loom.providers.docker.ready import Inside, NotReady, Probe, probe_of
from loom.providers.docker.removal import end_and_remove
from loom.providers.docker.streams import engine_errors
from loom.results import OnOutput, Stream

LAST_LINES = 20
SERVICE = "loom.service"
"""The label that names a service's container among those of its job."""
_LONGEST_LINE = 65536
_LEAVE_WITHIN_S = 10.0
_READ = 65536

OnDied = Callable[[str, str], None]
"""Told the name of a service that ended after it was ready, and how ("exit code 3"); once per service, from a thread of
its own."""


class RunningService(Struct, frozen=True, kw_only=True):
    name: str
    aliases: tuple[str, ...]
    container_id: str
    container_name: str
    image: ResolvedImage


class ServiceNetwork(Struct, frozen=True, kw_only=True):
    """The network that the job's container joins, and what is already on it."""

    network_id: str
    network_name: str
    services: tuple[RunningService, ...] = ()

    keep: Callable[[], None] = lambda: None
    """Leave the services and the network running when the block is left; who removes the job's container removes them."""

    @property
    def images(self) -> tuple[ResolvedImage, ...]:
        return tuple(service.image for service in self.services)


@contextmanager
def services(
    client_factory: ClientFactory,
    wanted: tuple[plan.Service, ...],
    *,
    run_id: str,
    job_id: str,
    images: Images,
    workspace: Path,
    labels: Mapping[str, str],
    on_output: OnOutput,
    cancel: Cancel,
    on_died: OnDied | None = None,
    isolated: bool = False,
) -> Iterator[ServiceNetwork]:
    """Yields when every service is ready. ServiceError (its hint holds the last lines) when one ends or does not get
    ready in its time, ImageError when an image can't be had. `on_output` gets the services' lines, each behind the
    service's name, and is not called any more when the block has been left. `isolated`: the network has no way out."""
    client = client_factory()
    name = f"loom-{run_id}-{job_id}-{token_hex(3)}"
    output = _Output(on_output)
    try:
        network_id = _create_network(client, name, labels, isolated=isolated)
        group = _Group(client, name, images=images, workspace=workspace, labels=labels, output=output, cancel=cancel)
        try:
            running = group.start(wanted)
            group.on_died = on_died
            yield ServiceNetwork(network_id=network_id, network_name=name, services=running, keep=group.keep)
        finally:
            if group.kept:
                group.let_go()
            else:
                group.remove()
                _remove_network(client, network_id, output)
    finally:
        output.close()
        client.close()


class _Output:
    """Lines from several threads, one at a time, and none after `close`."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._guard = threading.Lock()
        self._closed = False

    def line(self, stream: Stream, text: bytes) -> None:
        with self._guard:
            if not self._closed:
                self._on_output(stream, text + b"\n")

    def say(self, text: str) -> None:
        self.line("stdout", text.encode())

    def close(self) -> None:
        with self._guard:
            self._closed = True


class _Lines:
    """A service's output: handed on line by line behind its name; the last lines are kept, the probe is shown each."""

    def __init__(self, name: str, output: _Output, on_line: Callable[[str], None]) -> None:
        self._prefix = f"{name} | ".encode()
        self._output = output
        self._on_line = on_line
        self._half: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self.last: deque[str] = deque(maxlen=LAST_LINES)

    def feed(self, stream: Stream, data: bytes) -> None:
        *lines, half = (self._half[stream] + data).split(b"\n")
        if len(half) > _LONGEST_LINE:
            lines.append(half)
            half = b""
        self._half[stream] = half
        for line in lines:
            self._hand_on(stream, line)

    def end(self) -> None:
        for stream, half in self._half.items():
            if half:
                self._hand_on(stream, half)
                self._half[stream] = b""

    def _hand_on(self, stream: Stream, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        self._output.line(stream, self._prefix + line)
        text = line.decode(errors="replace")
        self.last.append(text)
        self._on_line(text)


class _Group:
    """The services of one job, while they are being started, watched and removed."""

    def __init__(
        self,
        client: docker.DockerClient,
        network: str,
        *,
        images: Images,
        workspace: Path,
        labels: Mapping[str, str],
        output: _Output,
        cancel: Cancel,
    ) -> None:
        self._client = client
        self._network = network
        self._images = images
        self._workspace = workspace
        self._labels = labels
        self._output = output
        self._cancel = cancel
        self._guard = threading.Lock()
        self._containers: list[str] = []
        self._followers: list[threading.Thread] = []
        self._give_up = threading.Event()
        self._closing = threading.Event()
        self._outputs: list[Hijacked] = []
        self.on_died: OnDied | None = None
        self.kept = False

    def keep(self) -> None:
        self.kept = True

    def let_go(self) -> None:
        """Stop following what goes on running."""
        self._closing.set()
        self._give_up.set()
        for output in self._outputs:
            output.close()
        for thread in self._followers:
            thread.join(_LEAVE_WITHIN_S)

    def start(self, wanted: tuple[plan.Service, ...]) -> tuple[RunningService, ...]:
        """All at once: a service may wait for another one before it gets ready."""
        names = container_names([service.name for service in wanted])
        running: dict[int, RunningService] = {}
        failed: list[BaseException] = []

        def bring_up(index: int, service: plan.Service) -> None:
            try:
                running[index] = self._bring_up(service, f"{self._network}-{names[index]}")
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                with self._guard:
                    failed.append(error)
                self._give_up.set()

        threads = [
            threading.Thread(target=bring_up, args=(index, service), name=f"loom-service-{service.name}", daemon=True)
            for index, service in enumerate(wanted)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            # An interrupt in this thread: nothing may be created behind our back while we remove.
            self._give_up.set()
            for thread in threads:
                thread.join(_LEAVE_WITHIN_S)
            raise
        if failed:
            raise next((error for error in failed if not isinstance(error, _GaveUp)), failed[0])
        return tuple(running[index] for index in sorted(running))

    def _bring_up(self, service: plan.Service, container_name: str) -> RunningService:
        # Several pulls and builds may go on at once: their lines, too, come behind the service's name.
        getting = _Lines(service.name, self._output, lambda line: None)
        try:
            image = self._images.resolve(
                service.image, workspace=self._workspace, on_output=getting.feed, cancel=self._cancel
            )
        finally:
            getting.end()
        self._go_on_or_leave(service)
        attributes = self._client.api.inspect_image(image.image_id)  # type: ignore[no-untyped-call]
        probe = probe_of(service, attributes.get("Config") or {})
        lines = _Lines(service.name, self._output, probe.see_line)
        self._output.say(f"{service.name}: starting {image.name} as {', '.join(service.aliases) or service.name}")
        container_id, follower = starting(
            lambda: self._create(service, image, container_name),
            lambda made: (made, self._start(service, made, image.name, lines)),
            lambda made: end_and_remove(self._client, made),
            self._cancel,
        )
        self._wait_until_ready(service, container_id, probe, lines, follower)
        return RunningService(
            name=service.name,
            aliases=service.aliases,
            container_id=container_id,
            container_name=container_name,
            image=image,
        )

    def _start(self, service: plan.Service, container_id: str, image: str, lines: _Lines) -> threading.Thread:
        """The thread that follows its output."""
        # Attached before it starts: what it says first is what tells why it ended.
        output = Hijacked(self._client, container_id, "stdout", "stderr")
        follower = threading.Thread(
            target=self._follow,
            args=(service, container_id, output, lines),
            name=f"loom-log-{service.name}",
            daemon=True,
        )
        with self._guard:
            self._followers.append(follower)
            self._outputs.append(output)
        follower.start()
        try:
            self._client.api.start(container_id)
        except Exception as error:
            if failed := start_failed(error, f"service {service.name} could not be started"):
                output.close()
                self._output.say(failed.message)
                raise failed from error
            if isinstance(error, docker.errors.APIError):
                raise ServiceError(
                    f"service {service.name} could not be started: {explanation(error)}",
                    hint=f"Check its command, entrypoint and user against the image {image}.",
                ) from error
            with engine_errors():
                raise
        return follower

    def _go_on_or_leave(self, service: plan.Service) -> None:
        if self._cancel.requested:
            raise ServiceError(f"canceled while service {service.name} was starting", code="CANCELED")
        if self._give_up.is_set():
            raise _GaveUp(f"service {service.name} was given up, since another one failed")

    def _create(self, service: plan.Service, image: ResolvedImage, name: str) -> str:
        api = self._client.api
        aliases = list(dict.fromkeys((*service.aliases, service.name)))
        entrypoint = service.entrypoint if service.entrypoint is not None else service.image.entrypoint
        try:
            with engine_errors(), self._guard:
                created = api.create_container(
                    image.image_id,
                    command=list(service.command) if service.command is not None else None,
                    entrypoint=list(entrypoint) if entrypoint is not None else None,
                    user=service.user or service.image.user,
                    environment=dict(service.variables),
                    name=name,
                    labels={**self._labels, ROLE: "service", SERVICE: service.name},
                    host_config=api.create_host_config(),
                    networking_config=api.create_networking_config(
                        # The stubs have the parameter as one endpoint; the engine takes a mapping of them.
                        {self._network: api.create_endpoint_config(aliases=aliases)}  # type: ignore[arg-type]
                    ),
                )
                self._containers.append(str(created["Id"]))
        except docker.errors.APIError as error:
            raise ServiceError(f"service {service.name} could not be created: {explanation(error)}") from error
        return str(created["Id"])

    def _follow(self, service: plan.Service, container_id: str, output: Hijacked, lines: _Lines) -> None:
        demultiplexer = Demultiplexer()
        try:
            while data := output.socket.recv(_READ):
                for stream, chunk in demultiplexer.feed(data):
                    lines.feed(stream, chunk)
        except Exception as error:  # noqa: BLE001  a lost stream must not take the job's thread down; it is said instead
            if not self._closing.is_set():
                self._output.say(f"{service.name}: its output was lost: {error}")
        finally:
            output.close()
        lines.end()
        on_died = self.on_died
        if self._closing.is_set() or on_died is None:
            return
        ended = self._how_it_ended(container_id)
        if ended is not None and not self._closing.is_set():
            self._output.say(f"{service.name}: {ended}")
            on_died(service.name, ended.removeprefix("ended with "))

    def _how_it_ended(self, container_id: str) -> str | None:
        """None while it runs."""
        # The stream may close a moment before the engine has written down the end.
        deadline = time.monotonic() + 2.0
        while True:
            try:
                state = self._client.api.inspect_container(container_id)["State"]
            except docker.errors.NotFound:
                return "was removed by someone else"
            except Exception as error:  # noqa: BLE001  whatever keeps the engine from answering, the service is not there
                return f"is lost with the engine: {explanation(error)}"
            if not state["Running"] and not state.get("Restarting"):
                if state.get("OOMKilled"):
                    return f"ended with exit code {state['ExitCode']}: it was out of memory"
                return f"ended with exit code {state['ExitCode']}"
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)

    def _wait_until_ready(
        self, service: plan.Service, container_id: str, probe: Probe, lines: _Lines, follower: threading.Thread
    ) -> None:
        started = time.monotonic()
        inside = Inside(self._client, container_id, self._network)
        # The first tries come quickly: most services are up in less than the interval.
        pause_s = min(0.05, service.ready.interval_s)
        while True:
            self._go_on_or_leave(service)
            if not self._runs(container_id):
                follower.join(2.0)
                ended = self._how_it_ended(container_id) or "ended"
                raise ServiceError(f"service {service.name} {ended} before it was ready", hint=_last(lines))
            try:
                with engine_errors():
                    probe.check(inside)
                break
            except NotReady as reason:
                why = str(reason)
            except docker.errors.APIError as error:
                why = explanation(error)
            waited = time.monotonic() - started
            if waited >= service.ready.timeout_s:
                raise ServiceError(
                    f"service {service.name} was not ready within {service.ready.timeout_s:g} s: {why}",
                    hint=_last(lines),
                )
            # Not `cancel.wait` alone: a failing neighbour ends the wait as well.
            if self._give_up.wait(min(pause_s, service.ready.timeout_s - waited)) or self._cancel.requested:
                continue
            pause_s = min(pause_s * 2, service.ready.interval_s)
        self._output.say(f"{service.name}: ready after {time.monotonic() - started:.1f} s ({probe.what})")

    def _runs(self, container_id: str) -> bool:
        try:
            with engine_errors():
                state = self._client.api.inspect_container(container_id)["State"]
        except docker.errors.NotFound:
            return False
        return bool(state["Running"])

    def remove(self) -> None:
        """Never raises: what could not be removed is said, and is labelled for the next clean-up."""
        self._closing.set()
        self._give_up.set()

        def remove_one(container_id: str) -> None:
            try:
                end_and_remove(self._client, container_id)
            except docker.errors.NotFound:
                pass
            except Exception as error:  # noqa: BLE001  removing goes on with the others
                self._output.say(
                    f"the service container {container_id[:12]} could not be removed: {explanation(error)}"
                )

        threads = [
            threading.Thread(target=remove_one, args=(container,), daemon=True) for container in self._containers
        ]
        for thread in threads:
            thread.start()
        for thread in (*threads, *self._followers):
            thread.join(_LEAVE_WITHIN_S)


def container_names(names: Sequence[str]) -> list[str]:
    """What the services are called in their containers' names: any text becomes fit for that, and each is unique."""
    taken: set[str] = set()
    result = []
    for name in names:
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:40] or "service"
        unique, number = slug, 2
        while unique.lower() in taken:
            unique, number = f"{slug}-{number}", number + 1
        taken.add(unique.lower())
        result.append(unique)
    return result


class _GaveUp(ServiceError):
    """A service that failed only because another one did."""


def _last(lines: _Lines) -> str:
    if not lines.last:
        return "It printed nothing."
    return "Its last lines:\n" + "\n".join(f"  {line}" for line in lines.last)


def _create_network(client: docker.DockerClient, name: str, labels: Mapping[str, str], *, isolated: bool) -> str:
    try:
        with engine_errors():
            marks = {**labels, ROLE: "network"}
            return str(client.api.create_network(name, driver="bridge", internal=isolated, labels=marks)["Id"])
    except docker.errors.APIError as error:
        hint = None
        if "address pool" in str(error):
            hint = "The engine has no more networks to give: `loom clean` removes loom's own, `docker network ls` shows all."
        raise ServiceError(f"the services' network could not be made: {explanation(error)}", hint=hint) from error


def _remove_network(client: docker.DockerClient, network_id: str, output: _Output) -> None:
    """Whatever is still on it is taken off first: a job's container that the engine is slow to remove."""
    for attempt in (1, 2, 3):
        try:
            client.api.remove_network(network_id)
            return
        except docker.errors.NotFound:
            return
        except Exception as error:  # noqa: BLE001  the run's result stands; the label lets the next clean-up find it
            if attempt == 3:
                output.say(f"the services' network could not be removed: {explanation(error)}")
                return
        try:
            attached = client.api.inspect_network(network_id).get("Containers") or {}
            for container_id in attached:
                client.api.disconnect_container_from_network(container_id, network_id, force=True)
        except Exception:  # noqa: BLE001  the next attempt says what is wrong
            time.sleep(0.1)
