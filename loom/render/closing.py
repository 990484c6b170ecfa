"""The last lines of a run on the screen, when its record is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.render.screen import Detail, Look
from loom.util.units import rough_size

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis


def closing_lines(
    status: str, receipt_path: Path, diagnosis: Diagnosis | None, kept: Mapping[str, Mapping[str, Any]], look: Look
) -> Iterator[str]:
    """`diagnosis`: of a run that did not succeed; `kept`: by job, the facts of a place to look inside."""
    if look.detail is not Detail.QUIET:
        yield from diagnosis_lines(diagnosis, look)
    yield f"receipt: {receipt_path}"
    if look.detail is Detail.QUIET:
        yield f"status: {status}"
        return
    run_id = receipt_path.stem.rpartition("-")[2]
    for job_id, fact in kept.items():
        long = ""
        if fact.get("container_id"):
            until = datetime.fromisoformat(fact["expires_at"]).astimezone()
            long = f" (kept until {until:%Y-%m-%d %H:%M}, {rough_size(fact.get('bytes') or 0)})"
        yield f"look inside: loom shell {run_id} {job_id}{long}"
    if any(fact.get("paused") for fact in kept.values()):
        yield f"paused: after a repair there or in the checkout, go on with: loom resume {run_id} [--sync]"


def diagnosis_lines(diagnosis: Diagnosis | None, look: Look) -> Iterator[str]:
    """Yield the parts of the diagnosis of a failed run that the failing job's lines do not show."""
    if diagnosis is None or diagnosis.state == "canceled":
        return
    for cause in diagnosis.shown_causes[:1]:
        yield f"{look.styled('likely:', 'bold')}  {cause.summary}"
        yield f"         {cause.advice}"
    telling = diagnosis.telling_line
    if telling in diagnosis.lines and "…" in diagnosis.lines[diagnosis.lines.index(telling) :]:  # not among the last
        yield f"{look.styled('line:', 'bold')}    {telling}"
    if diagnosis.places:
        yield "look at: " + ", ".join(f"{place.file}:{place.line}" for place in diagnosis.places[:3])
    from loom.render.diagnosis.text import earlier_text, failed_jobs, unread_lines  # only a failed run needs it

    if diagnosis.earlier_error:
        yield earlier_text(diagnosis.earlier_error)
    yield from unread_lines(diagnosis)
    yield from failed_jobs(diagnosis)
    yield f"again:   {diagnosis.reproduce}"
