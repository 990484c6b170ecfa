"""`loom diagnose`. Reads what a diagnosis needs: the receipt, two manifests and the end of one file; never a whole log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loom import snapshot
from loom.analysis import diagnosis as analysis
from loom.analysis.diagnosis import LINES_READ, Diagnosis, Evidence, Ignored
from loom.commands.naming import run_or_job
from loom.commands.project import here
from loom.commands.screen import screen_parts
from loom.errors import LoomError, RecordError, RequestError
from loom.record.documents import SectionSummary, StepSummary
from loom.record.reader import Reading
from loom.record.store import INTERRUPTED, RUNNING, read_document
from loom.record.unrecorded import Unrecorded, since
from loom.render.agent import agent_text
from loom.render.output import print_json
from loom.render.records import diagnosis_lines
from loom.util.controls import cleaned, visible


def diagnose(run: str, job: str | None, form: str, *, color: str | None) -> None:
    """`loom diagnose`."""
    place = here({"color": color})
    reading, job, more = run_or_job(place, run, job, None)
    if more is not None:
        raise RequestError(f"unexpected argument {more}: expected [RUN] [JOB]")
    later = since(place.config.state_dir, place.root, reading.run_id)
    diagnosis = diagnosis_of(reading, job, later)
    if form == "json":
        print_json(diagnosis)
    elif form == "agent":
        sys.stdout.write(cleaned(agent_text(diagnosis, now_ns=time.time_ns())))
    else:
        look, write = screen_parts(place.config.color)
        for line in diagnosis_lines(diagnosis, look, now_ns=time.time_ns()):
            write(line)


def diagnosis_of(reading: Reading, job: str | None = None, unrecorded: Unrecorded | None = None) -> Diagnosis:
    """`unrecorded`: a later run of the checkout that left no record. RequestError when the run has no such job."""
    unfinished = reading.state in (RUNNING, INTERRUPTED)
    pipeline = reading.pipeline_manifest()
    units = reading.running_units() if unfinished else []
    job_id = job or pipeline["failing_job_id"] or next((unit.job_id for unit in units), None)
    if job is not None and job not in [each["job_id"] for each in pipeline["jobs"]]:
        raise RequestError(f"run {reading.run_id} has no job {job!r}", hint=f"loom show {reading.run_id}")
    manifest = None if job_id is None else reading.job_manifest(job_id)
    events_path, unit = _failing_file(manifest)
    if events_path is None:
        open_unit = next((unit for unit in reversed(units) if unit.job_id == job_id), None)
        if open_unit is not None:
            unit = (open_unit.step, open_unit.section)
            events_path = str(open_unit.events.relative_to(reading.paths.logs))
    events = reading.tail(events_path, LINES_READ) if events_path else []
    receipt = reading.receipt()
    root = receipt.get("repo_root")
    return analysis.diagnose(
        Evidence(
            run_id=reading.run_id,
            state=reading.state,
            receipt=receipt,
            unrecorded=unrecorded,
            pipeline=pipeline,
            job=manifest,
            lines=[visible(event.text) for event in events],
            lines_total=_lines_total(reading, events_path),
            last_event_at=reading.last_sign() if unfinished else None,
            unit=unit,
            receipt_path=str(reading.paths.receipt) if reading.entry.receipt else None,
            job_manifest_path=None if job_id is None else str(reading.paths.job(job_id) / "manifest.json"),
            events_path=None if events_path is None else str(reading.paths.logs / events_path),
            ignored=lambda paths: _ignored(Path(root), paths) if root else None,
        )
    )


def _failing_file(manifest: Mapping[str, Any] | None) -> tuple[str | None, tuple[str | None, str | None]]:
    if manifest is None:
        return None, (None, None)
    path = manifest["failing_step_events_path"] or manifest["failing_section_events_path"]
    return path, (manifest["failing_step"], manifest["failing_section"])


def _lines_total(reading: Reading, events_path: str | None) -> int | None:
    if events_path is None:
        return None
    path = (reading.paths.logs / events_path).with_name("summary.json")
    try:
        kind = SectionSummary if "/system/" in events_path else StepSummary
        output = (read_document(path, kind) or {}).get("output")
    except RecordError:
        return None
    return None if output is None else int(output["stdout_lines"] + output["stderr_lines"])


def _ignored(root: Path, paths: Sequence[str]) -> Ignored | None:
    """The first of `paths` that lies in the source and that git ignores. Asks git only about what is there."""
    there = [path for path in paths if os.path.lexists(root / path)]
    if not there:
        return None

    try:
        source = snapshot.discover(root, environ=os.environ)
        for answer in snapshot.explain(source, there[:10], start=root):
            if not answer.included and answer.rule is not None:
                return Ignored(path=answer.path, rule=snapshot.readable(str(answer.rule)))
    except (LoomError, OSError):
        return None
    return None
