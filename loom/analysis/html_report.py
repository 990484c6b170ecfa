"""Render a run as one self-contained HTML page: no network, no other files, no secrets (masked when recorded).

`page` reads a record and returns the text. Logs are embedded as data and rendered on demand, so that a page with
100,000 lines loads and scrolls like a small one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct, field

from loom.analysis.diagnosis import failing_tests_total
from loom.record.events import OutputEvent
from loom.record.fold import JobState, Span
from loom.record.reader import Reading, Unit, whole_lines
from loom.record.store import last_output, read_events
from loom.util.controls import cleaned, visible
from loom.util.units import rough_duration, rough_size

MOST_LINES = 100_000
"""Maximum lines per step; of longer logs, the last lines, which show the failure."""

_PHASE_LABELS = {
    "job.provider_prepare": "prepare",
    "job.cache_restore": "restore cache",
    "job.artifact_restore": "restore artifacts",
    "job.execution": "steps",
    "job.artifact_extract": "keep artifacts",
    "job.cache_save": "save cache",
    "job.cleanup": "clean up",
}


class Bar(Struct, frozen=True, kw_only=True):
    """One segment of a job's timeline row; `left` and `width` in percent of the run."""

    label: str
    kind: str
    left: float
    width: float
    duration: str


class LogView(Struct, frozen=True, kw_only=True):
    """A step or section with its log. `anchor` is its URL fragment."""

    anchor: str
    name: str
    command: str
    place: str
    """The step's place in the workflow."""
    status: str
    exit_code: int | None
    duration: str
    error: str | None
    open: bool
    lines: int
    left_out: int
    data: str
    """The log as JSON: a list of `[stream, text]` with stream 1 or 2."""


class JobView(Struct, frozen=True, kw_only=True):
    id: str
    stage: str
    status: str
    duration: str
    note: str
    place: str
    facts: list[tuple[str, str]]
    bars: list[Bar]
    logs: list[LogView]
    tests: list[dict[str, Any]]
    failing: bool


class Node(Struct, frozen=True, kw_only=True):
    """A job's box in the graph; `x` and `y` of its upper left corner, in SVG units."""

    id: str
    status: str
    x: int
    y: int
    stage: str


class Graph(Struct, frozen=True, kw_only=True):
    width: int
    height: int
    nodes: list[Node]
    edges: list[str]
    """Edges as SVG paths."""
    stages: list[tuple[str, int]] = field(default_factory=list)


_BOX_WIDTH, _BOX_HEIGHT, _COLUMN, _ROW, _TOP = 150, 30, 210, 42, 26


