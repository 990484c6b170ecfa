"""Services' output, line by line, prefixed with the service's name."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from loom.errors import InfrastructureError
from loom.status import OnOutput, Stream

LAST_LINES = 20
_LONGEST_LINE = 65536


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
    """A service's output: prefixes lines, keeps the last ones, passes each to `on_line`."""

    def __init__(self, name: str, output: Output, on_line: Callable[[str], None] = lambda line: None) -> None:
        self._prefix = f"{name} | ".encode()
        self._output = output
        self._on_line = on_line
        self._half: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._last: deque[str] = deque(maxlen=LAST_LINES)

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
