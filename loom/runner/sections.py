"""A section's output: loom's own work around a job, told as it happens."""

from __future__ import annotations

import threading

from loom.record.events import PhaseCode, Section, Where
from loom.record.journal import Journal, Outcome, OutputWriter
from loom.status import Stream


class SectionOutput:
    """A section that is there from the first thing it has to say, or from its failing: nothing said, no section."""

    def __init__(self, journal: Journal, job_id: str, section: Section, code: PhaseCode) -> None:
        self._journal = journal
        self._where = Where(scope="job", job_id=job_id, section=section)
        self._code = code
        self._writer: OutputWriter | None = None
        self._started_ns = 0
        self.failed: str | None = None
        self._lock = threading.Lock()

    def __call__(self, stream: Stream, data: bytes) -> None:
        self.begin()(stream, data)

    def begin(self) -> OutputWriter:
        with self._lock:
            if self._writer is None:
                self._started_ns = self._journal.started(self._where, self._code)
                self._writer = self._journal.writer(self._where)
            return self._writer

    def end(self, outcome: Outcome) -> None:
        if self._writer is not None:
            self._writer.close()
            outcome.data = {**(outcome.data or {}), "output": self._writer.counts}
            self._journal.finished(self._where, self._code, self._started_ns, outcome)
