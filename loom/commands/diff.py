"""Reads two runs for `loom diff`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from loom.analysis.diff import Diff, Side, compare
from loom.errors import LoomError, RecordError
from loom.record.reader import Reading


def diff_of(a: Reading, b: Reading) -> Diff:
    return compare(_side(a), _side(b), _files(a, b))


def _side(reading: Reading) -> Side:
    return Side(
        run_id=reading.run_id,
        state=reading.state,
        receipt=reading.receipt(),
        jobs={job_id: reading.job_manifest(job_id) for job_id in reading.job_ids()},
        output=lambda job_id, step: _output(reading, job_id, step),
        variables=_variables(reading),
    )


def _output(reading: Reading, job_id: str, step: str) -> Iterable[str]:
    from loom.record.events import OutputEvent
    from loom.record.store import read_events

    path = reading.paths.job(job_id) / "user" / step / "events.jsonl"
    with suppress(FileNotFoundError):
        for event in read_events(path):
            if isinstance(event, OutputEvent):
                yield event.text


def _variables(reading: Reading) -> Mapping[str, Mapping[str, str]]:
    """Each job's variables from the plan that the run kept; nothing where it kept none."""
    from loom.record.saved_plan import load_planned

    try:
        planned = load_planned(reading.paths.plan)
    except RecordError:
        return {}
    return {job.id: dict(job.variables) for job in planned.plan.jobs}


def _files(a: Reading, b: Reading) -> list[tuple[str, str | None, str | None]] | None:
    """What differs between the two snapshots, by the records' lists of what they held; None when that can't be known."""
    from loom import snapshot

    try:
        one, two = (snapshot.read_manifest(reading.paths.root, reading.paths.snapshot) for reading in (a, b))
        found = snapshot.differing(one, two)
    except (LoomError, OSError):
        return None
    return [(snapshot.readable(path), *ids) for path, ids in found.items()]
