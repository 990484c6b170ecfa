"""One attempt at a job: its result, and its phases in the record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, InfrastructureError, ServiceError
from loom.plan.model import Job
from loom.record.events import PhaseCode, Section, Where
from loom.record.journal import Journal, Outcome, OutputWriter
from loom.status import Status, Stream
from loom.util.refusals import refusals


class Attempt:
    """`number` is 0 for a job that never ran. A broken session becomes a result at the end of its `phase`."""

    def __init__(self, job: Job, journal: Journal, cancel: Cancel, number: int = 0) -> None:
        self.job = job
        self.journal = journal
        self.number = number
        self.began_ns = journal.now_ns()
        self.unseen_ns = 0
        """The time that its steps took while no loom listened."""
        self.status = Status.SUCCESS
        self.exit_code: int | None = None
        self.error: str | None = None
        self.error_code: str | None = None
        self.failing_step: str | None = None
        self.failing_section: str | None = None
        self.outputs: Mapping[str, str] = {}
        self.service_died: ServiceError | None = None
        self.entered = False
        self.paused = False
        """Whether it stopped at its failing step by `Verdict.PAUSE`."""
        self.on_lost: Callable[[str], None] | None = None
        """Called when the session can't be reached, of a job that goes on there; it may end this process."""
        self._cancel = cancel
        self._where = Where(scope="job", job_id=job.id)

    def fact(
        self, name: str, data: Mapping[str, Any], code: PhaseCode = PhaseCode.PIPELINE_EXECUTE, **more: Any
    ) -> None:
        self.journal.fact(self._where, code, name, data, **more)

    def warn(self, text: str, code: PhaseCode) -> None:
        self.fact("warning", {"text": text}, code)

    def blame(self, *, step: str | None = None, section: str | None = None) -> None:
        """Set the failure, unless there is an earlier one."""
        if self.failing_step is None and self.failing_section is None:
            self.failing_step, self.failing_section = step, section

    @contextmanager
    def phase(self, code: PhaseCode) -> Iterator[Outcome]:
        """Record one phase. A broken session makes it and the attempt `error` (`canceled` after a cancel)."""
        with self.journal.span(self._where, code, {"attempt": self.number} if self.number else {}) as outcome:
            try:
                with refusals():
                    yield outcome
            except InfrastructureError as error:
                if self.on_lost is not None and isinstance(error, EngineUnavailable):
                    self.on_lost(str(error))
                status = Status.CANCELED if self._cancel.requested else Status.ERROR
                outcome.status, outcome.error = status, str(error)
                if self.status in (Status.SUCCESS, Status.CANCELED):
                    self.status, self.error = status, str(error)
                    self.error_code = error.code if status is Status.ERROR else None

    @contextmanager
    def section(self, section: Section, code: PhaseCode) -> Iterator[SectionOutput]:
        """Record one section of a phase; its failure is the phase's."""
        output = SectionOutput(self.journal, self.job.id, section, code)
        try:
            with refusals():
                yield output
        except BaseException as error:
            output.begin()
            output.failed = str(error) if isinstance(error, InfrastructureError) else repr(error)
            self.blame(section=section)
            raise
        finally:
            output.end()

    @contextmanager
    def work(self, section: Section, code: PhaseCode) -> Iterator[SectionOutput]:
        with self.phase(code), self.section(section, code) as output:
            yield output


class SectionOutput:
    """The output of a section. It is created on its first output or failure; a silent one leaves no record."""

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

    def end(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        outcome = Outcome(data={"output": self._writer.counts})
        if self.failed is not None:
            outcome.status, outcome.error = Status.ERROR, self.failed
        self._journal.finished(self._where, self._code, self._started_ns, outcome)
