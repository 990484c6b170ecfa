"""A job's services, for every kind of container: their output, their secrets, and the wait until they are ready."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from loom.cancel import Cancel
from loom.errors import InfrastructureError, NotServing, ServiceError
from loom.plan.model import Ready, Service
from loom.status import OnOutput, Stream
from loom.util.within import wait_until
from loom.workflow.patterns import PatternError, SearchError, compile_pattern

_LONGEST_LINE = 65536
FOLDER = "/run/secrets"
OnDied = Callable[[str, str], None]
"""Called with the name of a service that ended after it was ready, and how ("exit code 3"), then its last lines; once per
service, from a thread of its own."""


class StartedService:
    """A service whose container was started."""

    def __init__(self, service: Service, output: Output, cancel: Cancel) -> None:
        self.service = service
        self.output = output
        self.cancel = cancel
        self.lines = Lines(service.name, output)

    def ended(self) -> str:
        """Return the service's result after its last output; empty while it may still run."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def why(self) -> str:
        """Return the condition that was missing at the last question."""
        raise NotImplementedError

    def pause(self, limit_s: float) -> object:
        """Wait so long, or until there is news."""
        raise NotImplementedError

    def say(self, text: str) -> None:
        self.output.say(f"{self.service.name}: {text}")

    def report(self, ended: str, on_died: OnDied) -> None:
        """Say how it ended, after it was ready, and pass that on with its last lines."""
        self.say(ended)
        on_died(self.service.name, f"{ended.removeprefix('ended with ')}\n{self.lines.last()}")

    def check(self) -> None:
        """Raise if it is no longer waited for: after a cancel, for example."""
        self.output.check()
        if self.cancel.requested:
            raise ServiceError(f"canceled while service {self.service.name} was starting", code="CANCELED")

    def wait(self, *, begun: float, by: Callable[[], str] = str) -> None:
        """Wait until the service, which was begun then, is ready. ServiceError for one that the job needs.

        `by`: the condition that was met, for people.
        """
        service = self.service

        def ready() -> bool:
            self.check()
            if ended := self.ended():
                raise NotServing(f"service {service.name} {ended} before it was ready", hint=self.lines.last())
            return self.is_ready()

        try:
            left_s = begun + service.ready.timeout_s - time.monotonic()
            # Frequent first checks: most services start within the interval.
            if not wait_until(ready, limit_s=left_s, every_s=service.ready.interval_s, first_s=0.05, pause=self.pause):
                raise NotServing(
                    f"service {service.name} was not ready within {service.ready.timeout_s:g} s: {self.why()}",
                    hint=self.lines.last(),
                )
        except NotServing as error:
            if service.needed:
                raise
            self.say(f"{error.message}; the job goes on without it")
            return
        self.say(f"ready after {time.monotonic() - begun:.1f} s{by()}")


def describe_end(code: object, *, oom: bool) -> str:
    return f"ended with exit code {code}{': it was out of memory' if oom else ''}"


def addresses(name: str, host: str, ports: Sequence[int]) -> dict[str, str]:
    """Return the variables with a service's address for a job's steps."""
    prefix = f"LOOM_SERVICE_{re.sub('[^A-Za-z0-9]', '_', name).upper()}"
    first = {f"{prefix}_PORT": str(port) for port in ports[:1]}
    return {f"{prefix}_HOST": host, **first, **{f"{prefix}_PORT_{port}": str(port) for port in ports}}


def http_address(url: str) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path of `ready: {http: url}`; empty, or None, what it leaves out. ServiceError."""
    found = re.fullmatch(r"(?:(https?)://(\[[^]]+\]|[^/:]+))?:?(\d+)?(/.*)?", url)
    if found is None:
        raise ServiceError(
            f"ready: http: {url!r} is not an address",
            hint="Write a path (/health), a port and a path (:8080/health) or a URL (http://localhost:8080/health).",
        )
    scheme, host, port, path = found.groups()
    return scheme or "", host or "", int(port) if port else None, path or "/"


def named_port(ready: Ready) -> int | None:
    """Return the port that a service's condition names."""
    return http_address(ready.http)[2] if ready.http is not None else ready.tcp


class ReadyLine:
    """The line of a service's output that `ready: {log: pattern}` waits for. ServiceError for what is no pattern."""

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = compile_pattern(f"/{pattern}/")
        except PatternError as error:
            raise ServiceError(f"ready: log: {pattern!r}: {error}") from error
        self._wanted = self.missing = f"no line that matches {pattern!r}"
        """`missing` is empty when it was there."""

    def see(self, line: str) -> None:
        """Receive each line, in another thread."""
        if not self.missing:
            return
        try:
            self.missing = "" if self._pattern.found_in(line) else self.missing
        except SearchError as error:
            self.missing = f"{self._wanted} ({error})"


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

    def close(self) -> None:
        with self._guard:
            self._closed = True


class Lines:
    """A service's output: prefixes lines, keeps the last ones, passes each to `on_line`, if that is set."""

    def __init__(self, name: str, output: Output) -> None:
        self._prefix = f"{name} | ".encode()
        self._output = output
        self.on_line: Callable[[str], None] = lambda line: None
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
        self.on_line(text)

    def last(self) -> str:
        """Format the last lines for people."""
        if not self._last:
            return "It printed nothing."
        return "Its last lines:\n" + "\n".join(f"  {line}" for line in self._last)