def page(reading: Reading) -> str:
    """Render the page. RecordError for an unreadable record."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loom", "render"),
        autoescape=True,
        finalize=lambda value: cleaned(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**values(reading))


def values(reading: Reading) -> dict[str, Any]:
    """The data of the page."""
    fold = reading.fold
    receipt = reading.receipt()
    failing = fold.failing_job()
    start, end = _extent(fold.spans)
    jobs = [_job(reading, job, failing is not None and job.id == failing.id, start, end) for job in fold.jobs.values()]
    snapshot = receipt.get("snapshot") or {}
    facts = [
        ("run", reading.run_id),
        ("started", _when(str(receipt.get("started_at") or ""))),
        ("took", rough_duration(receipt.get("duration_ms"))),
        ("repository", str(receipt.get("repo_root") or "")),
        ("workflow", str(receipt.get("workflow_path") or "")),
        ("commit", _commit(reading, str(receipt.get("snapshot_head_sha") or ""))),
        ("tree", str(receipt.get("snapshot_tree_sha") or "")[:12]),
        ("uncommitted changes", str(snapshot.get("changed", 0))),
        ("loom", str(receipt.get("loom_version") or "")),
    ]
    return {
        "title": f"{reading.state}: {receipt.get('workflow_path') or 'loom run'} {reading.run_id}",
        "status": reading.state,
        "error": receipt.get("error"),
        "facts": [(name, value) for name, value in facts if value],
        "images": receipt.get("images", []),
        "counts": sorted(fold.jobs_by_status().items()),
        "jobs": jobs,
        "graph": _graph(list(fold.facts.get("plan_resolved", {}).get("stages", ())), list(fold.jobs.values())),
        "ticks": _ticks(end - start),
        "failing": next((log.anchor for job in jobs if job.failing for log in job.logs if log.open), None),
        "left_out": fold.facts.get("plan_resolved", {}).get("left_out", []),
    }


def _commit(reading: Reading, sha: str) -> str:
    commit = reading.commit() if sha else None
    if commit is None:
        return sha[:12]
    return f"{sha[:12]} {commit.subject} ({commit.author}, {_when(commit.time)})"


def _job(reading: Reading, job: JobState, failing: bool, start: float, end: float) -> JobView:
    result = job.result
    facts = [
        ("image", str((job.facts.get("image_resolved") or {}).get("name", ""))),
        ("digest", str((job.facts.get("image_resolved") or {}).get("digest", ""))),
        ("needs", ", ".join(job.planned.get("needs") or ())),
        ("services", ", ".join(job.planned.get("services") or ())),
        ("attempts", str(job.attempts) if job.attempts > 1 else ""),
    ]
    artifacts = job.facts.get("artifacts_saved")
    if artifacts:
        facts.append(("artifacts", f"{artifacts['files']} files, {rough_size(artifacts['bytes'])}"))
    tests = job.lists.get("failing_test", [])
    if (count := failing_tests_total(tests, job.facts.get("test_reports"))) > len(tests):
        facts.append(("failing tests", f"{count}, the first {len(tests)} below"))
    failing_place = None if result is None else result.data.get("failing_step") or result.data.get("failing_section")
    return JobView(
        id=job.id,
        stage=str(job.planned.get("stage", "")),
        status=str(job.status or "unfinished"),
        duration="" if result is None or result.status == "skipped" else rough_duration(result.duration_ms),
        note=(result.error or "") if result is not None else "did not end",
        place=str(job.planned.get("provider", "")),
        facts=[(name, value) for name, value in facts if value],
        bars=list(_bars(job, start, end)),
        logs=[_log(unit, job, opened=failing and unit.name == failing_place) for unit in reading.units(job.id)],
        tests=tests,
        failing=failing,
    )


def _log(unit: Unit, job: JobState, *, opened: bool) -> LogView:
    span = job.steps[unit.attempt, unit.name] if unit.step is not None else job.sections[unit.name]
    lines, left_out = _lines(unit, span)
    attempt = f" (attempt {unit.attempt})" if unit.step is not None and unit.attempt != job.attempts else ""
    last = unit.step is None or unit.attempt == job.attempts
    return LogView(
        anchor=f"{unit.job_id}/{unit.name}" + ("" if last else f"/attempt-{unit.attempt}"),
        name=unit.name + attempt,
        command=str(span.start.data.get("command", "")).strip(),
        place=f"{span.start.data['file']}:{span.start.data['line']}" if span.start.data.get("file") else "",
        status=str(span.status or "unfinished"),
        exit_code=span.end.exit_code if span.end else None,
        duration=rough_duration(span.duration_ms),
        error=span.end.error if span.end else "did not end",
        open=opened and last,
        lines=len(lines),
        left_out=left_out,
        data=_embedded(lines),
    )


def _lines(unit: Unit, span: Span) -> tuple[list[list[Any]], int]:
    """The log's last lines as `[1 or 2, text]`, pieces of long lines joined, and how many were left out before them."""
    events = last_output(unit.events, MOST_LINES)
    counts = span.data.get("output")
    if counts is not None:
        total = counts["stdout_lines"] + counts["stderr_lines"]
    else:  # without an end
        total = sum(isinstance(event, OutputEvent) for event in read_events(unit.events)) if events else 0
    lines = [[1 if line.stream == "stdout" else 2, visible(line.text)] for line in whole_lines(events)]
    return lines, max(0, total - len(events))


