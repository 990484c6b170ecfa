"""Read a run's record: documents, state, events in order. Only requests for all output read everything."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec
from msgspec.structs import replace

from loom.errors import RecordError
from loom.record import derive
from loom.record.documents import JobManifest, Receipt
from loom.record.event_files import (
    LONGEST_LINE,
    LineJoiner,
    decoded,
    folded,
    last_event,
    last_output,
    opened,
    output_in,
    read_phases,
    whole_lines,
)
from loom.record.events import Event, OutputEvent, PhaseEvent, Scope, Where, encode
from loom.record.fold import RunFold
from loom.record.journal import OutputBatch, Sink
from loom.record.lines import TAIL_LINES
from loom.record.run_paths import RunPaths
from loom.record.store import RunEntry, entry_at, read_document, run_ids
from loom.util import typed
from loom.values import Immutable

T = TypeVar("T")
_CHUNK = 1 << 20


class Unit(Immutable):
    """A step or a section of a job, with its directory in the record."""

    job_id: str
    step: str | None
    section: str | None
    attempt: int
    events: Path

    @property
    def name(self) -> str:
        return self.step or self.section or ""

    @property
    def where(self) -> Where:
        scope: Scope = "step" if self.step is not None else "job"
        return Where(scope=scope, job_id=self.job_id, step=self.step, section=self.section)


MOST_EARLIER = 50
"""Earlier runs that are looked at, and the number of records among which they are picked."""
_MOST_RECORDS = 200
_SAME = ("repo_root", "workflow_path")


class Reading:
    """One run's record, read-only. RecordError for missing, damaged or foreign content."""

    def __init__(self, entry: RunEntry, *, foreign: bool = False) -> None:
        """`foreign`: not of this user's own records, so that its paths mean nothing here."""
        self.entry = entry
        self.foreign = foreign
        self.paths = entry.paths

    @property
    def run_id(self) -> str:
        return self.entry.run_id

    @property
    def state(self) -> str:
        """A status, or `running`, or `interrupted`."""
        return self.entry.state

    @cached_property
    def earlier(self) -> Sequence[Reading]:
        """Return the runs of the same workflow in the same checkout that began before this one, the latest first."""
        receipt = self.receipt()
        found: list[Reading] = []
        before = [run_id for run_id in run_ids(self.paths.root.parent) if int(run_id) < int(self.run_id)]
        for run_id in before[:_MOST_RECORDS]:
            with suppress(RecordError):
                entry = entry_at(self.paths.sibling(run_id))
                if all(getattr(entry.receipt, key, None) == getattr(receipt, key) for key in _SAME):
                    found.append(Reading(entry, foreign=self.foreign))
            if len(found) == MOST_EARLIER:
                break
        return found

    @cached_property
    def fold(self) -> RunFold:
        """All phase events, folded. RecordError without any."""
        fold = folded(self.paths)
        if fold.first is None:
            raise RecordError(
                f"{self.paths.events} holds no event: the record of run {self.run_id} is not whole",
                hint=f"`loom clean {self.run_id}` removes it, and what it left",
            )
        return fold

    def pipeline_manifest(self) -> Mapping[str, Any]:
        return self._folded(derive.pipeline_manifest)

    def job_manifest(self, job_id: str) -> JobManifest:
        """Return a job's manifest. RecordError for an unknown job."""
        path = self.paths.job(job_id) / "manifest.json"  # of earlier runs, this file alone
        return read_document(path, JobManifest) or self._folded(lambda fold: derive.job_manifest(fold, job_id))

    def receipt(self) -> Receipt:
        """Return the summary as written; for a run without an end, derived from its events so far."""
        found = self.entry.receipt or self._folded(derive.receipt)
        return replace(found, repo_root=None, snapshot_path=None) if self.foreign else found

    def units(self, job_id: str) -> list[Unit]:
        """Return a job's steps and sections in order of their start, including earlier attempts."""
        job = self.fold.jobs.get(job_id)
        if job is None:
            return []
        begun: list[tuple[int, str | None, str | None, int]] = [
            (span.start.seq, step, None, attempt) for (attempt, step), span in job.steps.items()
        ]
        begun += [(span.start.seq, None, section, job.attempts) for section, span in job.sections.items()]
        return [
            self.unit(job_id, step, section, attempt, last=attempt == job.attempts)
            for _, step, section, attempt in sorted(begun, key=lambda unit: unit[0])
        ]

    def unit(
        self, job_id: str, step: str | None, section: str | None = None, attempt: int = 1, *, last: bool = True
    ) -> Unit:
        """Return a step, or a section where no step is named."""
        section = None if step else section
        path, aside = _files(self.paths, job_id, step, section, attempt)
        events = aside if aside is not None and not last and aside.exists() else path
        return Unit(job_id=job_id, step=step, section=section, attempt=attempt, events=events)

    def running_units(self) -> list[Unit]:
        """Return the started phases that have not ended."""
        open_ = [span.start for span in self.fold.spans if span.end is None]
        return [
            self.unit(start.job_id, start.step, start.section)
            for start in open_
            if start.job_id is not None and (start.step or start.section)
        ]

    def last_sign(self) -> str | None:
        """Return the time of the record's last event, in any file."""
        latest = [last_event(self.paths.events)]
        latest += [last_event(unit.events) for unit in self.running_units()]
        return max((event.ts for event in latest if event is not None), default=None)

    def _folded(self, derived: Callable[[RunFold], T]) -> T:
        try:
            document = derived(self.fold)
            return typed.convert(msgspec.to_builtins(document), type(document))
        except (ValueError, KeyError) as error:
            why = "; ".join(line.strip() for line in str(error).splitlines()[:3])
            raise RecordError(f"{self.paths.events} is damaged: {why}") from error


