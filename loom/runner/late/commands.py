"""Carry out the workflow commands in a step's output.

The record keeps every line; a command is carried out before its line is passed on, so that `::add-mask::` hides its own value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import Lock

from loom.record.workflow_commands import WorkflowCommand, command_in
from loom.status import OnOutput, Stream

_MAY_BEGIN = re.compile(rb"\s*(?:|:.*|#|##.*)\Z", re.DOTALL)
"""The beginning of a line that may become a command."""
_MAY_HAVE = re.compile(rb"^[ \t]*::|##\[", re.MULTILINE)
"""Output that may have a command: names such as `std::move` are none."""
_LONGEST = 1 << 22


class CommandFilter:
    """An `OnOutput` that gives each command of a step's output to `do`, and everything to `on_output`. `end` passes the rest on.

    `look` gets every other line, while it is set.
    """

    def __init__(self, on_output: OnOutput, do: Callable[[WorkflowCommand], None]) -> None:
        self.look: Callable[[str], None] | None = None
        self._on_output = on_output
        self._do = do
        self._held: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
        self._mid_line: dict[Stream, bool] = {"stdout": False, "stderr": False}
        self._stopped: str | None = None
        self._lock = Lock()

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            data = self._held[stream] + data
            whole = data[: data.rfind(b"\n") + 1]
            rest = data[len(whole) :]
            if whole:
                self._lines(whole, mid_line=self._mid_line[stream])
                self._mid_line[stream] = False
            may_begin = self.look is not None or _MAY_BEGIN.match(rest) is not None
            holds = bool(rest) and not self._mid_line[stream] and len(rest) < _LONGEST and may_begin
            self._held[stream] = rest if holds else b""
            passed = whole if holds else data
            self._mid_line[stream] = self._mid_line[stream] or (bool(rest) and not holds)
            if passed:
                self._on_output(stream, passed)

    def end(self) -> None:
        with self._lock:
            for stream, held in self._held.items():
                if held:
                    self._lines(held, mid_line=False)
                    self._on_output(stream, held)

    def _lines(self, data: bytes, *, mid_line: bool) -> None:
        some = b"::" in data or b"##[" in data  # ten times faster than the pattern
        if self.look is None and not (some and _MAY_HAVE.search(data)):
            return
        lines = data.split(b"\n")
        for line in lines[1:] if mid_line else lines:
            if self.look is None and _MAY_HAVE.match(line) is None and b"##[" not in line:
                continue
            text = line.decode("utf-8", "replace").rstrip("\r")
            if not self._command(text) and self.look is not None and text:
                self.look(text)

    def _command(self, text: str) -> bool:
        if self._stopped is not None:
            if text.strip() == f"::{self._stopped}::":
                self._stopped = None
                return True
            return False
        found = command_in(text)
        if found is None:
            return False
        if found.name == "stop-commands":
            self._stopped = found.value
        else:
            self._do(found)
        return True
