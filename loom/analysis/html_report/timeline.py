"""The timeline of a run: a row of bars for each job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from msgspec import Struct

from loom.record.events import phase_words
from loom.record.fold import JobState, Span
from loom.util.units import rough_duration

_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)


class Bar(Struct, frozen=True, kw_only=True):
    """One piece of a job's row; `left` and `width` in percent of the run."""

    label: str
    kind: str
    left: float
    width: float


class Scale(Struct, frozen=True, kw_only=True):
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
        return Bar(
            label=f"{label}: {rough_duration((until - since) * 1000)}, after {rough_duration((since - of.start) * 1000)}",
            kind=kind,
            left=of.percent(since - of.start),
            width=of.percent(max(0.0, until - since)),
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
