"""Read what a diagnosis needs from a record: events of phases, and the end of one file; never a whole log."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from loom import snapshot
from loom.analysis import formats
from loom.analysis.diagnosis import ChangedSince, Diagnosis, Evidence, Excerpt, diagnose
from loom.analysis.history import history
from loom.analysis.locations import locations_in
from loom.analysis.named_files import find_files_below, makers, undeclared
from loom.analysis.output import LINES_READ, output_of, texts
from loom.analysis.readings import NamedFile, reading_in_conflict
from loom.errors import LoomError, RecordError, RequestError
from loom.plan.clone import Clone
from loom.record.documents import Highlights, plain
from loom.record.event_files import last_output
from loom.record.events import Section, epoch_ns
from loom.record.fold import Span
from loom.record.highlights import file_highlights, speaks_of_error
from loom.record.reader import Reading, Unit
from loom.record.run import load_run
from loom.record.sections import reader_for
from loom.record.store import UNFINISHED, entry_at, read_document
from loom.util import typed
from loom.util.controls import cleaned, visible
from loom.util.untrusted_files import open_regular, read_regular

MOST_AT_END = 30
"""Failed jobs of a run whose diagnoses are recorded."""
AROUND = 3
_LARGEST_SOURCE = 4 << 20
_WIDEST_SOURCE = 200
_FEW_FILES = 1000
"""So many files are read again in about 0.1 s; of more, only HEAD is compared."""
_MOST_MOVED = 5
_MOST_OF_SERVICES = 3
_LATER_NS = 200_000_000
"""Lines of a service may arrive so long after those of the step that they end."""


def diagnosis_of(reading: Reading, job: str | None = None, *, workspace: Path | None = None) -> Diagnosis:
    """Diagnose a run by a job, by default the first that failed. RequestError for an unknown one.

    `workspace`: the run ends just now with these files. Else contents of files come from the recorded diagnosis alone."""
    if (earlier := _earlier(reading, job)) is not None:
        found, failed = diagnosis_of(*earlier), reading.fold.failed_earlier  # not those that passed since
        others = [other for other in found.others if other.job_id in failed]
        return replace(found, others=others, same_failure=[one for one in found.same_failure if one in failed])
    unfinished = reading.state in UNFINISHED
    pipeline = reading.pipeline_manifest()
    units = reading.running_units() if unfinished else []
    job_id = job or pipeline["failing_job_id"] or next((unit.job_id for unit in units), None)
    if job is not None and job not in [each["job_id"] for each in pipeline["jobs"]]:
        raise RequestError(f"run {reading.run_id} has no job {job!r}", hint=f"loom show {reading.run_id}")
    manifest = None if job_id is None else reading.job_manifest(job_id)
    step, section = (getattr(manifest, f"failing_{what}", None) for what in ("step", "section"))
    unit = next((unit for unit in reversed(units) if unit.job_id == job_id), None)
    if job_id is not None and (step or section):
        unit = reading.unit(job_id, step, section)
    events = last_output(unit.events, LINES_READ) if unit else []
    end = _end(reading, unit)
    receipt = reading.receipt()
    root = Path(receipt.repo_root) if receipt.repo_root else None
    counts = end.get("output", {})
    total = sum(counts.get(f"{stream}_lines", 0) for stream in ("stdout", "stderr")) if end else None
    whole = len(events) < LINES_READ and (total is None or total <= len(events))
    highlights = Highlights() if whole or unit is None else _highlights(unit, end)
    same = None if unfinished or workspace is not None else recorded_diagnosis(reading, job_id)
    planned = {} if job_id is None else reading.fold.jobs[job_id].planned
    clone = typed.convert(planned["clone"], Clone) if planned.get("clone") else None
    output = output_of(events, highlights, counts, end.get("ended_by"), reader_for(planned))
    found = diagnose(
        Evidence(
            run_id=reading.run_id,
            state=reading.state,
            receipt=plain(receipt),
            pipeline=pipeline,
            job=plain(manifest) if manifest else None,
            output=output,
            ended_by=end.get("ended_by"),
            unit=(unit.step, unit.section) if unit else (None, None),
            root=workspace or root,
            find_files=lambda paths: _find_named_files(reading, root, job_id, clone, paths),
            of_github=bool(planned.get("commands")),
            depth=clone.depth if clone is not None else 0,
        )
    )
    found = replace(
        found,
        beside=[*found.beside, *_service_errors(reading, unit, "\n".join(found.beside))] if found.failed else [],
        output_read="all" if whole else "highlights" if highlights.complete else "part",
        lines_total=total,
        last_event_at=reading.last_sign() if unfinished else None,
        receipt_path=str(reading.paths.receipt) if reading.entry.receipt else None,
        job_manifest_path=None if job_id is None else str(reading.paths.job(job_id) / "manifest.json"),
        events_path=str(unit.events) if unit else None,
    )
    if same is not None:
        kept = ("excerpt", "others", "same_failure", "locations", "since_green", "same_input")
        return _read_conflict(replace(found, **{name: getattr(same, name) for name in kept}))
    # A run that an engine or a person ended proves nothing about its input.
    if manifest is None or manifest.status not in ("failure", "timed_out"):
        return found
    since, same_input = history(reading, manifest.job_id, texts(output.lines), hunks=workspace is not None)
    return replace(found, since_green=since, same_input=same_input)


def diagnoses_at_end(reading: Reading, workspace: Path) -> Iterator[Diagnosis]:
    """Diagnose a run that ends just now by each failed job, the first one first, with excerpts of files that may go later."""
    first = diagnosis_of(reading, workspace=workspace)
    others = [diagnosis_of(reading, other.job_id, workspace=workspace) for other in first.others[: MOST_AT_END - 1]]
    told = {found.job_id: found.own_failure for found in (first, *others)}
    for found in (first, *others):
        named = [
            replace(other, telling_line=own.telling_line, location=own.location)
            for other in found.others
            for own in [told.get(other.job_id, other)]
        ]
        same = [other.job_id for other in named if other.failure == found.own_failure.failure]
        yield _read_conflict(replace(found, others=named, same_failure=same, excerpt=excerpt_of(found, workspace)))


def _read_conflict(found: Diagnosis) -> Diagnosis:
    """Read a conflict's marker at the line that the telling line leads to: what a tool says of the markers misleads."""
    shown, telling = found.excerpt, found.telling_line
    if shown is None or telling is None:
        return found
    if not any(each.line == shown.line and shown.file.endswith(each.file) for each in locations_in([telling])):
        return found
    at = shown.line - shown.first_line
    text = "\n".join(shown.text.split("\n")[max(0, at - 1) : at + 1])
    reading = reading_in_conflict(telling, f"{shown.file}:{shown.line}", text)
    return found if reading is None else replace(found, readings=[reading])


