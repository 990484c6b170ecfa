"""The last lines of a run on the screen, when its record is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from loom.render.screen import Detail, Look

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis


def closing_lines(
    status: str, receipt_path: Path, diagnosis: Diagnosis | None, kept: Iterable[str], look: Look
) -> Iterator[str]:
    """`diagnosis`: of a run that did not succeed; `kept`: the jobs with a place to look inside."""
    if look.detail is not Detail.QUIET and diagnosis is not None and diagnosis.state != "canceled":
        yield from _diagnosis(diagnosis, look)
    yield f"receipt: {receipt_path}"
    if look.detail is Detail.QUIET:
        yield f"status: {status}"
        return
    run_id = receipt_path.stem.rpartition("-")[2]
    for job_id in kept:
        yield f"look inside: loom shell {run_id} {job_id}"


def _diagnosis(diagnosis: Diagnosis, look: Look) -> Iterator[str]:
    """What the failing job's lines on the screen do not show."""
    for cause in diagnosis.shown_causes[:1]:
        yield f"{look.styled(f'{cause.confidence}:', 'bold')}  {cause.summary}"
        yield f"         {cause.advice}"
    if diagnosis.places:
        yield "look at: " + ", ".join(f"{place.file}:{place.line}" for place in diagnosis.places[:3])
    yield f"again:   {diagnosis.reproduce}"
