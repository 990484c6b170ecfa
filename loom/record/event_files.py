"""Reading files of events: in order, or from the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from loom.errors import RecordError
from loom.record.documents import KNOWN_SCHEMAS, SCHEMA_VERSION, UNREADABLE
from loom.record.events import Event, OutputEvent, PhaseEvent, decode
from loom.record.fold import RunFold
from loom.record.run_paths import RunPaths
from loom.util.untrusted_files import open_regular

LONGEST_LINE = 32 << 20
"""Limit of an event's line; a sparse file could otherwise exhaust memory."""
TAIL_BYTES = 16_000_000
"""Maximum number of bytes to read from a file's end, for any line length."""
_BLOCK = 65536
_OUTPUT, _STDERR, _PARTIAL = b'{"kind":"output",', b',"stream":"stderr",', b',"partial":true'
"""As `encode` writes them; inside a text, the quotation marks have a backslash before them."""
_PHASES_AT_THE_END = 2
"""A step's file ends with its phase_finished; nothing longer follows its output."""


def read_events(path: Path, start: int = 0) -> Iterator[Event]:
    """Yield the events from the line at byte `start`, but for a half-written last one. RecordError for a damaged line."""
    with opened(path) as file:
        file.seek(start)
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if not line.endswith(b"\n"):
                if len(line) == LONGEST_LINE:
                    raise RecordError(f"{path}:{number}: the line is longer than {LONGEST_LINE >> 20} MiB")
                return
            yield decoded(line, f"{path}:{number}")


def decoded(line: bytes, where: object) -> Event:
    """Decode a line. RecordError for one that is no event."""
    try:
        return decode(line)
    except ValueError as error:
        raise RecordError(f"{where}: {error}", hint=UNREADABLE) from error


def output_in(path: Path, start: int = 0) -> Iterator[OutputEvent]:
    """Yield the output of a step's or section's file, from the line at byte `start`; none without a file."""
    with suppress(FileNotFoundError):  # loom was killed between the start and the first line
        yield from (event for event in read_events(path, start) if isinstance(event, OutputEvent))


def whole_lines(events: Iterable[OutputEvent]) -> Iterator[OutputEvent]:
    """Yield the lines of one file as printed."""
    joining = LineJoiner()
    for event in events:
        yield from joining.add(event)
    yield from joining.rest()


class LineJoiner:
    """Joins the recorded pieces of long lines, in one file."""

    def __init__(self) -> None:
        self._begun: dict[str, list[OutputEvent]] = {}

    def add(self, event: OutputEvent) -> Iterator[OutputEvent]:
        """Return the completed line, if any."""
        self._begun.setdefault(event.stream, []).append(event)
        if not event.partial:
            yield _joined(self._begun.pop(event.stream))

    def rest(self) -> Iterator[OutputEvent]:
        """Return unterminated lines at the end."""
        yield from map(_joined, self._begun.values())


def _joined(pieces: Sequence[OutputEvent]) -> OutputEvent:
    last = pieces[-1]
    return last if len(pieces) == 1 else replace(last, text="".join(piece.text for piece in pieces), raw_b64=None)


def count_output(path: Path, start: int = 0) -> int:
    """Count the lines of output in a file, from the event that begins at byte `start`; the pieces of a long line count once."""
    count = 0
    unended: set[bool] = set()
    with opened(path) as file:
        file.seek(start)
        while line := file.readline(LONGEST_LINE):
            if not line.startswith(_OUTPUT) or not line.endswith(b"\n"):
                continue
            if _PARTIAL in line:
                unended.add(_STDERR in line)
                continue
            count += 1
            if unended:
                unended.discard(_STDERR in line)
    return count + len(unended)


def opened(path: Path) -> BinaryIO:
    """Open a regular file. FileNotFoundError for one that does not exist, RecordError for one that can't be read."""
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from error


def last_lines(path: Path, count: int, *, most_bytes: int = TAIL_BYTES) -> list[bytes]:
    """Read the last `count` whole lines of a file, or as many as `most_bytes` hold, at a cost independent of its size."""
    start = start_of_last(path, count, most_bytes=most_bytes)
    with opened(path) as file:
        file.seek(start)
        whole = file.read().split(b"\n")[:-1]
    return whole[max(0, len(whole) - count) :]


def start_of_last(path: Path, count: int, *, most_bytes: int) -> int:
    """Return the byte at which the last `count` whole lines of a file begin, or as many of them as `most_bytes` hold."""
    wanted = count + 1  # the line end before them, too
    with opened(path) as file:
        end = start = file.seek(0, os.SEEK_END)
        while start > 0 and end - start < most_bytes:
            size = min(_BLOCK, start)
            start -= size
            file.seek(start)
            block = file.read(size)
            found = block.count(b"\n")
            if found >= wanted:
                at = len(block)
                for _ in range(wanted):
                    at = block.rfind(b"\n", 0, at)
                return start + at + 1
            wanted -= found
        if start == 0:
            return 0
        file.seek(start)
        return start + len(file.readline(most_bytes + _BLOCK))


def last_output(path: Path, count: int) -> list[OutputEvent]:
    """Read the last `count` output lines of a step or section; none without a file. RecordError for an invalid line."""
    try:
        lines = last_lines(path, count + _PHASES_AT_THE_END)
    except FileNotFoundError:
        return []
    output = [event for line in lines if isinstance(event := decoded(line, path), OutputEvent)]
    return output[max(0, len(output) - count) :]


def last_event(path: Path) -> Event | None:
    """Read the last complete event of a file; None for a file without a complete event."""
    try:
        lines = last_lines(path, 1)
        event = decode(lines[0]) if lines else None
        if event is not None:
            datetime.fromisoformat(event.ts)
    except (OSError, ValueError, RecordError):
        return None
    return event


def read_phases(paths: RunPaths) -> Iterator[PhaseEvent]:
    """Return all phase events of a run; RecordError when its journal is gone."""
    if not paths.events.exists():
        raise RecordError(f"{paths.events} is missing: the record of run {paths.run_id} is not whole")
    for event in read_events(paths.events):
        if isinstance(event, PhaseEvent):
            yield event


def folded(paths: RunPaths) -> RunFold:
    """Return the state of a run by its phase events so far. RecordError as in `read_phases`, and for another schema."""
    fold = RunFold()
    for event in read_phases(paths):
        if event.schema_version != SCHEMA_VERSION:
            raise other_schema(event.schema_version, paths.events)
        fold.apply(event)
    return fold


def other_schema(version: str, path: Path) -> RecordError:
    return RecordError(
        f"{path} is of the schema {version[:100]!r}, which this loom does not read ({', '.join(KNOWN_SCHEMAS)})",
        hint=UNREADABLE,
        code="RECORD_SCHEMA",
    )
