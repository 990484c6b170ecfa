"""A job's services: containers beside it, on a network of its own, ready before its first step.

    with services(client, job.services, ...) as network:
        ...the job runs with network.network_id; `db:5432` is the service with the alias `db`...

Each service has a thread that gets its image, starts it and waits until it is ready, and one that follows its output.
One that runs once waits for those that are listed before it, and those after it wait for it.
Whichever way the block is left, containers, their volumes and the network are gone, and the threads have ended.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

import docker
import docker.errors
from msgspec import Struct, field

from loom.cancel import Cancel
from loom.errors import ImageError, LoomError, ServiceError
from loom.plan import model
from loom.providers.base import SecretValues
from loom.providers.docker import hardening
from loom.providers.docker import labels as marks_of
from loom.providers.docker.attach import Demultiplexer, Hijacked
from loom.providers.docker.cleanup import remove_container, remove_network
from loom.providers.docker.errors import engine_errors, explanation
from loom.providers.docker.images import ClientFactory, Images, ResolvedImage
from loom.providers.docker.labels import ROLE
from loom.providers.docker.readiness import Inside, NotReady, Probe, ports_of, probe_of
from loom.providers.docker.retries import start_failed, starting
from loom.status import OnOutput, Stream
from loom.util.within import wait_until

LAST_LINES = 20
SERVICE = "loom.service"
"""The label that names a service's container among those of its job."""
SECRETS_FOLDER = "/run/secrets"
# Reads one line, which is shell code of loom's that puts the secrets into place, and becomes what the container is for.
_TAKES_SECRETS = (
    "/bin/sh",
    "-c",
    'IFS= read -r line && eval "$line" || { echo "loom: the secrets did not arrive" >&2; exit 125; }; exec "$@" </dev/null',
    "loom",
)
_HAND_OVER_WITHIN_S = 60
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
    host: str = ""
    """Where the job reaches it: its alias, or the address of this machine where its ports are published."""
    ports: Mapping[int, int] = field(default_factory=dict)
    """Its ports, and under which number each is reached there."""

    @property
    def variables(self) -> dict[str, str]:
        """What tells a job's steps where it is: the same names in a container and on the host."""
        prefix = f"LOOM_SERVICE_{re.sub('[^A-Za-z0-9]', '_', self.name).upper()}"
        variables = {f"{prefix}_HOST": self.host}
        for number, (port, reached) in enumerate(self.ports.items()):
            variables |= {f"{prefix}_PORT": str(reached)} if number == 0 else {}
            variables[f"{prefix}_PORT_{port}"] = str(reached)
        return variables


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

    @property
    def variables(self) -> dict[str, str]:
        return {name: value for service in self.services for name, value in service.variables.items()}


@contextmanager
def services(
    client_factory: ClientFactory,
    wanted: tuple[model.Service, ...],
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
    published: bool = False,
    hardened: bool = False,
    secrets: SecretValues | None = None,
) -> Iterator[ServiceNetwork]:
    """Yields when every service is ready. ServiceError (its hint holds the last lines) when one ends or does not get
    ready in its time, ImageError when an image can't be had. `on_output` gets the services' lines, each behind the
    service's name, and is not called any more when the block has been left. `isolated`: the network has no way out.
    `published`: the job runs on this machine, and reaches the services' ports at 127.0.0.1; their network then has a way
    out."""
    client = client_factory()
    name = f"loom-{run_id}-{job_id}-{token_hex(3)}"
    output = _Output(on_output)
    try:
        # The engine publishes no port of a network that leads nowhere.
        network_id = _create_network(client, name, labels, isolated=isolated and not published)
        group = _Group(
            client,
            name,
            images=images,
            workspace=workspace,
            labels=labels,
            output=output,
            cancel=cancel,
            published=published,
            hardened=hardened,
            secrets=secrets or SecretValues(),
        )
        try:
            running = group.start(wanted)
            group.on_died = on_died
            yield ServiceNetwork(network_id=network_id, network_name=name, services=running, keep=group.keep)
        finally:
            if group.kept:
                group.let_go()
            else:
                group.remove()
                try:
                    remove_network(client, network_id, disconnect=True)
                except LoomError as error:  # the run's result stands; the label lets the next clean-up find it
                    output.say(error.message)
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


