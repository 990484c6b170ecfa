"""Render the comparison of two runs as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loom.render.screen import Look
from loom.util.controls import visible
from loom.util.units import rough_duration

if TYPE_CHECKING:
    from loom.analysis.diff import Diff, Inputs, JobDiff

_MOST = 10


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
    if job.first_line is not None:
        stream = " of standard error" if job.first_line.stream == "stderr" else ""
        yield f"  {job.first_line.step}, line {job.first_line.line}{stream}:"
        for side, text in (("a", job.first_line.a), ("b", job.first_line.b)):
            shown = look.styled("(no more output)", "dim") if text is None else visible(text)
            yield f"    {side} {look.marks['bar']} {shown}"


def _ending(status: str | None, code: int | None) -> str:
    return f"{status or 'not in this run'}{f' ({code})' if code else ''}"
