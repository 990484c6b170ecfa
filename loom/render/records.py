"""Render records for commands: rows of runs, lines of logs, two runs compared, and how often a job failed."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from loom.record.documents import RunRow
from loom.record.events import OutputEvent, Where, to_dict
from loom.render.look import Look
from loom.render.output import stacked, table
from loom.util import jsons
from loom.util.controls import json_shown, shown, visible
from loom.util.units import rough_age, rough_duration

if TYPE_CHECKING:
    from loom.analysis.diff import Diff, Inputs, JobDiff
    from loom.analysis.repetition import Rate, Repetition

_MOST = 10
_STYLES = {
    "success": ("ok", "ok"),
    "running": ("start", "bold"),
    "detached": ("start", "bold"),
    "skipped": ("skip", "dim"),
}


def runs_lines(rows: Sequence[RunRow], look: Look, *, now_ns: int, with_checkout: bool) -> Iterator[str]:
    """Yield one line for each run; two on a terminal that is too narrow for the table."""
    if not rows:
        return
    cells = [("RUN", "WHEN", "STATUS", "EXTENT", "TREE", "TOOK", "FAILED" if not with_checkout else "CHECKOUT")]
    for row in rows:
        took = rough_duration(row.duration_ms) if row.duration_ms is not None else ""
        last = str(row.failing_job_id or "") if not with_checkout else str(row.repo_root or "")
        age, extent = run_age(row.run_id, now_ns), ", ".join(row.extent)
        name = row.run_id if row.child_of is None else f"{'└' if look.unicode else '-'} {row.run_id}"
        cells.append((name, age, row.status, extent, str(row.tree_sha or "")[:12], took, last))
    head, *lines = table(cells)
    narrow = look.columns is not None and 2 + max(map(len, (head, *lines))) > look.columns
    if not narrow:
        yield look.styled(f"  {head}", "dim")
    for (name, age, status, *others), line in zip(cells[1:], lines, strict=True):
        mark, style = _STYLES.get(status, ("bad", "bad"))
        first, *below = stacked(f"{name}  {status}", (age, *others), look.columns or 0) if narrow else [line]
        yield f"{look.styled(look.marks[mark], style)} {first}"
        yield from below


def unfinished_lines(
    state: str, command: Sequence[str], last_sign: str | None, units: Iterable[Any], look: Look
) -> Iterator[str]:
    """Describe a run without an end, for `loom show`."""
    yield look.styled(f"started by: {shown(shlex.join(command))}", "dim")
    for unit in units:
        word = "running" if state == "running" else "had not ended"
        yield look.styled(f"{unit.job_id}: {unit.name} {word}; events: {unit.events}", "dim")
    if state == "running":
        yield look.styled(f"running, last event at {last_sign}", "bold")
    elif state == "detached":
        yield look.styled(
            f"detached, last event at {last_sign or '?'}: its jobs go on; loom attach follows them", "bold"
        )
    else:
        yield look.styled(f"interrupted, last event at {last_sign or '?'}: loom was killed", "bad")


def log_line(where: Where, event: OutputEvent, look: Look, *, job_width: int, timestamps: bool) -> str:
    text = visible(event.text, colours=look.paint is not None)
    front = look.styled(f"{event.ts} ", "dim") if timestamps else ""
    if job_width:
        front += look.styled(f"{where.job_id or '':<{job_width}} {look.marks['bar']} ", "job")
    return visible(front, colours=True) + text


def log_json(where: Where, event: OutputEvent) -> bytes:
    """Format an output event with its job and step."""
    shape = {**to_dict(event), "job_id": where.job_id, "step": where.step, "section": where.section}
    return json_shown(jsons.encode_line(shape).decode()).encode()


def run_age(run_id: str, now_ns: int) -> str:
    return rough_age((now_ns - int(run_id)) / 1e9)


def diff_lines(diff: Diff, look: Look) -> Iterator[str]:
    yield f"a: {diff.run_a}  {diff.state_a}  {rough_duration(diff.duration_ms_a)}"
    yield f"b: {diff.run_b}  {diff.state_b}  {rough_duration(diff.duration_ms_b)}"
    if diff.same:
        yield look.styled("same inputs, same outcome, same output", "ok")
        return
    yield f"first difference: {look.styled(diff.first_difference or 'how the run ended', 'bold')}"
    yield ""
    yield from _inputs(diff.inputs, look)
    for job in diff.jobs:
        yield from _job(job, look)


def _inputs(inputs: Inputs, look: Look) -> Iterator[str]:
    if inputs.same:
        yield look.styled("inputs: the same (tree, images, variables)", "ok")
        return
    yield "inputs:"
    for pair in (inputs.tree, inputs.head):
        if pair is not None:
            yield f"  {pair.name}: {str(pair.a)[:12]} / {str(pair.b)[:12]}"
    if inputs.tree is not None and inputs.files is None:
        yield "  which files: not known (a record's list of its snapshot is gone, or a commit)"
    for file in (inputs.files or [])[:_MOST]:
        how = "only in b" if file.a is None else "only in a" if file.b is None else "differs"
        yield f"    {how}: {file.name}"
    if inputs.files_total > _MOST:
        yield f"    {look.marks['dots']} {inputs.files_total - _MOST} more"
    for title, pairs in (("image", inputs.images), ("variable", inputs.variables), ("", inputs.other)):
        for pair in pairs:
            yield f"  {title} {pair.name}: {pair.a} / {pair.b}".replace("   ", "  ")


def _job(job: JobDiff, look: Look) -> Iterator[str]:
    took = f"{rough_duration(job.duration_ms_a)} / {rough_duration(job.duration_ms_b)}"
    if job.same:
        yield look.styled(f"{job.job_id}: the same, {job.status_a} ({took})", "dim")
        return
    endings = f"{_ending(job.status_a, job.exit_code_a)} / {_ending(job.status_b, job.exit_code_b)}"
    yield f"{look.styled(job.job_id, 'bold')}: {endings} ({took})"
    for pair in job.steps:
        yield f"  {pair.name}: {pair.a or 'did not run'} / {pair.b or 'did not run'}"
    if job.failure is not None:
        yield f"  {visible(job.failure)}"
    if job.first_line is not None:
        stream = " of standard error" if job.first_line.stream == "stderr" else ""
        yield f"  {job.first_line.step}, line {job.first_line.line}{stream}:"
        for side, text in (("a", job.first_line.a), ("b", job.first_line.b)):
            shown = look.styled("(no more output)", "dim") if text is None else visible(text)
            yield f"    {side} {look.marks['bar']} {shown}"


def _ending(status: str | None, code: int | None) -> str:
    return f"{status or 'not in this run'}{f' ({code})' if code else ''}"


def repetition_lines(found: Repetition, look: Look) -> Iterator[str]:
    failed, of = found.rate.count, found.rate.of
    yield look.styled(f"failed: {rate_text(found.rate)}", "bad" if failed else "ok")
    if found.ended_otherwise or of < found.wanted:
        yield f"without a result: {found.wanted - of} of {found.wanted}"
    if not failed:
        return
    codes = ", ".join(f"{code} ({count} times)" for code, count in found.exit_codes.items())
    yield f"exit codes: {codes}"
    if len(found.failures) > 1:
        yield f"{len(found.failures)} different failures:"
        for one in found.failures[:_MOST]:
            yield f"  {len(one.run_ids)} times, first in run {one.run_ids[0]}: {visible(one.ending.text)}"
        if len(found.failures) > _MOST:
            yield f"  {look.marks['dots']} {len(found.failures) - _MOST} more"
    if found.tests:
        yield "failing tests:"
        for test in found.tests[:_MOST]:
            yield f"  {visible(test.name)}  {rate_text(test.rate)}"
        if len(found.tests) > _MOST:
            yield f"  {look.marks['dots']} {len(found.tests) - _MOST} more"
    if (parting := found.parting) is not None:
        where = f"job {parting.job_id}, step {parting.step}, line {parting.line} of run {parting.run_id}"
        yield f"no passing run prints ({parting.runs} of the {failed} that failed do): {where}"
        yield f"  {visible(parting.text)}"
    elif found.passed:
        yield "the runs that failed print nothing that none of the others prints"
    yield f"see one that failed: loom diagnose {found.failed[0]}"
    if found.passed:
        yield f"compare: loom diff {found.passed[0]} {found.failed[0]}"


def rate_text(rate: Rate) -> str:
    """Format a rate: `6 of 20, 30 % (95 %: 15 % to 52 %)`."""
    share, low, high = (100 * part for part in (rate.count / max(1, rate.of), rate.low, rate.high))
    return f"{rate.count} of {rate.of}, {share:.0f} % (95 %: {low:.0f} % to {high:.0f} %)"
