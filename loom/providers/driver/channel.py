"""The connection to the driver of a job's container, and one command over it: its output and its answer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from loom.errors import ProviderError
from loom.providers.driver import protocol as driver
from loom.status import OnOutput, Stream


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


class Attachment(Protocol):
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
