"""The jobs of a run at a glance: by stage, in columns; by time, a row of bars for each job.

There are several columns of one stage where its jobs need each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from loom.record.events import phase_words
from loom.record.fold import JobState, Span
from loom.status import worst
from loom.util.units import rough_duration
from loom.values import Immutable

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_UNFINISHED = "unfinished"


class JobBox(Immutable):
    """The box of a job, or of all jobs of one matrix."""

    name: str
    jobs: list[str]
    target: str
    """The job that a click opens."""
    status: str
    note: str
    """The jobs of a matrix by status, and what they need."""

    @property
    def label(self) -> str:
        return self.name if len(self.jobs) == 1 else f"{self.name} ×{len(self.jobs)}"


def columns_of(stages: Sequence[str], jobs: Iterable[JobState]) -> list[tuple[str, list[JobBox]]]:
    """Return the columns from left to right, each with its stage if it is the first of that.

    `jobs` are in the plan's order, each after those that it needs.
    """
    order = {stage: number for number, stage in enumerate(stages)}
    before: dict[str, tuple[str, int]] = {}
    columns: dict[tuple[int, str, int], dict[str, list[JobState]]] = {}
    for job in jobs:
        inside = [before[need] for need in job.planned.get("needs") or () if need in before]
        depth = max((depth + 1 for stage, depth in inside if stage == job.stage), default=0)
        before[job.id] = job.stage, depth
        name = str(job.planned.get("name", job.id)) if job.planned.get("matrix") else job.id
        column = columns.setdefault((order.get(job.stage, len(order)), job.stage, depth), {})
        column.setdefault(name, []).append(job)
    return [
        ("" if key[2] else key[1], [_box(name, group) for name, group in columns[key].items()])
        for key in sorted(columns)
    ]


def _box(name: str, jobs: Sequence[JobState]) -> JobBox:
    statuses = [str(job.status or _UNFINISHED) for job in jobs]
    bad = [job for job in jobs if job.status is None or not job.status.ok]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    needs = ", ".join(dict.fromkeys(need for job in jobs for need in job.planned.get("needs") or ()))
    return JobBox(
        name=name,
        jobs=[job.id for job in jobs],
        target=(bad or jobs)[0].id,
        status=_UNFINISHED if _UNFINISHED in statuses else str(worst(job.status for job in jobs if job.status)),
        note=counts + (f"; needs {needs}" if needs else ""),
    )


Bar = tuple[str, str, float, float]
"""One piece of a job's row: label, kind, and left edge and width in percent of the run."""


class Scale(Immutable):
    """From the first to the last event of a run, in seconds."""

    start: float
    end: float

    def percent(self, seconds: float) -> float:
        return round(seconds * 100 / (self.end - self.start), 3)


def scale(spans: Sequence[Span]) -> Scale:
    start = min(_seconds(span.start.ts) for span in spans)
    end = max(_seconds((span.end or span.start).ts) for span in spans)
    return Scale(start=start, end=max(end, start + 0.001))


def ticks(of: Scale) -> list[tuple[float, str]]:
    """Return about five round times, as `(percent, label)`."""
    seconds = of.end - of.start
    step = next((step for step in _TICKS if seconds / step <= 6), seconds / 5)
    return [
        (of.percent(number * step), rough_duration(number * step * 1000) if number else "0")
        for number in range(int(seconds / step) + 1)
    ]


def bars(job: JobState, of: Scale) -> Iterator[Bar]:
    """Return bars for the waiting, then for each phase; within the execution each step has a bar of its own."""

    def bar(label: str, kind: str, since: float, until: float) -> Bar:
        took, after = (rough_duration(seconds * 1000) for seconds in (until - since, since - of.start))
        return (
            f"{label}: {took}, after {after}",
            kind,
            of.percent(since - of.start),
            of.percent(max(0.0, until - since)),
        )

    if not job.phases or job.status == "skipped":
        return
    yield bar("waiting", "waiting", of.start, _seconds(job.phases[0].start.ts))
    for span in job.phases:
        code = span.start.phase_code
        if code != "job.execution":
            yield bar(phase_words(code), "overhead", *_ends(span, of))
    for (attempt, step), span in job.steps.items():
        label = step if job.attempts == 1 else f"{step}, attempt {attempt}"
        yield bar(label, "step" if span.status in ("success", None) else "bad", *_ends(span, of))


def _ends(span: Span, of: Scale) -> tuple[float, float]:
    return _seconds(span.start.ts), _seconds(span.end.ts) if span.end else of.end


def _seconds(ts: str) -> float:
    return datetime.fromisoformat(ts).timestamp()