def _embedded(value: Any) -> str:
    """Encode JSON for a script element: its content can neither close the element nor begin a comment."""
    text = cleaned(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def _seconds(ts: str) -> float:
    return datetime.fromisoformat(ts).timestamp()


def _when(ts: str) -> str:
    return f"{datetime.fromisoformat(ts):%Y-%m-%d %H:%M:%S} UTC" if ts else ""


def _extent(spans: Sequence[Span]) -> tuple[float, float]:
    start = min(_seconds(span.start.ts) for span in spans)
    end = max(_seconds((span.end or span.start).ts) for span in spans)
    return start, max(end, start + 0.001)


def _bars(job: JobState, start: float, end: float) -> Iterator[Bar]:
    """Return the segments: waiting, each phase, and each step within the execution."""

    def bar(label: str, kind: str, since: float, until: float) -> Bar:
        scale = 100 / (end - start)
        return Bar(
            label=label,
            kind=kind,
            left=round((since - start) * scale, 3),
            width=round(max(0.0, until - since) * scale, 3),
            duration=rough_duration((until - since) * 1000),
        )

    if not job.phases or job.status == "skipped":
        return
    yield bar("waiting", "waiting", start, _seconds(job.phases[0].start.ts))
    for span in job.phases:
        code = span.start.phase_code
        until = _seconds(span.end.ts) if span.end else end
        if code != "job.execution":
            yield bar(_PHASE_LABELS.get(code, code), "overhead", _seconds(span.start.ts), until)
    for (_, step), span in job.steps.items():
        until = _seconds(span.end.ts) if span.end else end
        kind = "step" if span.status in ("success", None) else "bad"
        yield bar(step, kind, _seconds(span.start.ts), until)


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Return about five round times for the timeline, as `(percent, label)`."""
    step = next(
        (step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600) if seconds / step <= 6),
        seconds / 5,
    )
    count = int(seconds / step)
    return [
        (round(number * step / seconds * 100, 2), rough_duration(number * step * 1000)) for number in range(count + 1)
    ]


def _graph(stages: Sequence[str], jobs: Sequence[JobState]) -> Graph:
    """Lay out stages as columns, with an edge from each need to its job, or from the previous column for jobs without
    `needs`.
    """
    used = [stage for stage in stages if any(job.planned.get("stage") == stage for job in jobs)]
    nodes: dict[str, Node] = {}
    rows: dict[str, int] = {}
    for job in jobs:
        stage = str(job.planned.get("stage", ""))
        row = rows.get(stage, 0)
        rows[stage] = row + 1
        column = used.index(stage) if stage in used else 0
        nodes[job.id] = Node(
            id=job.id,
            status=str(job.status or "unfinished"),
            x=column * _COLUMN,
            y=_TOP + row * _ROW,
            stage=stage,
        )
    edges = []
    for job in jobs:
        needs = job.planned.get("needs")
        if needs is None:
            column = used.index(nodes[job.id].stage) if nodes[job.id].stage in used else 0
            needs = [node.id for node in nodes.values() if column and node.stage == used[column - 1]]
            needs = needs if len(needs) <= 8 else []  # too many edges hide the columns
        edges += [_edge(nodes[need], nodes[job.id]) for need in needs if need in nodes]
    return Graph(
        width=max(1, len(used)) * _COLUMN - (_COLUMN - _BOX_WIDTH),
        height=_TOP + max(rows.values(), default=1) * _ROW,
        nodes=list(nodes.values()),
        edges=edges,
        stages=[(stage, number * _COLUMN) for number, stage in enumerate(used)],
    )


def _edge(source: Node, target: Node) -> str:
    y1, y2 = source.y + _BOX_HEIGHT // 2, target.y + _BOX_HEIGHT // 2
    if source.x == target.x:
        x = source.x + _BOX_WIDTH
        return f"M{x},{y1} C{x + 30},{y1} {x + 30},{y2} {x},{y2}"
    x1, x2 = source.x + _BOX_WIDTH, target.x
    middle = (x1 + x2) // 2
    return f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
