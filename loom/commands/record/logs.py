"""`loom logs`: the output of a run's steps."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from loom.commands.project import Project, jobs_of, open_project, run_or_job
from loom.commands.screen import screen_parts
from loom.errors import RequestError
from loom.record.events import Where
from loom.record.reader import Follower, Reading, Unit, lines_in_order
from loom.record.store import DETACHED, is_alive
from loom.render.records import log_json, log_line
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of


def logs(
    run: str,
    job: str | None,
    step: str | None,
    *,
    follow: bool,
    grep: str | None,
    tail: int | None,
    timestamps: bool,
    system: bool,
    as_json: bool,
    color: str | None,
) -> None:
    project = open_project({"color": color})
    reading, job, step = run_or_job(project, run, job, step)
    job_ids, whole = jobs_of(reading, job), not as_json

    def has(unit: Unit) -> bool:
        if unit.job_id not in job_ids:
            return False
        if step is None:
            return system or unit.step is not None
        return step in (unit.step, unit.section) or (step.isdigit() and unit.step == f"script/{int(step):02d}")

    all_units = [unit for job_id in job_ids for unit in reading.units(job_id)]
    units = list(filter(has, all_units))
    if step is not None and not reading.entry.alive and not units:
        names = sorted({unit.name for unit in all_units})
        raise RequestError(f"{job} has no step or section {step!r}; it has {', '.join(names) or 'none'}")
    wanted = _wanted(grep)
    printer = _printer(project, reading, as_json=as_json, timestamps=timestamps, many=len(job_ids) > 1)
    lines: Iterable[tuple[Where, Any]]
    if follow:
        lines = _followed(reading, Follower(reading.paths, has, whole=whole), tail)
    else:  # of each unit's end only so much as can matter
        lines = lines_in_order(units, None if grep else tail, whole=whole)
    lines = (line for line in lines if wanted(line[1].text))
    if tail is not None and not follow:
        lines = deque(lines, maxlen=tail)
    for where, event in lines:
        printer(where, event)
    if reading.state == DETACHED:
        print(
            f"loom: what its jobs print since it was detached comes with: loom attach {reading.run_id}", file=sys.stderr
        )


def _wanted(grep: str | None) -> Callable[[str], bool]:
    if grep is None:
        return lambda _: True
    try:
        search = Search(pattern_of(grep), most_s=math.inf)
    except (PatternError, SearchError) as error:
        raise RequestError(f"--grep {grep}: {error}", hint="it is a regular expression of Python's `re`") from error

    def wanted(text: str) -> bool:
        try:
            return search.first_in(text) is not None
        except SearchError as error:
            raise RequestError(f"--grep: {error}") from error

    return wanted


def _followed(reading: Reading, follower: Follower, tail: int | None) -> Iterator[tuple[Where, Any]]:
    """Yield output as it is recorded, until the run is over (or its loom is dead); from the start, or from `tail` lines back."""
    behind: Iterable[tuple[Where, Any]] = follower.poll()
    if tail is not None:
        behind = deque(behind, maxlen=tail)
    yield from behind
    while True:
        over = follower.over or not is_alive(reading.entry.identity)
        yield from follower.poll()
        if over:
            return
        sys.stdout.flush()
        time.sleep(0.1)


def _printer(
    project: Project, reading: Reading, *, as_json: bool, timestamps: bool, many: bool
) -> Callable[[Where, Any], None]:
    if as_json:
        return lambda where, event: _raw(log_json(where, event))
    look, _ = screen_parts(project.config.color)
    width = min(40, max((len(job_id) for job_id in reading.fold.jobs), default=0)) if many else 0
    return lambda where, event: _raw(
        log_line(where, event, look, job_width=width, timestamps=timestamps).encode(errors="surrogateescape") + b"\n"
    )


def _raw(data: bytes) -> None:
    sys.stdout.buffer.write(data)
