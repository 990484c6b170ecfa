"""Decide when a service is ready: by the job's probe, the image's HEALTHCHECK, or its exposed ports.

A probe checks once; the caller waits. Ports are checked from this machine if container addresses are reachable, else
from inside the container, which also works for a remote engine or one in a virtual machine.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property
from typing import Any

import docker.errors

from loom.plan.model import Service
from loom.providers.docker.engine.client import EngineClient, Traits
from loom.providers.services import ReadyLine, http_address, named_port
from loom.util.within import within

_LISTENING = "0A"


class NotReady(Exception):
    """Not ready; the message has the missing condition."""


class Probe:
    """Ready as soon as it runs; the others have a condition."""

    what = "it runs; its image has no HEALTHCHECK and exposes no port"
    """The result for people when it is ready."""

    def check(self, target: ProbeTarget) -> None:
        """Probe once; raise NotReady until it is ready."""

    def see_line(self, line: str) -> None:
        """Receive each line of the service's output, in another thread."""


class ProbeTarget:
    """The interface of a running service for a probe."""

    def __init__(self, client: EngineClient, container_id: str, network: str, addressed: str) -> None:
        """`addressed`: the container that has the address, which is another one where several share it."""
        self._addressed = addressed
        self._client = client
        self._container_id = container_id
        self._network = network
        self.from_outside = Traits(client).reachable
        """Whether to ask from this machine; else from inside the container."""

    @cached_property
    def address(self) -> str:
        networks = self._client.api.inspect_container(self._addressed)["NetworkSettings"]["Networks"]
        found = networks.get(self._network) or {}
        if address := str(found.get("IPAddress") or found.get("GlobalIPv6Address") or ""):
            return address
        raise NotReady("it has no address yet")

    def run(self, command: Sequence[str], *, timeout_s: float) -> tuple[int, str]:
        """Run a command in the container; return exit code and output. NotReady when it exceeds the time."""

        def ask() -> tuple[int, str]:
            made = self._client.api.exec_create(self._container_id, list(command))
            output = self._client.api.exec_start(made["Id"])  # no limit: the thread is abandoned in time
            code = self._client.api.exec_inspect(made["Id"])["ExitCode"]
            return (127 if code is None else int(code), bytes(output).decode(errors="replace").strip())

        try:
            # The API can't end an exec: the thread is abandoned, and ends with the container.
            return within(timeout_s, ask)
        except TimeoutError:
            raise NotReady(f"`{' '.join(command)}` did not answer within {timeout_s:g} s") from None


