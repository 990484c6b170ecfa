"""The log of a server's job in a file: what it tells of the job, its output command by command, and how it ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from loom.analysis.failure import LINES_READ, JobEnding, ending
from loom.analysis.server_log import LogFacts, LogLine, LogReader, diagnosis_of_log
from loom.analysis.verdict import Block
from loom.commands.record import remote
from loom.commands.servers import RemoteJob

_BEGINNING = 4 << 20
"""The part of a log that is searched for what the checkout printed."""


class JobLog:
    def __init__(self, file: BinaryIO, job: RemoteJob, root: Path) -> None:
        self._file = file
        self._job = job
        self._root = root
        self.read()

    def read(self, survived: Container[str] = ()) -> None:
        """Read its end; the names of `survived` are steps whose failure did not end the job."""
        self._log = remote.read(self._file, survived)
        self.diagnosis = diagnosis_of_log(self._log, self._job.url, job=self._job.name, root=self._root)

    @property
    def facts(self) -> LogFacts:
        return self._log.facts

    def beginning(self) -> bytes:
        self._file.seek(0)
        return self._file.read(_BEGINNING)

    def lines(self) -> Iterator[LogLine]:
        self._file.seek(0)
        return LogReader().lines(iter(lambda: self._file.read(1 << 18), b""))

    def ending(self) -> JobEnding:
        """Return how the job ended, by the last command of the unit that ended it."""
        command, lines = self._log.unit.name, deque[str]()
        for block in self.blocks():
            command, lines = block.command or self._log.unit.name, deque(block.lines, LINES_READ)
        facts = self.facts
        return ending(self.diagnosis.state, command=command, exit_code=facts.exit_code, error=facts.error, lines=lines)

    def blocks(self) -> Iterator[Block]:
        """Yield the commands of the unit that ended the job, each with its output."""
        unit, directory = self._log.unit, self.facts.directory or "\0"

        def numbered() -> Iterator[tuple[int, str, str | None]]:
            number, command = 0, "" if unit.marked else unit.name
            for line in self.lines():
                if line.unit != unit.name:
                    continue
                if line.kind == "command":
                    number, command = number + 1, line.text
                    yield number, command, None
                elif line.kind == "output":
                    yield number, command, line.text.replace(directory, "<workspace>")

        for (_, name), lines in groupby(numbered(), key=lambda each: each[:2]):
            yield Block(name, (text for _, _, text in lines if text is not None))