def _earlier(reading: Reading, job: str | None) -> tuple[Reading, str] | None:
    """Return the run in which a job failed that did not run again in this one, and the job, if no job of this run failed."""
    pipeline = reading.pipeline_manifest()
    own = pipeline["failing_job_id"] if job is None else job in [each["job_id"] for each in pipeline["jobs"]]
    if own or reading.receipt().extent.parent_run_id is None:
        return None
    failed = reading.fold.failed_earlier
    job = job or next(iter(failed), "")
    run_id = failed.get(job)
    if run_id is None or run_id >= reading.run_id:
        return None
    with suppress(RecordError):  # `loom clean` has removed it
        return Reading(entry_at(reading.paths.sibling(run_id)), foreign=reading.foreign), job
    return None


def recorded_diagnosis(reading: Reading, *jobs: str | None) -> Diagnosis | None:
    """Return the diagnosis as the run's end recorded it: the first one, or that by this job."""
    for path in (reading.paths.diagnosis, *(reading.paths.job_diagnosis(job) for job in jobs if job is not None)):
        found = read_document(path, Diagnosis)
        if found is not None and (not jobs or found.job_id in jobs):
            return found
    return None


def _find_named_files(
    reading: Reading, root: Path | None, job_id: str | None, clone: Clone | None, paths: Sequence[str]
) -> dict[str, NamedFile]:
    """Look at files that the output names: in the checkout, and among the artifacts that the job did not get."""
    found = find_files_below(root, paths, clone) if root else {}
    if not paths or job_id is None:
        return found
    with suppress(RecordError, KeyError):
        plan = load_run(reading.paths.plan).plan
        if plan.job(job_id).inputs is not None:
            found |= undeclared(plan.job(job_id), found)
        for path, (maker, why) in makers(plan, plan.job(job_id), paths).items():
            seen = found.get(path, NamedFile(path=path))
            if why and (seen.ignored or path not in found):
                found[path] = replace(seen, maker=f"{maker}, which {why}")
    return found


