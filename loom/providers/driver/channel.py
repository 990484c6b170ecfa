"""Send commands to the driver of a job's container and receive its answers, over a connection that may break and be resumed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.providers.driver import protocol as driver
from loom.status import OnOutput, Stream

ASK_ENGINE_S = 60.0
"""How often to check a silent engine."""


class Exchange:
    """One command to the driver: its output so far, without marks, and its answer, which arrives on both streams."""

    def __init__(self, token: bytes = b"", later: list[tuple[Stream, bytes]] | None = None) -> None:
        """`token`: of the shared shell that the command runs in, whose end is marked too; else a new one. `later`: gets what
        follows the answer, which is another command's; None: it is this one's.
        """
        self.token = token or driver.new_token()
        self._later = later
        self.to_the_end = False
        """Whether the end of the shared shell is waited for, and not only the answer."""
        self.answer: str | None = None
        self.reported: dict[str, list[bytes]] = {}
        """The lines of the files that the driver read after the step, by name (`driver.REPORTED`)."""
        self.began: Callable[[Stream, int, str], None] | None = None
        """As `Command.began`."""
        self._cutters: dict[Stream, driver.Cutter] = {
            "stdout": driver.Cutter(self.token),
            "stderr": driver.Cutter(self.token),
        }
        self._unanswered: set[Stream] = {"stdout", "stderr"}
        self._open: set[Stream] = {"stdout", "stderr"}

    @property
    def _awaited(self) -> set[Stream]:
        return self._open if self.to_the_end else self._unanswered

    def is_over(self) -> bool:
        return not self._awaited

    def feed(self, stream: Stream, data: bytes, on_output: OnOutput) -> None:
        parts = deque(
            [data] if self._later is not None and stream not in self._awaited else self._cutters[stream].feed(data)
        )
        while parts:
            if self._later is not None and stream not in self._awaited:
                rest = b"".join(part if isinstance(part, bytes) else part.encoded(self.token) for part in parts)
                self._later.append((stream, rest + self._cutters[stream].rest()))
                return
            part = parts.popleft()
            if isinstance(part, bytes):
                on_output(stream, part)
            elif part.begins:
                part.tell(stream, self.began)
            elif (name := driver.REPORTED.get(chr(part.text[0]) if part.text else "")) is not None:
                self.reported.setdefault(name, []).append(part.text[1:])
            elif part.text.startswith(b"."):
                self._open.discard(stream)
                if stream == "stdout" and self.answer is None:
                    self.answer = part.text[1:].decode("ascii", "replace").strip()
            else:
                self._unanswered.discard(stream)
                if stream == "stdout":
                    self.answer = part.text.decode("utf-8", "surrogateescape").strip()

    def release(self, on_output: OnOutput) -> None:
        """Pass on the beginning of an incomplete mark."""
        for stream, cutter in self._cutters.items():
            if rest := cutter.rest():
                on_output(stream, rest)


class Died(Exception):
    """The job itself ended the driver, and so the container."""

    def __init__(self, code: int, *, oom: bool) -> None:
        super().__init__(code)
        self.code = code
        self.oom = oom


class ConnectionLost(ProviderError):
    """The container, or the connection to it, is gone."""

    default_code = "CONTAINER_LOST"


class Attached(Protocol):
    """The connection to a container's standard input and output."""

    @property
    def at_end(self) -> bool:
        """The output has ended."""

    def send(self, data: bytes) -> None:
        """Send to the driver's input. OSError when it is closed."""

    def wake(self) -> None:
        """Make a concurrent `read` return at once. Callable from any thread, also after `close`."""

    def read(self, timeout_s: float) -> Sequence[tuple[Stream, bytes]]:
        """Return new output; wait up to `timeout_s`. Empty after a timeout, a wake, and at the end.

        OSError when the connection broke, ConnectionLost when it can't be resumed.
        """

    def close_input(self) -> None:
        """Order the driver to stop."""

    def close(self) -> None: ...


class Container(Protocol):
    """The engine's knowledge of a driver's container."""

    def ask(self) -> None:
        """Check the engine during a silent step: steps may be silent for hours, engines may not. EngineUnavailable."""

    def resume(self, error: OSError | None, release: Callable[[], None]) -> None:
        """Continue after an early end of the output, if the container runs.

        Else call `release`, and raise the reason: Died if the job itself ended the container, ConnectionLost, EngineUnavailable.
        """

    def kill(self) -> None: ...


class Channel:
    """The connection to one container's driver. One command at a time."""

    def __init__(self, attachment: Attached, container: Container, job_id: str) -> None:
        self.attachment = attachment
        self._container = container
        self._job_id = job_id
        self.later: list[tuple[Stream, bytes]] = []
        """Output of commands that nobody listens to yet (`Exchange`)."""

    def send(self, line: bytes) -> None:
        try:
            self.attachment.send(line)
        except OSError:
            pass  # the end of the output has the reason

    def ask(self, line: Callable[[bytes], bytes], on_output: OnOutput, limit_s: float) -> str | None:
        """Return the driver's answer to a command, which `line` builds with a token; None on timeout. ConnectionLost when the
        container has ended.
        """
        exchange = Exchange()
        self.send(line(exchange.token))
        try:
            answered = self.listen(exchange, on_output, deadline=time.monotonic() + limit_s, cancel=None)
        except Died as died:
            raise ConnectionLost(f"the container of job {self._job_id} has ended, exit code {died.code}") from died
        return exchange.answer if answered else None

    def listen(
        self,
        exchange: Exchange,
        on_output: OnOutput,
        *,
        deadline: float | None,
        cancel: Cancel | None,
        only_now: bool = False,
    ) -> bool:
        """Pass output on until the answer arrives; False at the deadline or on a cancel.

        `only_now`: only the second cancel request counts. After False, it can be called again. Died, ConnectionLost and
        EngineUnavailable mean that no answer will come.
        """
        arrived, self.later[:] = [*self.later], []
        for stream, data in arrived:
            exchange.feed(stream, data, on_output)
        while not exchange.is_over():
            if cancel is not None and (cancel.now if only_now else cancel.requested):
                return False
            left = ASK_ENGINE_S if deadline is None else min(ASK_ENGINE_S, deadline - time.monotonic())
            if left <= 0:
                return False
            asked = time.monotonic()
            try:
                chunks = self.attachment.read(left)
            except OSError as error:
                self._container.resume(error, lambda: None)
                continue
            for stream, data in chunks:
                exchange.feed(stream, data, on_output)
            if self.attachment.at_end and not exchange.is_over():
                self._container.resume(None, lambda: exchange.release(on_output))
            if not chunks and time.monotonic() - asked >= ASK_ENGINE_S:
                self._container.ask()
        return True

    def drain(self, on_output: OnOutput, limit_s: float) -> None:
        """Close the input and pass on the remaining output that arrives in time."""
        self.attachment.close_input()
        deadline = time.monotonic() + limit_s
        with suppress(OSError, LoomError):
            while not self.attachment.at_end and (left := deadline - time.monotonic()) > 0:
                for stream, data in self.attachment.read(left):
                    on_output(stream, data)

    def kill(self) -> None:
        self._container.kill()
