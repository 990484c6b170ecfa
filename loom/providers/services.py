"""A job's services, for every kind of container: their output, their secrets, and the wait until they are ready."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from loom.errors import InfrastructureError, NotServing, ServiceError
from loom.plan.model import Ready, Service
from loom.status import OnOutput, Stream
from loom.util.within import wait_until

_LONGEST_LINE = 65536
FOLDER = "/run/secrets"


class StartedService(Protocol):
    """A service whose container was started."""

    @property
    def service(self) -> Service: ...
    @property
    def lines(self) -> Lines: ...

    def check(self) -> None:
        """Raise if it is no longer waited for: after a cancel, for example."""

    def ended(self) -> str:
        """Return the service's result after its last output; empty while it may still run."""

    def is_ready(self) -> bool: ...

    def why(self) -> str:
        """Return the condition that was missing at the last question."""

    def pause(self, limit_s: float) -> object:
        """Wait so long, or until there is news."""


def wait_for(one: StartedService, say: Callable[[str], None], *, begun: float, by: Callable[[], str] = str) -> None:
    """Wait until a service that was begun then is ready. ServiceError for one that the job needs.

    `by`: the condition that was met, for people.
    """
    service = one.service

    def ready() -> bool:
        one.check()
        if ended := one.ended():
            raise NotServing(f"service {service.name} {ended} before it was ready", hint=one.lines.last())
        return one.is_ready()

    try:
        left_s = begun + service.ready.timeout_s - time.monotonic()
        # Frequent first checks: most services start within the interval.
        if not wait_until(ready, limit_s=left_s, every_s=service.ready.interval_s, first_s=0.05, pause=one.pause):
            raise NotServing(
                f"service {service.name} was not ready within {service.ready.timeout_s:g} s: {one.why()}",
                hint=one.lines.last(),
            )
    except NotServing as error:
        if service.needed:
            raise
        say(f"{error.message}; the job goes on without it")
        return
    say(f"ready after {time.monotonic() - begun:.1f} s{by()}")


def addresses(name: str, host: str, ports: Sequence[int]) -> dict[str, str]:
    """Return the variables with a service's address for a job's steps."""
    prefix = f"LOOM_SERVICE_{re.sub('[^A-Za-z0-9]', '_', name).upper()}"
    first = {f"{prefix}_PORT": str(port) for port in ports[:1]}
    return {f"{prefix}_HOST": host, **first, **{f"{prefix}_PORT_{port}": str(port) for port in ports}}


def named_port(ready: Ready) -> int | None:
    """Return the port that a service's condition names."""
    named = re.match(r"(?:https?://[^/:]*)?:(\d+)", ready.http or "")
    return int(named[1]) if named else ready.tcp


def canceled(service: Service) -> ServiceError:
    return ServiceError(f"canceled while service {service.name} was starting", code="CANCELED")


# Secrets: as shell code that the container is given before its program starts. The engine never gets them.


def secrets_line(service: Service, values: Mapping[str, bytes]) -> bytes:
    """Return one line of shell code that stores a service's secrets; empty without any."""
    commands = []
    for secret in service.secrets:
        value = values.get(secret.name)
        if value is None:
            continue
        # Escape all but harmless bytes for printf's %b: no quoting, no line ends.
        written = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\0{byte:03o}" for byte in value)
        if secret.file:
            commands.append(f"(umask 222 && printf %b '{written}' >{FOLDER}/{secret.name})")
        elif b"\0" in value:
            raise ServiceError(
                f"the secret {secret.name} of service {service.name} holds a NUL, and no variable can",
                hint="leave `file: false` out: the service then gets it as a file",
            )
        else:  # command substitution removes trailing line ends: the x keeps them
            commands.append(f"{secret.name}=$(printf %b '{written}x') && export {secret.name}=\"${{{secret.name}%x}}\"")
    return " && ".join(commands).encode() + b"\n" if commands else b""


# Output: line by line, prefixed with the service's name.


class Output:
    """Writes lines of several threads one at a time, and none after `close`.

    A thread that follows a service has nobody to raise to: where the record takes no more lines, `check` raises it.
    """

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._guard = threading.Lock()
        self._closed = False
        self._failed: InfrastructureError | None = None

    def line(self, stream: Stream, text: bytes) -> None:
        with self._guard:
            if self._closed or self._failed is not None:
                return
            try:
                self._on_output(stream, text + b"\n")
            except InfrastructureError as error:
                self._failed = error

    def check(self) -> None:
        """Raise the failure of an earlier `line`."""
        if self._failed is not None:
            raise self._failed

    def say(self, text: str) -> None:
        self.line("stdout", text.encode())

    def say_of(self, name: str, text: str) -> None:
        self.say(f"{name}: {text}")

    def close(self) -> None:
        with self._guard:
            self._closed = True


class Lines:
    """A service's output: prefixes lines, keeps the last ones, passes each to `on_line`."""

    def __init__(self, name: str, output: Output, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._prefix = f"{name} | ".encode()
        self._output = output
        self._on_line = on_line
        self._half: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._last: deque[str] = deque(maxlen=20)

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
        self._last.append(text)
        self._on_line(text)

    def last(self) -> str:
        """Format the last lines for people."""
        if not self._last:
            return "It printed nothing."
        return "Its last lines:\n" + "\n".join(f"  {line}" for line in self._last)