def _end(reading: Reading, unit: Unit | None) -> Mapping[str, Any]:
    """Return the data of the failing step's or section's end event; empty while it still runs."""
    if unit is None:
        return {}
    span = _span(reading, unit)
    return span.end.data if span is not None and span.end is not None else {}


def _span(reading: Reading, unit: Unit) -> Span | None:
    job = reading.fold.jobs[unit.job_id]
    return job.sections.get(unit.section) if unit.section else job.steps.get((job.attempts, unit.step or ""))


def _service_errors(reading: Reading, unit: Unit | None, told: str) -> Iterator[str]:
    """Yield the last errors that the job's services printed while the step ran, without what is `told` already."""
    if unit is None or unit.step is None:
        return
    if (step := _span(reading, unit)) is None:
        return
    begin, end = epoch_ns(step.start.ts), epoch_ns(step.end.ts) + _LATER_NS if step.end else math.inf
    events = last_output(reading.unit(unit.job_id, None, Section.SERVICES).events, LINES_READ)
    errors = [event.text for event in events if begin <= epoch_ns(event.ts) <= end and speaks_of_error(event.text)]
    for name, _, line in (text.partition(" | ") for text in list(dict.fromkeys(errors))[-_MOST_OF_SERVICES:]):
        if line and line.strip() not in told:
            yield f"service {name} printed then: {visible(line.strip()[:200])}"


def _highlights(unit: Unit, end: Mapping[str, Any]) -> Highlights:
    """Return them as they were recorded; from the events file where the step did not end."""
    if end:
        return typed.convert(end.get("highlights", {"complete": False}), Highlights)
    with open_regular(unit.events) as file:
        return file_highlights(file, formats.watch())


def excerpt_of(diagnosis: Diagnosis, root: Path) -> Excerpt | None:
    """Return the source lines around the first location outside the workflow file; None where `root` has no such text."""
    workflow = (diagnosis.step_location or "").rpartition(":")[0]
    location = next((each for each in diagnosis.locations if each.file != workflow), None)
    if location is None:
        return None
    path = Path(os.path.realpath(root / location.file))
    if not path.is_relative_to(os.path.realpath(root)):
        return None
    try:
        lines = read_regular(path, at_most=_LARGEST_SOURCE).decode().splitlines()
    except (OSError, ValueError):
        return None
    first = max(1, location.line - AROUND)
    shown = [cleaned(line.expandtabs(4))[:_WIDEST_SOURCE] for line in lines[first - 1 : location.line + AROUND]]
    if not first <= location.line < first + len(shown):
        return None
    return Excerpt(file=location.file, line=location.line, first_line=first, text="\n".join(shown))


def changed_since(reading: Reading) -> ChangedSince | None:
    """Return the changes in the checkout since a run; None if there are none, or if finding them is slow."""
    receipt = reading.receipt()
    root, taken = receipt.repo_root, receipt.snapshot
    if root is None or not taken:
        return None
    try:
        head = snapshot.discover(Path(root), environ=os.environ).head_sha
        changed = []
        if taken.get("files", _FEW_FILES) < _FEW_FILES:
            verified = snapshot.verify(Path(root), environ=os.environ, manifest_file=reading.paths.snapshot)
            brought = {*snapshot.read_manifest(Path(root), reading.paths.snapshot).brought}
            changed = [snapshot.readable(one.path) for one in verified.changes if one.path not in brought]
    except (LoomError, OSError):
        return None
    moved = head != receipt.snapshot_head_sha
    if not moved and not changed:
        return None
    return ChangedSince(head_sha=head if moved else None, files=changed[:_MOST_MOVED], files_total=len(changed))
