"""The picture of a run's jobs: columns of boxes, and lines that never run behind a box."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from loom.record.fold import JobState
from loom.status import worst

BOX_WIDTH, BOX_HEIGHT = 160, 32
_GUTTER, _ROW, _TOP, _LANE = 84, 42, 30, 9
_UNFINISHED = "unfinished"


class JobBox(Struct, frozen=True, kw_only=True):
    """The box of a job, or of all jobs of one matrix. `x` and `y` are its upper left corner."""

    name: str
    jobs: list[str]
    target: str
    """The job that a click opens."""
    status: str
    note: str
    """The jobs of a matrix by status."""
    x: int
    y: int

    @property
    def label(self) -> str:
        text = self.name if len(self.jobs) == 1 else f"{self.name} ×{len(self.jobs)}"
        return text if len(text) <= 20 else f"{text[:19]}…"


class Edge(Struct, frozen=True, kw_only=True):
    path: str
    kind: Literal["need", "stage"]


class StageColumn(Struct, frozen=True, kw_only=True):
    name: str
    x: int
    width: int


class Graph(Struct, frozen=True, kw_only=True):
    width: int
    height: int
    boxes: int
    """The height without the lanes below the boxes."""
    nodes: list[JobBox]
    edges: list[Edge]
    stages: list[StageColumn]


class _Group(Struct, kw_only=True):
    """One box to draw: a job, or the jobs of one matrix."""

    jobs: list[JobState]
    stage: str
    needs: frozenset[str] | None
    """Keys of groups; None where the job waits for the stages before its own."""
    depth: int = 0
    """The longest way to it inside its stage, which has a column for each depth."""


def graph(stages: Sequence[str], jobs: Iterable[JobState]) -> Graph:
    """Lay out the jobs: a column for each stage, or several where jobs of one stage need each other."""
    groups = _groups(jobs)
    used = [stage for stage in dict.fromkeys((*stages, "")) if any(group.stage == stage for group in groups.values())]
    for group in groups.values():
        if group.stage not in used:  # a record that was changed
            used.append(group.stage)
    for _ in range(min(len(groups), 50)):
        if not sum(_deepen(group, groups) for group in groups.values()):
            break
    columns: dict[tuple[str, int], int] = {}
    for stage in used:
        for depth in sorted({group.depth for group in groups.values() if group.stage == stage}):
            columns[stage, depth] = len(columns)
    nodes: dict[str, JobBox] = {}
    rows = [0] * len(columns)
    for key, group in groups.items():
        column = columns[group.stage, group.depth]
        nodes[key] = _node(group, column, rows[column])
        rows[column] += 1
    bottom = _TOP + max(rows, default=1) * _ROW
    edges, lanes = _edges(groups, nodes, used, bottom)
    return Graph(
        width=max(1, len(columns)) * (BOX_WIDTH + _GUTTER) - _GUTTER,
        height=bottom + lanes * _LANE + 4,
        boxes=bottom,
        nodes=list(nodes.values()),
        edges=edges,
        stages=[_stage(stage, [at for (of, _), at in columns.items() if of == stage]) for stage in used],
    )


def _groups(jobs: Iterable[JobState]) -> dict[str, _Group]:
    """By key: the job's id, or what the jobs of a matrix have in common."""
    jobs = list(jobs)
    keys = {job.id: (job.id, "") for job in jobs}
    for job in jobs:
        if job.planned.get("matrix"):
            keys[job.id] = (str(job.planned.get("name", job.id)), f"\0{job.stage}")
    names = {job_id: "".join(key) for job_id, key in keys.items()}
    groups: dict[str, _Group] = {}
    for job in jobs:
        needs = job.planned.get("needs")
        known = None if needs is None else frozenset(names[need] for need in needs if need in names)
        group = groups.setdefault(names[job.id], _Group(jobs=[], stage=job.stage, needs=known))
        group.jobs.append(job)
        if group.needs is not None and known is not None:
            group.needs |= known
    return groups


def _deepen(group: _Group, groups: Mapping[str, _Group]) -> bool:
    """Put a group to the right of what it needs in its own stage. Returns whether it moved."""
    before = [groups[need].depth for need in group.needs or () if groups[need].stage == group.stage]
    depth = max(before, default=-1) + 1
    moved = depth > group.depth and not (group.needs and any(groups[need] is group for need in group.needs))
    if moved:
        group.depth = depth
    return moved


