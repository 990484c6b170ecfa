"""Split bytes into lines for the record. Pure, and on the hot path of a million lines a second."""

from __future__ import annotations

import base64
import re
from typing import Any

from msgspec import Struct

from loom.util import jsons

STANDARD_OUTPUT = "standard output"
"""Replaces a file in error messages."""

LINE_LIMIT = 65536
"""Longer lines are recorded in pieces (`partial`), which bounds memory. In bytes."""

TAIL_LINES = 20
"""Number of a failing step's last lines on the screen."""


_NOT_UTF8 = re.compile("[\ud800-\udfff]")


def encodable(value: Any) -> Any:
    """Return a JSON value with U+FFFD for bytes of names that are not UTF-8, which documents can't hold."""
    return jsons.map_texts(value, lambda text: text if text.isascii() else _NOT_UTF8.sub("\ufffd", text))


class Line(Struct, frozen=True):
    """A line without its line end. `raw_b64` is set if the bytes are not UTF-8; `text` then shows them with U+FFFD."""

    text: str
    partial: bool = False
    raw_b64: str | None = None


def line_of(raw: bytes, *, partial: bool = False) -> Line:
    try:
        return Line(raw.decode(), partial)
    except UnicodeDecodeError:
        return Line(raw.decode(errors="replace"), partial, base64.b64encode(raw).decode())


def text_fields(name: str, raw: bytes) -> dict[str, str]:
    """Make the fields of a text for a JSON document: with the exact bytes where they are not UTF-8."""
    line = line_of(raw)
    return {name: line.text} if line.raw_b64 is None else {name: line.text, f"{name}_b64": line.raw_b64}


class LineSplitter(Struct):
    """Split chunks of one stream into lines, and lines over `limit` into pieces.

    Joining the results' bytes, with a line end after each that is not `partial` (except an unterminated last one from
    `finish`), restores the input exactly. Never splits a UTF-8 character.
    """

    limit: int = LINE_LIMIT
    _rest: bytes = b""

    def feed(self, data: bytes) -> list[str] | list[Line]:
        """Return the complete lines: as texts if all are UTF-8 and none is long, which is frequent, and faster."""
        end = data.rfind(b"\n")
        if end < 0:
            self._rest += data
            return self._overlong()
        block = self._rest + data[:end]
        self._rest = data[end + 1 :]
        try:
            lines = block.decode().split("\n")
        except UnicodeDecodeError:
            lines = []
        # No character has more than four bytes.
        if lines and (len(block) <= self.limit or max(map(len, lines)) * 4 <= self.limit):
            return lines if len(self._rest) <= self.limit else [*map(Line, lines), *self._overlong()]
        pieces: list[Line] = []
        for raw in block.split(b"\n"):
            while len(raw) > self.limit:
                head, raw = _cut(raw, self.limit)
                pieces.append(line_of(head, partial=True))
            pieces.append(line_of(raw))
        return pieces + self._overlong()

    def _overlong(self) -> list[Line]:
        pieces = []
        while len(self._rest) > self.limit:
            head, self._rest = _cut(self._rest, self.limit)
            pieces.append(line_of(head, partial=True))
        return pieces

    def finish(self) -> list[Line]:
        """Return the unterminated rest of the stream: one line, marked `partial`, or nothing."""
        rest, self._rest = self._rest, b""
        return [line_of(rest, partial=True)] if rest else []


def _cut(raw: bytes, limit: int) -> tuple[bytes, bytes]:
    """Cut after at most `limit` bytes, at a UTF-8 character boundary."""
    at = limit
    while at > limit - 3 and raw[at] & 0xC0 == 0x80:
        at -= 1
    if raw[at] & 0xC0 == 0x80:
        at = limit
    return raw[:at], raw[at:]
