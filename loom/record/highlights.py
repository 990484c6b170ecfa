"""The lines of a step's output that tell why it failed, chosen while the output is recorded.

One automaton of literal words decides which lines are looked at, so that other lines cost nothing in Python. It searches the
bytes of the events file, so the same code reads the file of a run that was killed, or that goes on.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from operator import itemgetter
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.record.documents import Highlight, Highlights, Why
from loom.util import jsons
from loom.util.controls import cleaned

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

SHELF = 2000
"""Bytes of text kept of the first lines that tell, and as many of the last; failing tests have a shelf of their own."""
LONGEST = 400
"""Characters of a line: of a longer one, its beginning and its end."""
_BLOCK = 1 << 18
_REACH = 1 << 14
"""Bytes before and after a line in which its heading and its continuation are looked for."""
_MOST_READ = 1 << 28
_LONGEST_EVENT = 1 << 22
_BETWEEN = 4
_EXAMINED = 10_000
"""Lines with a word that are looked at; after so many, only those in the last `_LAST` bytes of each block are."""
_LAST = 1 << 11
_SAME = 3
"""Of lines that differ in numbers alone, so many are kept first; the others only where room is left."""
_FORMS = 4096

TELLING = re.compile(
    r"""\b(?:errors?|fail(?:ed|ures?)?|fatal|panic|panicked|exception|traceback|assert\w*|undefined|unresolved
    |cannot|can't|could(?:\ not|n't)|unable\ to|not\ found|no\ such\ file|denied|refused|segmentation\ fault|killed
    |timed?\ ?out|abort\w*|invalid|unexpected|expected)\b|^E\s{2,}|^npm\ ERR!|^FAIL\b
    |\bnot\ ok\b|✗|✘|✕|✖|[A-Z]\w+(?:Error|Exception)\b""",
    re.VERBOSE | re.IGNORECASE,
)
NOT_TELLING = re.compile(
    r"\b0 (?:errors?|failed|failures)\b|\b(?:errors?|failed|failures)(?:: |=)0\b|\bno errors?\b|^\s*\w+: 0$|^\s*\^+\s*$"
    r"|\bversion: undefined$",
    re.IGNORECASE,
)


def speaks_of_error(line: str) -> bool:
    return TELLING.search(line) is not None and NOT_TELLING.search(line) is None


_POSITION = re.compile(r"\.\w{1,5}(?::\d|\(\d)")
WORDS: dict[str, Why | None] = dict.fromkeys(
    (
        *("rror", "RROR", "fail", "Fail", "FAIL", "fatal", "FATAL", "Fatal", "panic", "xception", "raceback", "ssert"),
        *("annot ", "can't", "not found", "o such file", "denied", "refused", "egmentation", "illed", "imed out"),
        *("nvalid", "ndefined", "nresolved", "xpected", "bort", "nable to", "ould not", "ouldn't"),
        *(".py:", ".go:", ".rb:", ".ts:", ".js:", "--> "),
    )
)
WORDS |= {"not ok": "test", "✗": "test", "✘": "test", "✕": "test", "✖": "test"}
"""Substrings that mark a line, and the mark (None: its text decides). The table of formats adds to them."""
_AT_ONCE = 20
"""Words that one automaton searches for: of so few, it compares many bytes in one instruction."""


class Watch:
    """The words to look for. Made once a run, when the first block of output is complete or the first step has failed."""

    def __init__(self, words: Callable[[], Mapping[str, Why | None]] = dict) -> None:
        self._words = words

    @cached_property
    def _kinds(self) -> list[tuple[bytes, Why | None]]:
        """The words as an events file has them, the longest first."""
        words = {**WORDS, **self._words()}
        return sorted(
            ((jsons.encode_line(word)[1:-2], why) for word, why in words.items()), key=lambda word: -len(word[0])
        )

    @cached_property
    def _automata(self) -> list[tuple[BytesAhoCorasick, list[Why | None]]]:
        groups = [self._kinds[at : at + _AT_ONCE] for at in range(0, len(self._kinds), _AT_ONCE)]
        return [(automaton(tuple(word for word, _ in group)), [why for _, why in group]) for group in groups]

    def found_in(self, data: bytes | memoryview) -> list[tuple[int, Why | None]]:
        """Yield the positions of words, in order."""
        found: list[tuple[int, Why | None]] = []
        for searched, kinds in self._automata:
            found += [(at, kinds[word]) for word, at, _ in searched.find_matches_as_indexes(data)]
        found.sort(key=itemgetter(0))
        return found


@cache
def automaton(words: tuple[bytes, ...]) -> BytesAhoCorasick:
    from ahocorasick_rs import BytesAhoCorasick, MatchKind

    return BytesAhoCorasick(words, matchkind=MatchKind.LeftmostFirst)


class _Output(Struct, frozen=True):
    """An output event, as far as this module needs it; any other event has no `text`."""

    seq: int
    text: str = ""
    stream: str = ""


_DECODER = msgspec.json.Decoder(_Output)


class _Shelf:
    """The first blocks of lines that have room, and the last ones."""

    def __init__(self, room: int = SHELF) -> None:
        self._room = room
        self._first: list[list[Highlight]] = []
        self._last: deque[list[Highlight]] = deque()
        self._sizes = [0, 0]
        self.dropped = False

    def add(self, block: list[Highlight]) -> None:
        block = _fitting(block, self._room // 2)
        size = _size(block)
        if not self._last and self._sizes[0] + size <= self._room:
            self._first.append(block)
            self._sizes[0] += size
            return
        self._last.append(block)
        self._sizes[1] += size
        while self._sizes[1] > self._room:
            self._sizes[1] -= _size(self._last.popleft())
            self.dropped = True

    @property
    def lines(self) -> list[Highlight]:
        return [line for block in (*self._first, *self._last) for line in block]


def _size(block: Sequence[Highlight]) -> int:
    return sum(len(line.text.encode()) + 1 for line in block)


def _fitting(block: list[Highlight], room: int) -> list[Highlight]:
    """Return the block; of a larger one its first lines, and as many of its last ones as fit."""
    if _size(block) <= room:
        return block
    head, tail = block[:3], block[3:]
    while tail and _size(head) + _size(tail) > room:
        tail.pop(0)
    return head + tail


class Highlighter:
    """Chooses the lines of one events file. Feed it the file's bytes, whole lines at a time, in order."""

    def __init__(self, watch: Watch, start: int = 0, lines: int = 0) -> None:
        """`start`, `lines`: bytes and lines that the file has before those that are fed."""
        self._watch = watch
        self._new: list[bytes] = []
        self._size = 0
        self._data = b""
        """The end of the last block: context, and lines that wait for what follows them."""
        self._start = start
        """The offset of `_data` in the file."""
        self._lines = lines
        """Lines of the file, up to the end of the data that was fed."""
        self._counted = (start, lines + 1)
        """An offset, and the number of the line that begins there."""
        self._done = start
        """The offset up to which lines were looked at."""
        self._shelves = {"error": _Shelf(), "test": _Shelf(), "location": _Shelf(SHELF // 3), "alike": _Shelf()}
        """The last one has lines that differ from others in numbers alone."""
        self._seen: dict[str, int] = {}
        self._examined = 0
        self._found = 0
        self._part = False
        self._taken = 0
        """The offset up to which lines were kept as the continuation of another."""

    @property
    def read(self) -> int:
        """Bytes that were fed."""
        return self._start + len(self._data) + self._size

    def feed(self, data: bytes, lines: int) -> None:
        """`lines`: how many the data has."""
        self._new.append(data)
        self._size += len(data)
        self._lines += lines
        if self._size >= _BLOCK:
            self._scan(final=False)

    def finish(self) -> Highlights:
        """Return the lines that were chosen. Nothing can be fed afterwards."""
        self._scan(final=True)
        kept = [line for shelf in self._shelves.values() for line in shelf.lines]
        found = {line.seq: line for line in sorted(kept, key=lambda line: line.why != "context")}
        return Highlights(
            lines=[found[seq] for seq in sorted(found)],
            found=self._found,
            complete=not self._part and not any(shelf.dropped for shelf in self._shelves.values()),
        )

    def _scan(self, *, final: bool) -> None:
        data = self._data = b"".join((self._data, *self._new))
        self._new, self._size = [], 0
        end = len(data) if final else max(0, data.rfind(b"\n", 0, max(0, len(data) - _REACH)) + 1)
        begin = self._done - self._start
        if end > begin:
            searched = begin
            if self._examined >= _EXAMINED:
                self._part = True
                searched = max(begin, data.rfind(b"\n", 0, max(0, end - _LAST)) + 1)
            hits = self._lines_with_a_word(data, searched, end)
            self._examined += len(hits)
            for start, why in hits.items():
                if self._start + start >= self._taken:
                    self._taken = self._start + self._examine(data, start, why)
            self._done = self._start + end
        keep = data.rfind(b"\n", 0, max(0, end - _REACH)) + 1
        self._data = data[keep:]
        self._start += keep
        if self._counted[0] < self._start:
            self._counted = (self._start, self._lines + 1 - self._data.count(b"\n"))

    def _lines_with_a_word(self, data: bytes, begin: int, end: int) -> dict[int, Why | None]:
        """Return the kind of the surest word of each such line, by the line's start."""
        found: dict[int, Why | None] = {}
        start = stop = -1
        for at, kind in self._watch.found_in(memoryview(data)[begin:end]):
            if begin + at >= stop:
                start, stop = data.rfind(b"\n", 0, begin + at) + 1, data.find(b"\n", begin + at)
            found[start] = found.get(start) or kind
        return found

    def _examine(self, data: bytes, start: int, why: Why | None) -> int:
        """Keep the line if it tells, with what belongs to it. Returns where the next line to look at begins."""
        event, after = self._event(data, start)
        if event is None:
            return after
        text = _text(event)
        if why is None:
            why = "error" if TELLING.search(text) else "location" if _POSITION.search(text) else None
        if why is None or NOT_TELLING.search(text):
            return after
        self._found += 1
        form = form_of(text)
        seen = self._seen.get(form, 0)
        if seen or len(self._seen) < _FORMS:
            self._seen[form] = seen + 1
        following, after = self._following(data, text, after, start + _REACH)
        heading = self._heading(data, start, text) if text[:1].isspace() else []
        block = [*heading, self._highlight(event, start, text, why), *following]
        self._shelves[why if seen < _SAME else "alike"].add(block)
        return after

    def _event(self, data: bytes, start: int) -> tuple[_Output | None, int]:
        """Return the line of output that begins there, None for another event; and where the next event begins."""
        stop = data.find(b"\n", start)
        try:
            event = _DECODER.decode(data[start:stop])
        except ValueError:
            return None, stop + 1
        return (event if event.stream else None), stop + 1

    def _highlight(self, event: _Output, start: int, text: str, why: Why) -> Highlight:
        """Return the line that begins there; its number is counted from the last one that was asked for."""
        offset, number = self._counted
        known = offset - self._start
        number += self._data.count(b"\n", known, start) if start >= known else -self._data.count(b"\n", start, known)
        self._counted = (self._start + start, number)
        return Highlight(seq=event.seq, line=number, offset=self._start + start, text=text, why=why)

    def _line(self, data: bytes, start: int, why: Why) -> Highlight | None:
        event, _ = self._event(data, start)
        return None if event is None else self._highlight(event, start, _text(event), why)

    def _heading(self, data: bytes, start: int, text: str) -> list[Highlight]:
        """Return the last less indented line before, such as a file's name above its errors, with up to `_BETWEEN` in between."""
        between: list[Highlight] = []
        lowest = max(0, start - _REACH)
        for _ in range(40):
            before = data.rfind(b"\n", 0, max(0, start - 1)) + 1
            if start == 0 or before < lowest:
                break
            start = before
            line = self._line(data, start, "context")
            if line is None:
                break
            if line.text.strip() and _indent(line.text) < _indent(text):
                return [line, *(reversed(between) if len(between) <= _BETWEEN else ())]
            between.append(line)
        return []

    def _following(self, data: bytes, first: str, at: int, limit: int) -> tuple[list[Highlight], int]:
        """Return the lines that belong to `first`: a whole traceback, or what is indented or marked as its continuation."""
        traceback = "Traceback (most recent call last)" in first
        most, indent = (60 if traceback else 16), _indent(first)
        found: list[Highlight] = []
        blank: list[Highlight] = []
        end = after = at
        while len(found) < most and at < min(len(data), limit):
            line = self._line(data, at, "context")
            after = data.find(b"\n", at) + 1
            if line is None or after > limit or len(blank) > 2:
                break
            if not line.text.strip():
                blank.append(line)
            elif _indent(line.text) > indent or (not blank and _CONTINUES.match(line.text)):
                found += (*blank, line)
                blank, end = [], after
            else:
                # The exception; or what the line announces.
                if not blank and (traceback or (not found and first.endswith(":"))):
                    found.append(line)
                    end = after if traceback else end
                break
            at = after
        return found, end


_CONTINUES = re.compile(r"\s*(?:[|^~=]|E\s{2}|\d+ \||at |-->|\.\.\.|caused by|note:|help:)", re.IGNORECASE)
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+")


def form_of(text: str) -> str:
    """Return the line without its numbers, or as it is if it says what a command gave."""
    return text if text.startswith("`") else _NUMBERS.sub("0", text[:200]).strip()


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def clipped(text: str) -> str:
    """Return the text; of a long one, its beginning and its end."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} … {text[-half:]}"


def _text(event: _Output) -> str:
    return clipped(cleaned(event.text).rstrip())


def file_highlights(file: BinaryIO, watch: Watch) -> Highlights:
    """Return the highlights of an events file, up to `_MOST_READ`, a line that is no event or a half-written one."""
    highlighter = Highlighter(watch)
    rest = b""
    while highlighter.read < _MOST_READ and len(rest) < _LONGEST_EVENT and (data := file.read(_BLOCK)):
        end = data.rfind(b"\n") + 1
        if end:
            highlighter.feed(rest + data[:end], data.count(b"\n"))
        rest = data[end:] if end else rest + data
    found = highlighter.finish()
    return replace(found, complete=False) if file.read(1) else found