class _Wanted(Struct, frozen=True, kw_only=True):
    """A service's container, before it is made."""

    service: model.Service
    image: ResolvedImage
    name: str
    config: Mapping[str, Any]
    """Its image's."""
    ports: list[int]
    secrets: bytes = b""
    """What puts them into place; empty where it has none."""


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
        published: bool,
        hardened: bool,
        secrets: SecretValues,
    ) -> None:
        self._client = client
        self._published = published
        self._hardened = hardened
        self._secrets = secrets
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

    def start(self, wanted: tuple[model.Service, ...]) -> tuple[RunningService, ...]:
        names = container_names([service.name for service in wanted])
        running: dict[int, RunningService] = {}
        for group in _groups(wanted):
            self._start_group([(index, wanted[index], f"{self._network}-{names[index]}") for index in group], running)
        return tuple(running[index] for index in sorted(running))

    def _start_group(self, group: list[tuple[int, model.Service, str]], running: dict[int, RunningService]) -> None:
        """All at once: a service may wait for another one before it gets ready."""
        failed: list[BaseException] = []

        def bring_up(index: int, service: model.Service, name: str) -> None:
            try:
                running[index] = self._bring_up(index, service, name)
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                with self._guard:
                    failed.append(error)
                self._give_up.set()

        threads = [
            threading.Thread(target=bring_up, args=one, name=f"loom-service-{one[1].name}", daemon=True)
            for one in group
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                if not self._cancel.join(thread):
                    raise ServiceError("services were still starting after the second interrupt", code="CANCELED")
        except BaseException:
            # An interrupt in this thread: nothing may be created behind our back while we remove.
            self._give_up.set()
            for thread in threads:
                thread.join(_LEAVE_WITHIN_S)
            raise
        if failed:
            raise next((error for error in failed if not isinstance(error, _GaveUp)), failed[0])

    def _bring_up(self, index: int, service: model.Service, container_name: str) -> RunningService:
        # Several pulls and builds may go on at once: their lines, too, come behind the service's name.
        getting = _Lines(service.name, self._output, lambda line: None)
        try:
            image = self._images.resolve(
                service.image,
                workspace=self._workspace,
                on_output=getting.feed,
                cancel=self._cancel,
                secrets=self._secrets.own,
            )
        except ImageError as error:
            raise error.named_at(service.place) from error
        finally:
            getting.end()
        self._go_on_or_leave(service)
        config = self._client.api.inspect_image(image.image_id).get("Config") or {}  # type: ignore[no-untyped-call]
        probe = probe_of(service, config)
        wanted = _Wanted(
            service=service,
            image=image,
            name=container_name,
            config=config,
            ports=ports_of(service, config),
            secrets=_handed_over(service, self._secrets.services[index] if self._secrets.services else {}),
        )
        lines = _Lines(service.name, self._output, probe.see_line)
        self._output.say(f"{service.name}: starting {image.name} as {', '.join(service.aliases) or service.name}")
        container_id, follower = starting(
            lambda: self._create(wanted),
            lambda made: (made, self._start(wanted, made, lines)),
            lambda made: remove_container(self._client, made),
            self._cancel,
        )
        if service.once:
            self._wait_until_ended(service, container_id, lines, follower)
        else:
            self._wait_until_ready(service, container_id, probe, lines, follower)
        return RunningService(
            name=service.name,
            aliases=service.aliases,
            container_id=container_id,
            container_name=container_name,
            image=image,
            host="127.0.0.1" if self._published else next(iter(service.aliases), service.name),
            ports=self._reached(wanted, container_id),
        )

    def _start(self, wanted: _Wanted, container_id: str, lines: _Lines) -> threading.Thread:
        """The thread that follows its output."""
        service = wanted.service
        # Attached before it starts: what it says first is what tells why it ended.
        output = Hijacked(self._client, container_id, *(("stdin",) if wanted.secrets else ()), "stdout", "stderr")
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
                shell = " Its secrets are handed over by the image's own /bin/sh, which it has to have."
                raise ServiceError(
                    f"service {service.name} could not be started: {explanation(error)}",
                    hint=f"Check its command, entrypoint and user against the image {wanted.image.name}."
                    + (shell if wanted.secrets else ""),
                ) from error
            with engine_errors():
                raise
        if wanted.secrets:
            _send(output, wanted.secrets)
        return follower

    def _reached(self, wanted: _Wanted, container_id: str) -> dict[int, int]:
        service, ports = wanted.service, wanted.ports
        if not self._published or service.once:
            return {port: port for port in ports}
        if not ports:
            self._output.say(f"{service.name}: no port of it is known; name it: `ready: {{tcp: PORT}}`")
        with engine_errors():
            bound = self._client.api.inspect_container(container_id)["NetworkSettings"]["Ports"]
        return {port: int(bound[f"{port}/tcp"][0]["HostPort"]) for port in ports if bound.get(f"{port}/tcp")}

    def _go_on_or_leave(self, service: model.Service) -> None:
        if self._cancel.requested:
            raise ServiceError(f"canceled while service {service.name} was starting", code="CANCELED")
        if self._give_up.is_set():
            raise _GaveUp(f"service {service.name} was given up, since another one failed")

    def _create(self, wanted: _Wanted) -> str:
        service, image, ports = wanted.service, wanted.image, wanted.ports
        api = self._client.api
        aliases = list(dict.fromkeys((*service.aliases, service.name)))
        entrypoint: Sequence[str] | None = service.entrypoint
        entrypoint = entrypoint if entrypoint is not None else service.image.entrypoint
        command: Sequence[str] | None = service.command
        variables = dict(service.variables)
        marks = {ROLE: "service", SERVICE: service.name} | ({marks_of.ONCE: "true"} if service.once else {})
        host: dict[str, Any] = dict(hardening.SERVICE) if self._hardened else {}
        if self._published and ports:
            host["port_bindings"] = dict.fromkeys(ports, ("127.0.0.1", None))
        if wanted.secrets:
            entrypoint, command = _wrapped(entrypoint, command, wanted.config)
            host["tmpfs"] = {SECRETS_FOLDER: "mode=1777,size=4m"}
            variables |= {
                f"{secret.name}_FILE": f"{SECRETS_FOLDER}/{secret.name}" for secret in service.secrets if secret.file
            }
            marks[marks_of.HANDED_OVER] = "true"
        try:
            with engine_errors(), self._guard:
                created = api.create_container(
                    image.image_id,
                    command=list(command) if command is not None else None,
                    entrypoint=list(entrypoint) if entrypoint is not None else None,
                    user=service.user or service.image.user,
                    environment=variables,
                    name=wanted.name,
                    labels={**self._labels, **marks},
                    ports=list(host.get("port_bindings", ())) or None,
                    stdin_open=bool(wanted.secrets),
                    host_config=api.create_host_config(**host),
                    networking_config=api.create_networking_config(
                        # The stubs have the parameter as one endpoint; the engine takes a mapping of them.
                        {self._network: api.create_endpoint_config(aliases=aliases)}  # type: ignore[arg-type]
                    ),
                )
                self._containers.append(str(created["Id"]))
        except docker.errors.APIError as error:
            raise ServiceError(f"service {service.name} could not be created: {explanation(error)}") from error
        return str(created["Id"])

    def _follow(self, service: model.Service, container_id: str, output: Hijacked, lines: _Lines) -> None:
        demultiplexer = Demultiplexer()
        try:
            while data := output.socket.recv(_READ):  # no limit: a service may be silent; it ends with the connection
                for stream, chunk in demultiplexer.feed(data):
                    lines.feed(stream, chunk)
        except Exception as error:  # noqa: BLE001  a lost stream must not take the job's thread down; it is said instead
            if not self._closing.is_set():
                self._output.say(f"{service.name}: its output was lost: {error}")
        finally:
            output.close()
        lines.end()
        on_died = self.on_died
        if self._closing.is_set() or on_died is None or service.once:
            return
        ended = self._how_it_ended(container_id)
        if ended is not None and not self._closing.is_set():
            self._output.say(f"{service.name}: {ended}")
            on_died(service.name, ended.removeprefix("ended with "))

    def _how_it_ended(self, container_id: str) -> str | None:
        """None while it runs."""

        def ended() -> str | None:
            try:
                state = self._client.api.inspect_container(container_id)["State"]
            except docker.errors.NotFound:
                return "was removed by someone else"
            except Exception as error:  # noqa: BLE001  whatever keeps the engine from answering, the service is not there
                return f"is lost with the engine: {explanation(error)}"
            if state["Running"] or state.get("Restarting"):
                return None
            out_of_memory = ": it was out of memory" if state.get("OOMKilled") else ""
            return f"ended with exit code {state['ExitCode']}{out_of_memory}"

        # The stream may close a moment before the engine has written down the end.
        return wait_until(ended, limit_s=2.0, every_s=0.05)

    def _wait_until_ready(
        self, service: model.Service, container_id: str, probe: Probe, lines: _Lines, follower: threading.Thread
    ) -> None:
        started = time.monotonic()
        inside = Inside(self._client, container_id, self._network)
        why = ""

        def ready() -> bool:
            nonlocal why
            self._go_on_or_leave(service)
            if not self._runs(container_id):
                follower.join(2.0)
                ended = self._how_it_ended(container_id) or "ended"
                once = "Write `run: once` for one that does something and ends.\n" * ended.endswith("exit code 0")
                raise ServiceError(f"service {service.name} {ended} before it was ready", hint=once + _last(lines))
            try:
                with engine_errors():
                    probe.check(inside)
            except NotReady as reason:
                why = str(reason)
            except docker.errors.APIError as error:
                why = explanation(error)
            else:
                return True
            return False

        limit_s = service.ready.timeout_s
        # The first tries come quickly: most services are up in less than the interval. A failing neighbour ends each pause.
        if not wait_until(
            ready, limit_s=limit_s, every_s=service.ready.interval_s, first_s=0.05, pause=self._give_up.wait
        ):
            raise ServiceError(
                f"service {service.name} was not ready within {limit_s:g} s: {why}",
                hint=_last(lines),
            )
        self._output.say(f"{service.name}: ready after {time.monotonic() - started:.1f} s ({probe.what})")

    def _wait_until_ended(
        self, service: model.Service, container_id: str, lines: _Lines, follower: threading.Thread
    ) -> None:
        started = time.monotonic()
        limit_s = service.ready.timeout_s

        def ended() -> bool:
            if not self._runs(container_id):
                return True
            self._go_on_or_leave(service)
            return False

        every_s = min(0.1, service.ready.interval_s)
        if not wait_until(ended, limit_s=limit_s, every_s=every_s, pause=self._give_up.wait):
            raise ServiceError(
                f"service {service.name} did not end within {limit_s:g} s (`run: once`)",
                hint=f"`ready: {{timeout: ...}}` gives it more.\n{_last(lines)}",
            )
        follower.join(2.0)
        how = self._how_it_ended(container_id) or "ended"
        if how != "ended with exit code 0":
            raise ServiceError(f"service {service.name} {how} (`run: once`)", hint=_last(lines))
        self._output.say(f"{service.name}: ended with 0 after {time.monotonic() - started:.1f} s")

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
                remove_container(self._client, container_id)
            except LoomError as error:
                self._output.say(error.message)

        threads = [
            threading.Thread(target=remove_one, args=(container,), daemon=True) for container in self._containers
        ]
        for thread in threads:
            thread.start()
        for thread in (*threads, *self._followers):
            thread.join(_LEAVE_WITHIN_S)


def _groups(wanted: Sequence[model.Service]) -> Iterator[list[int]]:
    """The services that start together, by their number: one that runs once is between those before and after it."""
    group: list[int] = []
    for index, service in enumerate(wanted):
        if service.once:
            yield group
            yield [index]
            group = []
        else:
            group.append(index)
    yield group


def _handed_over(service: model.Service, values: Mapping[str, bytes]) -> bytes:
    """One line of shell code that puts a service's secrets into place; nothing where it has none."""
    commands = []
    for secret in service.secrets:
        value = values.get(secret.name)
        if value is None:
            continue
        # Every byte but the harmless ones as printf's %b has it: no quoting, no line's end.
        written = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\0{byte:03o}" for byte in value)
        if secret.file:
            commands.append(f"(umask 222 && printf %b '{written}' >{SECRETS_FOLDER}/{secret.name})")
        elif b"\0" in value:
            raise ServiceError(
                f"the secret {secret.name} of service {service.name} holds a NUL, and no variable can",
                hint="leave `file: false` out: the service then gets it as a file",
            )
        else:  # the command substitution takes line ends away from the end: the x keeps them
            commands.append(f"{secret.name}=$(printf %b '{written}x') && export {secret.name}=\"${{{secret.name}%x}}\"")
    return " && ".join(commands).encode() + b"\n" if commands else b""


def _wrapped(
    entrypoint: Sequence[str] | None, command: Sequence[str] | None, config: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """What takes the secrets first, and what would have run without it: an entrypoint cancels the image's command."""
    if entrypoint is None:
        command = command if command is not None else config.get("Cmd")
        entrypoint = config.get("Entrypoint")
    return [*_TAKES_SECRETS, *(entrypoint or ())], list(command or ())


def _send(output: Hijacked, line: bytes) -> None:
    """A service that ended already does not take it; its end is told elsewhere."""
    output.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _HAND_OVER_WITHIN_S, 0))
    with suppress(OSError):
        output.socket.sendall(line)  # no limit: the line before sets it


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
