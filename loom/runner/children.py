"""The jobs of a run that start child pipelines."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import RequestError, WorkflowError
from loom.plan.model import Job
from loom.record.events import PhaseCode, Section
from loom.runner.attempt import Attempt, SectionOutput
from loom.runner.hooks import Child, ChildEnded, RunChild
from loom.status import Status, Stream

_CODE = PhaseCode.JOB_EXECUTION


class Children(Struct):
    """Run child pipelines. A child without `strategy: depend` outlives its job; `join` waits for it."""

    _run_child: RunChild | None
    _child_of: Callable[[Job], Child]
    _cancel: Cancel
    _others: list[threading.Thread] = []

    def run(self, attempt: Attempt) -> None:
        """Run the job's child pipeline, or start it; the result is the attempt's."""
        assert attempt.job.trigger is not None
        with attempt.phase(_CODE) as outcome:
            try:
                with attempt.section(Section.CHILD, _CODE) as output:
                    self._run(attempt, output)
            except (RequestError, WorkflowError) as error:
                attempt.status, attempt.error, attempt.error_code = Status.FAILURE, str(error), error.code
            outcome.status, outcome.error = attempt.status, attempt.error

    def _run(self, attempt: Attempt, output: SectionOutput) -> None:
        running = _Running(attempt, output)
        thread = threading.Thread(target=self._child, args=(running,), name=f"child of {attempt.job.id}", daemon=True)
        thread.start()
        if attempt.job.trigger is not None and not attempt.job.trigger.depend:
            running.begun.wait()  # no limit: it is set when the child begins, and when it does not
            self._others.append(thread)
            if running.problem is not None:
                raise running.problem
            running.release()
            return
        if not self._cancel.join(thread):
            attempt.status, attempt.error = Status.CANCELED, "interrupted"
            return
        if running.problem is not None:
            raise running.problem
        assert running.ended is not None
        attempt.status = running.ended.status
        if not running.ended.status.ok:
            why = f": {running.ended.error}" if running.ended.error else ""
            attempt.error = f"child pipeline: run {running.ended.run_id} ended with {running.ended.status}{why}"
            attempt.blame(section=Section.CHILD)

    def _child(self, running: _Running) -> None:
        cancel = self._cancel.child()
        try:
            if self._run_child is None:
                raise RequestError(f"{running.job.id} starts a child pipeline, which can't be run here")
            running.ended = self._run_child(self._child_of(running.job), running, cancel, running.started)
        except BaseException as error:  # noqa: BLE001  raised again where the job waits
            running.problem = error
        finally:
            cancel.detach()
            running.begun.set()

    def join(self) -> None:
        for thread in self._others:
            self._cancel.join(thread)


class _Running:
    """A child that runs: an `OnOutput` for as long as its job does."""

    def __init__(self, attempt: Attempt, output: SectionOutput) -> None:
        self.job: Job = attempt.job
        self.begun = threading.Event()
        self.ended: ChildEnded | None = None
        self.problem: BaseException | None = None
        self._attempt = attempt
        self._output: SectionOutput | None = output
        self._lock = threading.Lock()

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            if self._output is not None:
                self._output(stream, data)

    def started(self, run_id: str) -> None:
        self._attempt.fact("child_started", {"run_id": run_id}, _CODE)
        self("stdout", f"child pipeline: run {run_id}\n".encode())
        self.begun.set()

    def release(self) -> None:
        with self._lock:
            self._output = None
