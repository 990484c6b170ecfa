"""Render a diagnosis as plain text for a coding agent: failure, location, what ended it, how to reproduce; at most 2 KB."""

from __future__ import annotations

from collections.abc import Iterator

from loom.analysis.diagnosis import Diagnosis
from loom.record.highlights import speaks_of_error
from loom.render.diagnosis import text
from loom.render.look import Look
from loom.render.records import run_age
from loom.util.controls import visible
from loom.util.units import rough_duration, shortened

MOST_BYTES = 2048
_LINE = 160


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> list[str]:
    """Return whole lines within `MOST_BYTES`: drop output lines that do not tell, then the source, then others."""
    if diagnosis.state == "refused":
        return _fitting([shortened(line, 300) for line in text.refused_lines(diagnosis, look, now_ns=now_ns)])
    head, tail = _head(diagnosis, now_ns), _tail(diagnosis)
    output = [f"  {_whole(line)}" for line in diagnosis.lines]
    excerpt = (
        [] if diagnosis.excerpt is None else [shortened(line, _LINE) for line in text.excerpt_lines(diagnosis.excerpt)]
    )
    while _size(found := [*head, *(["output:", *output] if output else []), *excerpt, *tail]) > MOST_BYTES:
        if (quiet := next((line for line in output if not speaks_of_error(line)), None)) is not None:
            output.remove(quiet)
        elif excerpt:
            excerpt = []
        elif output:
            output.pop(0)
        else:
            break
    return _fitting(found)


def _fitting(found: list[str]) -> list[str]:
    while _size(found) > MOST_BYTES and len(found) > 1:
        found.pop(max(range(len(found)), key=lambda number: len(found[number].encode())))
    return found


def _size(lines: list[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _whole(line: str) -> str:
    """Return a line of output, whole. The end of a long one tells as much as its beginning."""
    most = 320 if speaks_of_error(line) else _LINE
    half = most // 2
    return line if len(line) <= most else f"{line[:half]} … {line[-half:]}"


def _head(diagnosis: Diagnosis, now_ns: int) -> list[str]:
    if diagnosis.log is not None:
        lines = [shortened(f"{text.log_text(diagnosis.log)}: {diagnosis.state}", 300)]
    else:
        took = f" after {rough_duration(diagnosis.duration_ms)}" if diagnosis.duration_ms is not None else ""
        tree = f"; tree {diagnosis.tree_sha[:12]}" if diagnosis.tree_sha else ""
        lines = [f"run {diagnosis.run_id}: {diagnosis.state}{took}{tree}; {run_age(diagnosis.run_id, now_ns)}"]
    if diagnosis.changed_since is not None:
        lines.append(shortened(text.changed_since_text(diagnosis.changed_since), 300))
    if diagnosis.last_event_at is not None:
        lines.append(f"last event at {diagnosis.last_event_at}")
    if diagnosis.job_id is not None or diagnosis.log is not None:
        unit = f", step {visible(diagnosis.step)}" if diagnosis.step else ""
        unit += f" ({diagnosis.step_location})" if diagnosis.step_location else ""
        unit = f", section {diagnosis.section}" if diagnosis.section else unit
        code = f", exit code {diagnosis.exit_code}" if diagnosis.exit_code is not None else ""
        image = f", image {diagnosis.image}" if diagnosis.image else ", on the host" if diagnosis.step else ""
        verdict = "failed" if diagnosis.failed else diagnosis.job_status or diagnosis.state
        lines.append(f"{verdict}: job {diagnosis.job_id or 'of the log'}{unit}{code}{image}")
    if diagnosis.command:
        lines.append(f"command: {shortened(' ⏎ '.join(diagnosis.command.strip().splitlines()), 300)}")
    if diagnosis.error and diagnosis.failed and (not diagnosis.step or diagnosis.job_status == "error"):
        code = f" {diagnosis.error_code}" if diagnosis.error_code else ""
        first, *more = diagnosis.error.splitlines()[:3]
        lines += [f"error{code}: {shortened(first, 300)}", *(f"  {shortened(line, 300)}" for line in more)]
    lines += [shortened(line, 300) for line in text.ended_lines(diagnosis)]
    for reading in diagnosis.readings:
        lines += [f"line: {_whole(visible(reading.line))}", f"  means: {reading.text}", f"  do: {reading.advice}"]
    if diagnosis.earlier_error:
        lines.append(text.earlier_text(diagnosis.earlier_error))
    lines += _history(diagnosis, now_ns)
    for test in diagnosis.failing_tests[:5]:
        reason = f": {test.reason}" if test.reason else ""
        lines.append(f"failing test: {shortened(test.full_name, _LINE)}{test.position}{shortened(reason, _LINE)}")
    lines += [shortened(line, 300) for line in text.unread_lines(diagnosis)]
    if diagnosis.failing_tests_total > 5:
        lines.append(f"  and {diagnosis.failing_tests_total - 5} more failing tests")
    if title := text.groups_text(diagnosis):
        lines += [f"{title}:", *(f"  {shortened(text.group_text(group), _LINE)}" for group in diagnosis.groups[:4])]
    if note := text.read_text(diagnosis):
        lines.append(f"note: {note.removeprefix('; ')} (loom logs --grep)")
    if at := text.look_at(diagnosis):
        lines.append(f"locations: {visible(at)}")
    return lines


def _history(diagnosis: Diagnosis, now_ns: int) -> Iterator[str]:
    if diagnosis.same_input is not None:
        yield text.same_input(diagnosis.same_input)
    if (since := diagnosis.since_green) is not None and (changed := ", ".join(text.changes(since, most=4))):
        yield f"changed since it passed {run_age(since.run_id, now_ns)}: {changed}"[:400]
        hunk = next((file.hunk for file in since.files or () if file.hunk and file.named), [])
        yield from (f"  {visible(line)[:120]}" for line in hunk)


def _tail(diagnosis: Diagnosis) -> list[str]:
    lines = [shortened(line, _LINE) for line in text.failed_jobs(diagnosis, 6)]
    if diagnosis.failed and diagnosis.reproduce:
        lines.append(f"reproduce: {shortened(diagnosis.reproduce, 300)}")
    if diagnosis.logs_command:
        lines.append(f"more: {diagnosis.logs_command} [--grep RE]")
    if diagnosis.events_path:
        lines.append(f"events: {diagnosis.events_path}")
    return lines
