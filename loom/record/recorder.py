"""The sink that writes the run's record."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from loom.record import derive
from loom.record.derive import job_dir, output_file
from loom.record.documents import Receipt, plain
from loom.record.events import PhaseCode, PhaseEvent, encode
from loom.record.fold import RunFold
from loom.record.highlights import Highlighter, Watch
from loom.record.journal import OutputBatch
from loom.record.run_record import RunRecord
from loom.status import Status
from loom.util import jsons


class Recorder(Struct, eq=False):
    """Writes each event to its files at once, and each document at the end of its subject.

    The run's `events.jsonl` holds every phase event; those of jobs and the pipeline hold their own; output lines are
    only in the file of their step or section. InfrastructureError RECORD_UNWRITABLE from `output` ends the job, from
    `phase` the run.
    """

    record: RunRecord
    watch: Watch
    fold: RunFold = field(default_factory=RunFold)
    _highlighters: dict[str, Highlighter] = {}
    """The highlighters of the running steps and sections, by their files."""

    def phase(self, event: PhaseEvent) -> None:
        own = output_file(event.job_id or "", event.step, event.section) if event.step or event.section else None
        if event.kind == "phase_finished" and own is not None:
            highlighter = self._highlighters.pop(own, None)
            if highlighter is not None and event.status is not Status.SUCCESS:  # the documents follow from the events
                event = replace(event, data={**event.data, "highlights": plain(highlighter.finish())})
        self.fold.apply(event)
        line = encode(event)
        self.record.append("events.jsonl", line)
        if event.scope == "pipeline" or (event.scope == "job" and event.section is None):
            self.record.append("pipeline/events.jsonl", line)
        if event.job_id is not None:
            self.record.append(f"{job_dir(event.job_id)}/events.jsonl", line)
        if own is not None:
            if event.kind == "phase_started":
                self._highlighters[own] = Highlighter(self.watch, *self.record.size_of(own))
            self.record.append(own, line)
            if own in self._highlighters:
                self._highlighters[own].feed(line, 1)
            if event.kind == "phase_finished":
                self.record.close(own)
        self._documents(event)

    def complete(self) -> None:
        """Write the documents of the jobs that have ended: another process may not have got to that."""
        for job in self.fold.jobs.values():
            if job.end is not None:
                self._job_manifest(job.id)

    def output(self, batch: OutputBatch) -> None:
        relative = output_file(batch.where.job_id or "", batch.where.step, batch.where.section)
        self.record.append_output(relative, batch.encoded)
        if relative in self._highlighters:
            self._highlighters[relative].feed(batch.encoded, len(batch.events))

    def _documents(self, event: PhaseEvent) -> None:
        job_id = event.job_id
        if event.message == "job_finished" and job_id is not None:
            self._job_manifest(job_id)
        elif event.message == "attempt_failed" and job_id is not None:
            self.record.set_attempt_aside(job_id, event.data["attempt"])
        elif event.kind == "phase_finished" and event.phase_code == PhaseCode.PIPELINE_EXECUTE:
            self._pipeline_manifest()

    def _job_manifest(self, job_id: str) -> None:
        self.record.document(f"{job_dir(job_id)}/manifest.json", derive.job_manifest(self.fold, job_id))
        self.record.close(f"{job_dir(job_id)}/events.jsonl")

    def _pipeline_manifest(self) -> None:
        self.record.document("pipeline/manifest.json", derive.pipeline_manifest(self.fold))

    def finish(self, diagnose: Callable[[Receipt], Path | None]) -> Receipt:
        """Write the last documents, the receipt last. `diagnose` writes the diagnosis of a failed run and returns its path."""
        if self.fold.pipeline is None or self.fold.pipeline.status is None:
            self._pipeline_manifest()
        self.record.document("phase-report.json", derive.phase_report(self.fold))
        receipt = derive.receipt(self.fold)
        if (diagnosis := diagnose(receipt)) is not None:
            receipt = replace(receipt, diagnosis_path=str(diagnosis))
        self.record.publish(self.record.paths.receipt, jsons.encode_file(receipt))
        self.record.close_all()
        return receipt
