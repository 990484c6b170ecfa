"""Find the sections that a job's output marks as in GitLab's job logs.

The marks are `section_start:TIME:NAME[collapsed=true]`, then the title, and `section_end:TIME:NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from loom.record.workflow_commands import command_in, shown
from loom.util.controls import visible

_MARK = re.compile(r"(?:\x1b\[0K)?section_(start|end):([0-9]{1,12}):([\w.-]{1,200})(?:\[([^\]\r]{0,200})\])?\r\x1b\[0K")
MOST_DEEP = 50
"""A mark below this depth is text: nobody nests so deep, and a job could print any number."""


class OutputSection(Struct, kw_only=True, eq=False):
    name: str
    title: str
    collapsed: bool
    began: int | None
    """In seconds, as the mark states it; None for a group of GitHub's."""
    ended: int | None = None
    lines: int = 0
    """Lines with text so far, those of inner sections too."""

    @property
    def duration_ms(self) -> int | None:
        """None until the section has ended, and where its time is not known."""
        return None if self.ended is None or self.began is None else max(0, self.ended - self.began) * 1000


class SectionReader:
    """Follow the sections of one output. `open` holds those that have begun, the outermost first."""

    def __init__(self) -> None:
        self.open: list[OutputSection] = []

    def marks(self, text: str) -> bool:
        """Return whether a line may have something for `parts`."""
        return "section_" in text

    def seen(self, text: str) -> list[str]:
        """Return the lines that people see of one line, titles of groups too, where nothing is folded."""
        marked = "section_" in text and _MARK.search(text) is not None
        return [] if marked and not visible(text).strip() else [text]

    def parts(self, text: str) -> Iterator[str | OutputSection]:
        """Yield the parts of one line in order: text, each section when it begins, and again when it ends.

        A line without a mark is one part. The end of a section ends the sections inside it.
        """
        begin = 0
        marks = list(_MARK.finditer(text)) if "section_" in text else []
        for number, mark in enumerate(marks):
            yield from self._text(text[begin : mark.start()], marked=True)
            begin = mark.end()
            if mark[1] == "end":
                yield from self._ended(mark[3], int(mark[2]))
                continue
            end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
            title = visible(text[begin:end]).strip() or mark[3]
            begin = end
            if len(self.open) < MOST_DEEP:
                collapsed = "collapsed=true" in (mark[4] or "")
                self.open.append(OutputSection(name=mark[3], title=title, collapsed=collapsed, began=int(mark[2])))
                yield self.open[-1]
        yield from self._text(text[begin:], marked=begin > 0)

    def _text(self, text: str, *, marked: bool) -> Iterator[str]:
        if marked and not visible(text).strip():
            return
        for section in self.open:
            section.lines += 1
        yield text

    def _ended(self, name: str, now: int) -> Iterator[OutputSection]:
        if not any(section.name == name for section in self.open):
            return
        while True:
            section = self.open.pop()
            section.ended = now
            yield section
            if section.name == name:
                return


class CommandReader(SectionReader):
    """Follow the groups of an output with GitHub's workflow commands; other commands are as people see them, or hidden."""

    def __init__(self, *, debug: bool = False) -> None:
        super().__init__()
        self._debug = debug
        self._stopped = ""

    def marks(self, text: str) -> bool:
        return "::" in text or "##[" in text

    def seen(self, text: str) -> list[str]:
        parts = self.parts(text)
        return [
            part if isinstance(part, str) else part.title
            for part in parts
            if isinstance(part, str) or part.ended is None
        ]

    def parts(self, text: str) -> Iterator[str | OutputSection]:
        found = command_in(text) if self.marks(text) and not self._stopped else None
        if self._stopped and text.strip() == f"::{self._stopped}::":
            self._stopped = ""
            return
        if found is not None and found.name == "stop-commands":
            self._stopped = found.value
        if found is not None and found.name in ("group", "endgroup"):
            if self.open:
                section = self.open.pop()
                section.ended = 0
                yield section
            if found.name == "group":
                title = visible(" ".join(found.value.split())) or "group"
                self.open.append(OutputSection(name=title, title=title, collapsed=False, began=None))
                yield self.open[-1]
        elif found is None:
            yield from self._text(text, marked=False)
        else:
            for line in shown(found, debug=self._debug):
                yield from self._text(line, marked=False)


def reader_for(planned: Mapping[str, Any]) -> SectionReader:
    """Return the reader for the output of a job, by its shape in the plan of the record."""
    return CommandReader(debug=bool(planned.get("debug"))) if planned.get("commands") else SectionReader()
