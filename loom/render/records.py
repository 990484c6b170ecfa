"""Render records for commands: rows of runs, lines of logs, a diagnosis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loom.record.documents import RunRow
from loom.record.events import OutputEvent, Where, to_dict
from loom.render.output import table
from loom.render.screen import Look
from loom.util import jsons
from loom.util.controls import json_shown, visible
from loom.util.units import rough_age, rough_duration

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.record.unrecorded import Unrecorded

_STYLES = {"success": ("ok", "ok"), "running": ("start", "bold"), "skipped": ("skip", "dim")}


def runs_lines(rows: Sequence[RunRow], look: Look, *, now_ns: int, with_place: bool) -> Iterator[str]:
    if not rows:
        return
    cells = [("RUN", "WHEN", "STATUS", "TREE", "TOOK", "FAILED" if not with_place else "CHECKOUT")]
    for row in rows:
        took = rough_duration(row.duration_ms) if row.duration_ms is not None else ""
        last = str(row.failing_job_id or "") if not with_place else str(row.repo_root or "")
        cells.append((row.run_id, run_age(row.run_id, now_ns), row.status, str(row.tree_sha or "")[:12], took, last))
    for number, (cell, line) in enumerate(zip(cells, table(cells), strict=True)):
        if number == 0:
            yield look.styled(f"  {line}", "dim")
            continue
        mark, style = _STYLES.get(cell[2], ("bad", "bad"))
        yield f"{look.styled(look.marks[mark], style)} {line}"


def unfinished_lines(state: str, last_sign: str | None, units: Iterable[Any], look: Look) -> Iterator[str]:
    """Describe a run without an end, for `loom show`."""
    for unit in units:
        word = "running" if state == "running" else "had not ended"
        yield look.styled(f"{unit.job_id}: {unit.name} {word}; events: {unit.events}", "dim")
    if state == "running":
        yield look.styled(f"running, last event at {last_sign}", "bold")
    else:
        yield look.styled(f"interrupted, last event at {last_sign or '?'}: loom was killed", "bad")


def log_line(where: Where, event: OutputEvent, look: Look, *, job_width: int, timestamps: bool) -> str:
    text = visible(event.text, colours=look.paint is not None)
    front = look.styled(f"{event.ts} ", "dim") if timestamps else ""
    if job_width:
        front += look.styled(f"{where.job_id or '':<{job_width}} {look.marks['bar']} ", "job")
    return visible(front, colours=True) + text


def log_json(where: Where, event: OutputEvent) -> bytes:
    """Format an output event with its place."""
    shape = {**to_dict(event), "job_id": where.job_id, "step": where.step, "section": where.section}
    return json_shown(jsons.encode_line(shape).decode()).encode()


def diagnosis_lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    """Format a diagnosis: failure, relevant lines, likely cause, next move."""
    if diagnosis.unrecorded is not None:
        yield look.styled(f"{look.marks['warn']} {unrecorded_text(diagnosis.unrecorded)}", "warn")
    yield look.styled(_headline(diagnosis), "bad") if diagnosis.failed else look.styled(_nothing(diagnosis), "ok")
    tree = f", tree {diagnosis.tree_sha[:12]}" if diagnosis.tree_sha else ""
    on = ", still runs" if diagnosis.state == "running" else ""
    yield look.styled(f"run {diagnosis.run_id}, {run_age(diagnosis.run_id, now_ns)}{tree}{on}", "dim")
    if not diagnosis.failed:
        return
    if diagnosis.command and diagnosis.step:
        for number, line in enumerate(diagnosis.command.strip().splitlines()[:8]):
            yield f"  {'$' if number == 0 else ' '} {line}"
    if diagnosis.error and (not diagnosis.step or diagnosis.job_status == "error"):
        for line in diagnosis.error.splitlines():
            yield f"  {line}"
    if diagnosis.lines:
        yield ""
        bar = look.styled(look.marks["bar"], "dim")
        for line in diagnosis.lines:
            yield f"  {bar} {look.marks['dots'] if line == '…' else line}"
        if diagnosis.lines_total and diagnosis.lines_total > len(diagnosis.lines):
            yield look.styled(f"    of {diagnosis.lines_total:,} lines", "dim")
    yield from _tests(diagnosis, look)
    for cause in diagnosis.causes:
        yield ""
        yield f"{look.styled('likely:', 'bold')} {cause.summary}"
        yield f"        {cause.advice}"
    yield ""
    if diagnosis.places:
        yield "look at: " + ", ".join(f"{place.file}:{place.line}" for place in diagnosis.places)
    if diagnosis.others:
        yield "also failed: " + ", ".join(other.job_id for other in diagnosis.others)
    yield f"again:   {diagnosis.reproduce}"
    if diagnosis.logs_command:
        yield f"more:    {diagnosis.logs_command}"
    if diagnosis.events_path:
        yield f"events:  {diagnosis.events_path}"


def run_age(run_id: str, now_ns: int) -> str:
    return rough_age((now_ns - int(run_id)) / 1e9)


def unrecorded_text(unrecorded: Unrecorded) -> str:
    """Report a later refused run, so that nobody mistakes the older one for it."""
    first = visible(unrecorded.error.partition("\n")[0])
    return f"a later run ended with exit code {unrecorded.exit_code} and left no record: {first}"


def _nothing(diagnosis: Diagnosis) -> str:
    if diagnosis.state == "running" and diagnosis.job_status is None:
        return f"run {diagnosis.run_id} still runs: nothing to diagnose"
    if diagnosis.job_status == "skipped":
        return f"job {diagnosis.job_id} was skipped: {diagnosis.error}"
    what = f"run {diagnosis.run_id}" if diagnosis.job_id is None else f"job {diagnosis.job_id}"
    return f"{what} passed: nothing to diagnose"


def _headline(diagnosis: Diagnosis) -> str:
    if diagnosis.state == "interrupted" and diagnosis.job_status is None:
        begin = f"interrupted, last event at {diagnosis.last_event_at}"
    else:
        begin = {"error": "could not run", "timed_out": "timed out", "canceled": "interrupted"}.get(
            diagnosis.job_status or diagnosis.state, "failed"
        )
    if diagnosis.job_id is None:
        return f"run {diagnosis.run_id} {begin}"
    unit = (
        f", step {diagnosis.step}" if diagnosis.step else f", section {diagnosis.section}" if diagnosis.section else ""
    )
    unit += f" ({diagnosis.step_place})" if diagnosis.step and diagnosis.step_place else ""
    code = f", exit code {diagnosis.exit_code}" if diagnosis.exit_code is not None and diagnosis.step else ""
    return f"{begin}: job {diagnosis.job_id}{unit}{code}"


def _tests(diagnosis: Diagnosis, look: Look) -> Iterator[str]:
    if not diagnosis.failing_tests:
        return
    yield ""
    yield look.styled(f"failing tests: {diagnosis.failing_tests_total}", "bold")
    for test in diagnosis.failing_tests[:10]:
        yield f"  {look.styled(look.marks['bad'], 'bad')} {test.full_name}{test.place}"
        if test.reason:
            yield f"    {visible(test.reason)}"
    if diagnosis.failing_tests_total > 10:
        yield f"  {look.marks['dots']} and {diagnosis.failing_tests_total - 10} more"
