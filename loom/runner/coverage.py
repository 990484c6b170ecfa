"""The coverage of a job. What it prints: the number in the last line that matches its `coverage`, as in GitLab."""

from __future__ import annotations

import re

from loom.record.events import RUN, PhaseCode
from loom.runner.attempt import Attempt
from loom.status import OnOutput, Stream
from loom.util.controls import cleaned
from loom.workflow.patterns import Search, SearchError, pattern_of

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LONGEST = 1 << 16
"""Of a line, in bytes; of a longer one the end is looked at."""


def state_coverage(attempt: Attempt, percent: float, code: PhaseCode) -> None:
    """Put the coverage into the record, and on the screen."""
    attempt.fact("coverage", {"percent": round(percent, 2)}, code)
    text = f"{attempt.job.id}: coverage {percent:.4g} %"
    attempt.journal.fact(RUN, PhaseCode.PIPELINE_EXECUTE, "notice", {"text": text})


class Coverage:
    """Looks at the output of a job's steps. PatternError for an invalid pattern.

    `problem` has the reason why it gave up: a pattern of the workflow may take any time.
    """

    def __init__(self, pattern: str) -> None:
        self._search = Search(pattern_of(pattern))
        self.problem: str | None = None
        self._rest: dict[Stream, bytes] = {}
        self.percent: float | None = None

    def watching(self, on_output: OnOutput) -> OnOutput:
        """Return an `OnOutput` that passes everything on."""

        def both(stream: Stream, data: bytes) -> None:
            on_output(stream, data)
            *lines, rest = (self._rest.get(stream, b"") + data).split(b"\n")
            self._rest[stream] = rest[-_LONGEST:]
            for line in lines:
                self._look_at(line)

        return both

    def end(self) -> None:
        """Look at lines without an end: a step is over."""
        for rest in self._rest.values():
            self._look_at(rest)
        self._rest.clear()

    def _look_at(self, line: bytes) -> None:
        if self.problem is not None:
            return
        text = cleaned(line.decode("utf-8", "replace"))
        try:
            for found in self._search.all_in(text):
                number = _NUMBER.search(next((group for group in found.groups() if group), found[0]))
                if number is not None:
                    self.percent = float(number[0])
        except SearchError as error:
            self.problem, self.percent = str(error), None