class CommandProbe(Probe):
    def __init__(self, command: Sequence[str], *, what: str, timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self.what = what

    def check(self, target: ProbeTarget) -> None:
        code, output = target.run(self._command, timeout_s=self._timeout_s)
        if code != 0:
            last = f": {output.splitlines()[-1]}" if output else ""
            raise NotReady(f"the {self.what} exited with {code}{last}")


class PortProbe(Probe):
    """Ready when one of the ports accepts connections."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = sorted(ports)
        self.what = f"port {'/'.join(map(str, self._ports))}"

    def check(self, target: ProbeTarget) -> None:
        if target.from_outside:
            try:
                for port in self._ports:
                    with suppress(ConnectionRefusedError):
                        socket.create_connection((target.address, port), timeout=1.0).close()
                        self.what = f"port {port} takes connections"
                        return
                raise NotReady(f"nothing listens on {self.what}")
            except OSError:
                target.from_outside = False
        listening = _listening(target).intersection(self._ports)
        if not listening:
            raise NotReady(f"nothing listens on {self.what}")
        self.what = f"port {min(listening)} is listened on"


def _listening(target: ProbeTarget) -> set[int]:
    """Return the listening TCP ports, except those for local connections only."""
    code, output = target.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"], timeout_s=10)
    if code != 0 and not output.lstrip().startswith("sl"):
        raise NotReady("its ports can't be looked at: the engine is not on this machine, and the image has no `cat`")
    return listening_ports(output)


def listening_ports(table: str) -> set[int]:
    """Parse the kernel's `/proc/net/tcp` and `tcp6`, without loopback addresses."""
    ports = set()
    for line in table.splitlines():
        words = line.split()
        if len(words) > 3 and words[3] == _LISTENING and ":" in words[1]:
            address, _, port = words[1].rpartition(":")
            loopback = address.endswith("7F") if len(address) == 8 else address == "0" * 24 + "01000000"
            if not loopback:
                ports.add(int(port, 16))
    return ports


class HttpProbe(Probe):
    """Ready when the URL answers with a status below 400."""

    def __init__(self, url: str, exposed: Sequence[int]) -> None:
        scheme, host, named, path = http_address(url)
        self._secure = scheme == "https"
        port = named or ((443 if self._secure else 80) if scheme else min(exposed, default=80))
        self._port, self._host, self._path = port, host or "localhost", path
        self._url = f"{'https' if self._secure else 'http'}://localhost:{port}{path}"
        self.what = f"answer to {path} on port {port}"

    def check(self, target: ProbeTarget) -> None:
        if target.from_outside:
            try:
                status = self._ask(target.address)
            except (ConnectionError, TimeoutError, ssl.SSLError, http.client.HTTPException) as error:
                raise NotReady(f"no {self.what}: {str(error) or type(error).__name__}") from error
            except OSError:
                target.from_outside = False
            else:
                if status >= 400:
                    raise NotReady(f"the {self.what} was {status}")
                return
        self._ask_inside(target)

    def _ask(self, address: str) -> int:
        connection = http.client.HTTPConnection(address, self._port, timeout=5)
        if self._secure:
            # A test service's certificate matches its own name at best.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(address, self._port, timeout=5, context=context)
        with closing(connection):
            try:
                connection.connect()
            except TimeoutError as error:  # packets are dropped: loom is in a container on another network
                raise OSError(errno.EHOSTUNREACH, "its address can't be reached") from error
            connection.request("GET", self._path, headers={"Host": f"{self._host}:{self._port}"})
            return connection.getresponse().status

    def _ask_inside(self, target: ProbeTarget) -> None:
        for tool in (
            ["curl", "-fsSk", "-o", "/dev/null", "-m", "5", self._url],
            ["wget", "-q", "-O", "/dev/null", self._url],
        ):
            try:
                code, output = target.run(tool, timeout_s=10)
            except docker.errors.APIError:
                continue
            if code in (126, 127):
                continue
            if code != 0:
                raise NotReady(f"no {self.what}: {output or f'{tool[0]} exited with {code}'}")
            return
        raise NotReady(
            f"no {self.what}: the engine's containers can't be reached from here, and the image has neither curl nor wget"
        )


class LogProbe(Probe):
    """Ready when a log line matches."""

    def __init__(self, pattern: str) -> None:
        self._line = ReadyLine(pattern)
        self.what = f"line that matches {pattern!r}"

    def see_line(self, line: str) -> None:
        self._line.see(line)

    def check(self, target: ProbeTarget) -> None:
        if missing := self._line.missing:
            raise NotReady(missing)


def probe_of(service: Service, config: Mapping[str, Any]) -> Probe:
    """Return a service's probe, from its job's definition and its image's configuration."""
    ready = service.ready
    exposed = exposed_ports(config)
    command_timeout_s = max(1.0, min(ready.timeout_s, 30.0))
    if ready.command is not None:
        return CommandProbe(ready.command, what=f"command `{' '.join(ready.command)}`", timeout_s=command_timeout_s)
    if ready.tcp is not None:
        return PortProbe([ready.tcp])
    if ready.http is not None:
        return HttpProbe(ready.http, exposed)
    if ready.log is not None:
        return LogProbe(ready.log)
    health = healthcheck(config)
    if health is not None:
        # Run by loom: the engine's own first check waits for the image's interval, 30 s by default.
        return CommandProbe(health, what="image's HEALTHCHECK", timeout_s=command_timeout_s)
    if exposed:
        return PortProbe(exposed)
    return Probe()


def ports_of(service: Service, config: Mapping[str, Any]) -> list[int]:
    """Return a service's known ports: the job's first, then the image's exposed ones."""
    named = named_port(service.ready)
    return list(dict.fromkeys([*([named] if named is not None else []), *service.ports, *exposed_ports(config)]))


def exposed_ports(config: Mapping[str, Any]) -> list[int]:
    ports = (str(port).partition("/") for port in config.get("ExposedPorts") or {})
    return sorted(int(number) for number, _, protocol in ports if protocol in ("tcp", "") and number.isdigit())


def healthcheck(config: Mapping[str, Any]) -> list[str] | None:
    """Return the command of an image's HEALTHCHECK."""
    match (config.get("Healthcheck") or {}).get("Test") or []:
        case ["CMD", *command] if command:
            return [str(word) for word in command]
        case ["CMD-SHELL", *words] if words:
            return [*(config.get("Shell") or ["/bin/sh", "-c"]), " ".join(words)]
        case _:
            return None
