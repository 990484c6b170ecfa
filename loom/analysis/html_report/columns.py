"""The jobs of a run in columns: one for each stage, and several where jobs of one stage need each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from loom.record.fold import JobState
from loom.status import worst

_UNFINISHED = "unfinished"


class JobBox(Struct, frozen=True, kw_only=True):
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


class StageColumn(Struct, frozen=True, kw_only=True):
    stage: str
    """Empty for a further column of the same stage."""
    boxes: list[JobBox]


def columns_of(stages: Sequence[str], jobs: Iterable[JobState]) -> list[StageColumn]:
    """Return the columns from left to right. `jobs` are in the plan's order, each after those that it needs."""
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
        StageColumn(stage="" if key[2] else key[1], boxes=[_box(name, group) for name, group in columns[key].items()])
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
