"""Fold the sections that a job's output marks as in GitLab's job logs; the record has every byte of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from loom.util.controls import visible
from loom.util.units import counted, rough_duration

_MARK = re.compile(r"(?:\x1b\[0K)?section_(start|end):([0-9]{1,12}):([\w.-]{1,200})(?:\[([^\]\r]{0,200})\])?\r\x1b\[0K")
MOST_DEEP = 50
"""A mark below this depth is text: nobody nests so deep, and a job could print any number."""


class _Section(Struct, kw_only=True):
    name: str
    title: str
    began: int
    collapsed: bool
    lines: int = 0


class Sections:
    """The open sections of every step. A collapsed one is shown at its end, as one line with its size and duration."""

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks
        self._open: dict[tuple[str, str], list[_Section]] = {}

    def lines(self, place: tuple[str, str], text: str) -> Iterator[str]:
        """Yield what to show for one line of a step's output."""
        begin = 0
        for mark in _MARK.finditer(text):
            yield from self._text(place, text[begin : mark.start()], marked=True)
            begin = mark.end()
            if mark[1] == "end":
                yield from self._end(place, mark[3], int(mark[2]))
                continue
            following = _MARK.search(text, begin)
            title = visible(text[begin : following.start() if following else len(text)]).strip() or mark[3]
            begin = following.start() if following else len(text)
            shown = not self._hides(place)
            stack = self._open.setdefault(place, [])
            if len(stack) < MOST_DEEP:
                collapsed = "collapsed=true" in (mark[4] or "")
                stack.append(_Section(name=mark[3], title=title, began=int(mark[2]), collapsed=collapsed))
                if shown and not collapsed:
                    yield f"{self._marks['open']} {title}"
        yield from self._text(place, text[begin:], marked=begin > 0)

    def end(self, place: tuple[str, str]) -> Iterator[str]:
        """Yield what the end of a step leaves open and hidden."""
        for section in self._open.pop(place, ()):
            if section.collapsed:
                yield f"{self._marks['start']} {section.title} ({counted(section.lines, 'line')}, without an end)"
                return

    def _hides(self, place: tuple[str, str]) -> bool:
        return any(section.collapsed for section in self._open.get(place, ()))

    def _text(self, place: tuple[str, str], text: str, *, marked: bool) -> Iterator[str]:
        if marked and not visible(text).strip():
            return
        for section in self._open.get(place, ()):
            section.lines += 1
        if not self._hides(place):
            yield text

    def _end(self, place: tuple[str, str], name: str, now: int) -> Iterator[str]:
        stack = self._open.get(place, [])
        at = next((number for number in reversed(range(len(stack))) if stack[number].name == name), None)
        if at is None:
            return
        section = stack[at]
        del stack[at:]
        if not self._hides(place):
            took = rough_duration(max(0, now - section.began) * 1000)
            mark = self._marks["start" if section.collapsed else "close"]
            size = f"{counted(section.lines, 'line')}, " if section.collapsed else ""
            yield f"{mark} {section.title} ({size}{took})"