def replay(reading: Reading, sink: Sink, *, every_line: bool = False) -> None:
    """Replay a record's events to a sink: with the last output lines of failures, or with `every_line`."""
    if every_line:
        phases: Iterator[tuple[Where, Event]] = ((event.where, event) for event in read_phases(reading.paths))
        units = [unit for job_id in reading.fold.jobs for unit in reading.units(job_id)]
        for where, event in heapq.merge(phases, lines_in_order(units), key=_seq):
            if isinstance(event, PhaseEvent):
                sink.phase(event)
            else:
                sink.output(OutputBatch(where, (event,), encode(event)))
        return
    for phase in read_phases(reading.paths):
        step, section = phase.data.get("failing_step"), phase.data.get("failing_section")
        if phase.message == "job_finished" and (step or section):
            unit = reading.unit(phase.job_id or "", step, section)
            for line in last_output(unit.events, TAIL_LINES):
                sink.output(OutputBatch(unit.where, (line,), encode(line)))
        sink.phase(phase)


def _files(
    paths: RunPaths, job_id: str, step: str | None, section: str | None, attempt: int
) -> tuple[Path, Path | None]:
    """Return the file of a step or section, and where that of a step goes when its attempt has failed."""
    aside = None if step is None else f"{derive.step_dir(job_id, step, attempt, attempt + 1)}/events.jsonl"
    return paths.logs / derive.output_file(job_id, step, section), None if aside is None else paths.logs / aside


def lines_in_order(
    units: Sequence[Unit], tail: int | None = None, *, whole: bool = False
) -> Iterator[tuple[Where, OutputEvent]]:
    """Yield the output of units in `seq` order, with `tail` at least so much of each one's end; `whole`: long lines joined."""

    def located(unit: Unit) -> Iterator[tuple[Where, OutputEvent]]:
        found = output_in(unit.events) if tail is None else _last_output_of(unit, tail)
        for event in whole_lines(found) if whole else found:
            yield unit.where, event

    return heapq.merge(*map(located, units), key=_seq)


def _seq(located: tuple[Where, Event]) -> int:
    return located[1].seq


def _last_output_of(unit: Unit, lines: int) -> Iterable[OutputEvent]:
    """Read at least so many lines from the end, each complete; the whole file where pieces of long ones are among them."""
    found = last_output(unit.events, lines + 2)  # the last line may lack its end
    return found if sum(not event.partial for event in found) > lines else output_in(unit.events)


class Follower:
    """Follows a record that is being written. `poll` returns the new output in order."""

    def __init__(self, paths: RunPaths, wanted: Callable[[Unit], bool], *, whole: bool = False) -> None:
        self._paths = paths
        self._wanted = wanted
        self._whole = whole
        self._phases = _tailed(paths.events)
        self._open: list[tuple[Unit, Iterator[Event | None], LineJoiner]] = []
        self.over = False

    def poll(self) -> list[tuple[Where, OutputEvent]]:
        for event in iter(self._phases.__next__, None):
            if isinstance(event, PhaseEvent):
                self._note(event)
        found: list[tuple[Where, OutputEvent]] = []
        going_on = []
        for unit, file, joining in self._open:
            ended = False
            new: list[OutputEvent] = []
            for event in iter(file.__next__, None):
                if isinstance(event, OutputEvent):
                    new += joining.add(event) if self._whole else (event,)
                elif isinstance(event, PhaseEvent):
                    ended = event.kind == "phase_finished"
            if ended:
                new += joining.rest()
            else:
                going_on.append((unit, file, joining))
            found += [(unit.where, event) for event in new]
        self._open = going_on
        return sorted(found, key=_seq)

    def _note(self, event: PhaseEvent) -> None:
        if event.message == "run_finished":
            self.over = True
        if event.kind != "phase_started" or event.job_id is None or not (event.step or event.section):
            return
        attempt = int(event.data.get("attempt", 1))
        path, aside = _files(self._paths, event.job_id, event.step, event.section, attempt)
        unit = Unit(job_id=event.job_id, step=event.step, section=event.section, attempt=attempt, events=path)
        if self._wanted(unit):
            self._open.append((unit, _tailed(path, aside), LineJoiner()))


def _tailed(path: Path, moved_to: Path | None = None) -> Iterator[Event | None]:
    """Yield the events of a growing file, and None where no more are there yet; it may have moved with a failed attempt."""
    file: BinaryIO | None = None
    while file is None:
        try:
            file = opened(moved_to if moved_to and moved_to.exists() else path)
        except FileNotFoundError:
            yield None
    rest = b""
    with file:
        while True:
            while chunk := file.read(_CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST_LINE:
                    raise RecordError(f"{path}: a line is longer than {LONGEST_LINE >> 20} MiB")
                yield from (decoded(line, path) for line in lines)
            yield None
