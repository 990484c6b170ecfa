"""`loom diff`: two runs, compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress

from loom import snapshot
from loom.analysis.diff import Diff, Side, compare
from loom.commands.project import here
from loom.commands.screen import screen_parts
from loom.errors import LoomError, RecordError
from loom.record.event_files import read_events
from loom.record.events import OutputEvent
from loom.record.reader import Reading, whole_lines
from loom.record.saved_plan import load_planned
from loom.render.diff import diff_lines
from loom.render.output import print_json


def diff(run_a: str, run_b: str, *, as_json: bool, color: str | None) -> None:
    """`loom diff`."""
    place = here({"color": color})
    found = diff_of(place.find(run_a), place.find(run_b))
    if as_json:
        print_json(found)
        return
    look, write = screen_parts(place.config.color)
    for line in diff_lines(found, look):
        write(line)


def diff_of(a: Reading, b: Reading) -> Diff:
    return compare(_side(a), _side(b), _files(a, b))


def _side(reading: Reading) -> Side:
    return Side(
        run_id=reading.run_id,
        state=reading.state,
        receipt=reading.receipt(),
        jobs={job_id: reading.job_manifest(job_id) for job_id in reading.job_ids()},
        output=lambda *place: _output(reading, *place),
        variables=_variables(reading),
    )


def _output(reading: Reading, job_id: str, step: str, stream: str) -> Iterable[str]:
    path = reading.paths.job(job_id) / "user" / step / "events.jsonl"
    with suppress(FileNotFoundError):
        events = (event for event in read_events(path) if isinstance(event, OutputEvent) and event.stream == stream)
        yield from (event.text for event in whole_lines(events))


def _variables(reading: Reading) -> Mapping[str, Mapping[str, str]]:
    """Read each job's variables from the saved plan; none without one."""
    try:
        planned = load_planned(reading.paths.plan)
    except RecordError:
        return {}
    return {job.id: dict(job.variables) for job in planned.plan.jobs}


def _files(a: Reading, b: Reading) -> list[tuple[str, str | None, str | None]] | None:
    """Compare the two snapshots by the manifests in the records; None when one can't be read."""
    try:
        one, two = (snapshot.read_manifest(reading.paths.root, reading.paths.snapshot) for reading in (a, b))
        found = snapshot.differing(one, two)
    except (LoomError, OSError):
        return None
    return [(snapshot.readable(path), *ids) for path, ids in found.items()]
