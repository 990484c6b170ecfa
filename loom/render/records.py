"""Render records for commands: rows of runs, lines of logs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from loom.record.documents import RunRow
from loom.record.events import OutputEvent, Where, to_dict
from loom.render.output import table
from loom.render.screen import Look
from loom.util import jsons
from loom.util.controls import json_shown, shown, visible
from loom.util.units import rough_age, rough_duration

_STYLES = {
    "success": ("ok", "ok"),
    "running": ("start", "bold"),
    "detached": ("start", "bold"),
    "skipped": ("skip", "dim"),
}


def runs_lines(rows: Sequence[RunRow], look: Look, *, now_ns: int, with_place: bool) -> Iterator[str]:
    if not rows:
        return
    cells = [("RUN", "WHEN", "STATUS", "EXTENT", "TREE", "TOOK", "FAILED" if not with_place else "CHECKOUT")]
    for row in rows:
        took = rough_duration(row.duration_ms) if row.duration_ms is not None else ""
        last = str(row.failing_job_id or "") if not with_place else str(row.repo_root or "")
        age, extent = run_age(row.run_id, now_ns), ", ".join(row.extent)
        name = row.run_id if row.child_of is None else f"{'└' if look.unicode else '-'} {row.run_id}"
        cells.append((name, age, row.status, extent, str(row.tree_sha or "")[:12], took, last))
    for number, (cell, line) in enumerate(zip(cells, table(cells), strict=True)):
        if number == 0:
            yield look.styled(f"  {line}", "dim")
            continue
        mark, style = _STYLES.get(cell[2], ("bad", "bad"))
        yield f"{look.styled(look.marks[mark], style)} {line}"


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
    """Format an output event with its place."""
    shape = {**to_dict(event), "job_id": where.job_id, "step": where.step, "section": where.section}
    return json_shown(jsons.encode_line(shape).decode()).encode()


def run_age(run_id: str, now_ns: int) -> str:
    return rough_age((now_ns - int(run_id)) / 1e9)
