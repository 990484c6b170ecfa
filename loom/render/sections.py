"""Fold the sections that a job's output marks; the record has every byte of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loom.util.sections import OutputSection, SectionReader, reader_for
from loom.util.units import counted, rough_duration


class Sections:
    """The open sections of every output. A collapsed one is shown at its end, as one line with its size and duration."""

    def __init__(self, marks: Mapping[str, str]) -> None:
        self._marks = marks
        self._readers: dict[tuple[str, str], SectionReader] = {}
        self.planned: Mapping[str, Mapping[str, Any]] = {}

    def lines(self, place: tuple[str, str], text: str) -> Iterator[str]:
        """Yield what to show for one line of an output."""
        reader = self._readers.get(place)
        if reader is None:
            reader = self._readers[place] = reader_for(self.planned.get(place[0], {}))
        for part in reader.parts(text):
            if any(section.collapsed for section in reader.open):
                continue
            if isinstance(part, str):
                yield part
            elif part.ended is None:
                yield f"{self._marks['open']} {part.title}"
            elif part.duration_ms is not None:
                yield self._end(part, rough_duration(part.duration_ms))

    def end(self, place: tuple[str, str]) -> Iterator[str]:
        """Yield what the end of an output leaves open and hidden."""
        if (reader := self._readers.pop(place, None)) is not None:
            for section in [section for section in reader.open if section.collapsed][:1]:
                yield self._end(section, "without an end")

    def _end(self, section: OutputSection, took: str) -> str:
        mark = self._marks["start" if section.collapsed else "close"]
        size = f"{counted(section.lines, 'line')}, " if section.collapsed else ""
        return f"{mark} {section.title} ({size}{took})"
