"""The log of a step or section as the page holds it: compressed pieces, which the browser unpacks when they come into view."""

from __future__ import annotations

import base64
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import msgspec
from msgspec.structs import replace

from loom.record.event_files import count_output, output_in, start_of_last, whole_lines
from loom.record.events import OutputEvent
from loom.record.sections import OutputSection, SectionReader
from loom.util.controls import cleaned, visible
from loom.util.units import rough_duration
from loom.values import Immutable

MOST_LINES = 1_000_000
"""Lines of one log in the page, its last ones. Browsers show no element that is much higher than a million lines."""
MOST_BYTES = 256_000_000
"""Events of one log, and of all logs together, that are read for the page."""
LEAST_BYTES = 300_000
"""Events that are read of each log, also where others have used up the page's share."""
LONGEST_LINE = 300_000
MOST_FOLDS = 10_000
"""Sections of one log that the page folds. The browser needs all of them when it opens the log."""
_PIECE_LINES, _PIECE_CHARACTERS = 500, 100_000


class Piece(Immutable):
    """Consecutive lines. `data` is base64 of zlib's format, a line for each line: `STREAM MILLISECONDS tab TEXT`.

    STREAM is `1` or `2`; MILLISECONDS have passed since the line before, or for the first since the log began, and are left
    out without any. TEXT holds no control but tab and colour sequences.
    """

    first: int
    count: int
    data: str


class Fold(Immutable):
    """Lines of a log in a section that the output marks: the line with its title, and the last line in it."""

    first: int
    last: int
    section: OutputSection
    """Its end may come in the log of a later step."""

    @property
    def took(self) -> str:
        took = self.section.duration_ms
        return "" if took is None else rough_duration(took)


class Log(Immutable):
    total: int = 0
    pieces: list[Piece] = []
    numbers: dict[str, list[int]] = {}
    """By `key_of`: the lines with each text that was asked for."""
    folds: list[Fold] = []

    @property
    def folded(self) -> str:
        """The folds for the page: first and last line, 1 for a collapsed one, duration."""
        found = [(fold.first, fold.last, int(fold.section.collapsed), fold.took) for fold in self.folds]
        return msgspec.json.encode(found).decode() if found else ""

    @property
    def left_out(self) -> int:
        """Return the number of first lines that are not in the page."""
        return self.pieces[0].first - 1 if self.pieces else 0


def key_of(line: str) -> str:
    """Return the part that a line shares with its form in a diagnosis, which cuts long ones."""
    return cleaned(line).strip()[:200]


def numbered(lines: Sequence[str], log: Log) -> list[int | None]:
    """Return the numbers of lines that a diagnosis shows in order: of lines with the same text, the last ones that fit."""
    found: list[int | None] = []
    before = log.total + 1
    for line in reversed(lines):
        known = log.numbers.get(key_of(line), [])
        at = bisect_left(known, before)
        found.append(known[at - 1] if at else None)
        before = found[-1] or before
    return found[::-1]


class ReadBudget:
    """The amount that may still be read for one page."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def of(self, size: int) -> int:
        allowed = max(LEAST_BYTES, self._left)
        self._left -= min(size, allowed)
        return allowed


def read_log(
    path: Path,
    share: ReadBudget,
    *,
    began: str,
    total: int | None,
    sections: SectionReader | None = None,
    wanted: Collection[str] = (),
) -> Log:
    """Read the log in a file of events, of `total` lines if known; `sections`: the open ones. RecordError for a damaged file."""
    try:
        size = path.stat().st_size
    except OSError:  # loom was killed before the first line
        return Log()
    allowed = share.of(size)
    total = count_output(path) if total is None else total
    sections = sections or SectionReader()
    start, first = 0, 1
    if size > allowed or total > MOST_LINES:
        start = start_of_last(path, MOST_LINES, most_bytes=allowed)
        first = max(1, total - count_output(path, start) + 1)
        sections.open.clear()  # one may have ended among the lines that are left out
    return _Writer(began, wanted, sections).log(first, whole_lines(output_in(path, start)), total)


class _Writer:
    """Lines in, pieces out."""

    def __init__(self, began: str, wanted: Collection[str], sections: SectionReader) -> None:
        self._began = _milliseconds(began)
        self._wanted = frozenset(key_of(text) for text in wanted if text.strip())
        self._sections = sections
        self._log = Log()
        self._first: dict[OutputSection, int] = {}
        """The open sections that began in this log, and where."""

    def log(self, number: int, lines: Iterable[OutputEvent], total: int) -> Log:
        """Number the lines from `number`."""
        rows: list[str] = []
        first, size, before = number, 0, self._began
        for line in lines:
            texts = self._marked(number, line.text) if self._sections.marks(line.text) else [_shown(line.text)]
            text = " ".join(texts)
            if self._wanted and (known := key_of("".join(texts[:1]))) in self._wanted:
                self._log.numbers.setdefault(known, []).append(number)
            at = _milliseconds(line.ts)
            rows.append(f"{1 if line.stream == 'stdout' else 2}{at - before or ''}\t{text}")
            before = at
            number += 1
            size += len(text)
            if len(rows) == _PIECE_LINES or size > _PIECE_CHARACTERS:
                self._add(first, rows)
                rows, first, size, before = [], number, 0, self._began
        if rows:
            self._add(first, rows)
        for section in list(self._first):
            self._fold(section, number - 1)
        return replace(self._log, total=max(total, number - 1))

    def _marked(self, number: int, line: str) -> list[str]:
        """Note the sections that begin and end in a line. Returns its texts with all titles."""
        texts: list[str] = []
        ended: list[OutputSection] = []
        for part in self._sections.parts(line):
            if isinstance(part, str):
                texts.append(_shown(part))
            elif part.ended is not None:
                ended.append(part)
            else:
                texts.append(part.title)
                if len(self._log.folds) + len(self._first) < MOST_FOLDS:
                    self._first[part] = number
        for section in ended:
            self._fold(section, number - 1 if texts else number)
        return texts

    def _fold(self, section: OutputSection, last: int) -> None:
        first = self._first.pop(section, None)
        if first is not None:
            self._log.folds.append(Fold(first=first, last=max(first, last), section=section))

    def _add(self, first: int, rows: list[str]) -> None:
        data = base64.b64encode(zlib.compress("\n".join(rows).encode(), 6)).decode()
        self._log.pieces.append(Piece(first=first, count=len(rows), data=data))


def _shown(text: str) -> str:
    text = visible(text, colours=True).replace("\n", " ")
    if len(text) <= LONGEST_LINE:
        return text
    return f"{cleaned(text[:LONGEST_LINE])} … ({len(text) - LONGEST_LINE:,} more characters are in the record)"


@lru_cache(64)
def _milliseconds(ts: str) -> int:
    return int(datetime.fromisoformat(ts).timestamp() * 1000)