def _node(group: _Group, column: int, row: int) -> JobBox:
    statuses = [str(job.status or _UNFINISHED) for job in group.jobs]
    bad = [job for job in group.jobs if job.status is None or not job.status.ok]
    counts = {status: statuses.count(status) for status in sorted(set(statuses))}
    known = [job.status for job in group.jobs if job.status is not None]
    single = len(group.jobs) == 1
    return JobBox(
        name=group.jobs[0].id if single else str(group.jobs[0].planned.get("name", group.jobs[0].id)),
        jobs=[job.id for job in group.jobs],
        target=(bad or group.jobs)[0].id,
        status=str(worst(known)) if len(known) == len(statuses) else _UNFINISHED,
        note="" if single else ", ".join(f"{count} {status}" for status, count in counts.items()),
        x=column * (BOX_WIDTH + _GUTTER),
        y=_TOP + row * _ROW,
    )


def _stage(name: str, columns: Sequence[int]) -> StageColumn:
    first, last = min(columns), max(columns)
    step = BOX_WIDTH + _GUTTER
    return StageColumn(name=name, x=first * step, width=(last - first) * step + BOX_WIDTH)


def _edges(
    groups: Mapping[str, _Group], nodes: Mapping[str, JobBox], stages: Sequence[str], bottom: int
) -> tuple[list[Edge], int]:
    """Lines from needs to jobs; returns also how many lanes below the boxes they use.

    Jobs of one column that wait for the same ones share a knot, so that n jobs after m others are n + m lines.
    """
    bundles: dict[tuple[frozenset[str], int, str], list[JobBox]] = {}
    for key, group in groups.items():
        needs, kind = group.needs, "need"
        if needs is None:
            place = stages.index(group.stage)
            before = stages[place - 1] if place else None
            needs, kind = _last_of(before, groups), "stage"
        if needs - {key}:
            bundles.setdefault((needs - {key}, nodes[key].x, kind), []).append(nodes[key])
    edges: list[Edge] = []
    lanes = 0
    in_gutter: dict[int, int] = {}
    for (needs, x, kind), targets in bundles.items():
        number = in_gutter[x] = in_gutter.get(x, -1) + 1
        knot = (x - 14 - 7 * (number % 4), sum(node.y for node in targets) // len(targets) + BOX_HEIGHT // 2)
        sources = sorted((nodes[need] for need in needs), key=lambda node: (node.x, node.y))
        far = [node for node in sources if node.x != x - BOX_WIDTH - _GUTTER]
        paths = [_curve(_right(node), knot) for node in sources if node not in far]
        if far:
            paths += _around(far, knot, bottom + lanes * _LANE)
            lanes += 1
        paths += [_curve(knot, (node.x, node.y + BOX_HEIGHT // 2)) for node in targets]
        edges += [Edge(path=path, kind="stage" if kind == "stage" else "need") for path in dict.fromkeys(paths)]
    return edges, lanes


def _last_of(stage: str | None, groups: Mapping[str, _Group]) -> frozenset[str]:
    """The jobs of a stage that no other one of the stage needs: the stage is over when these are."""
    inside = {key: group for key, group in groups.items() if group.stage == stage}
    return frozenset(inside).difference(*(group.needs or () for group in inside.values()))


def _right(node: JobBox) -> tuple[int, int]:
    return node.x + BOX_WIDTH, node.y + BOX_HEIGHT // 2


def _curve(start: tuple[int, int], end: tuple[int, int]) -> str:
    (x1, y1), (x2, y2) = start, end
    middle = (x1 + x2) // 2
    return f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"


def _around(sources: Iterable[JobBox], knot: tuple[int, int], lane: int) -> list[str]:
    """From boxes that are not in the column before the knot: down their gutter, along a lane below all boxes, up again."""
    return [
        f"M{x},{y} h10 q6,0 6,6 V{lane - 6} q0,6 6,6 H{knot[0] - 6} q6,0 6,-6 V{knot[1]}"
        for x, y in map(_right, sources)
    ]
