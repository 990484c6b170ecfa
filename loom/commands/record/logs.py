"""`loom logs`: the output of a run's steps."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from loom.commands.project import Here, here
from loom.commands.record.naming import jobs_of, run_or_job
from loom.commands.screen import screen_parts
from loom.errors import RequestError
from loom.record.events import Where
from loom.record.reader import Follower, Reading, Unit, lines_in_order
from loom.record.store import is_alive
from loom.render.records import log_json, log_line
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of

FOLLOW_EVERY_S = 0.1


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
    """`loom logs`."""
    project = here({"color": color})
    reading, job, step = run_or_job(project, run, job, step)
    chosen = _Chosen(reading, job, step, system=system, whole=not as_json)
    wanted = _wanted(grep)
    printer = _printer(project, reading, as_json=as_json, timestamps=timestamps, many=chosen.many())
    if follow:
        for where, event in _followed(reading, chosen, tail):
            if wanted(event.text):
                printer(where, event)
        return
    lines: Iterable[tuple[Where, Any]] = chosen.lines(None if grep else tail)
    lines = (line for line in lines if wanted(line[1].text))
    if tail is not None:
        lines = deque(lines, maxlen=tail)
    for where, event in lines:
        printer(where, event)


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


class _Chosen:
    """The steps and sections of a run that a command line names. `whole`: the pieces of a long line as one."""

    def __init__(self, reading: Reading, job: str | None, step: str | None, *, system: bool, whole: bool) -> None:
        self._reading = reading
        self._step = step
        self._system = system
        self.whole = whole
        self.job_ids = jobs_of(reading, job)
        if step is not None and not reading.entry.alive and not self.units():
            names = sorted({unit.name for job_id in self.job_ids for unit in reading.units(job_id)})
            raise RequestError(f"{job} has no step or section {step!r}; it has {', '.join(names) or 'none'}")

    def many(self) -> bool:
        return len(self.job_ids) > 1

    def has(self, unit: Unit) -> bool:
        if unit.job_id not in self.job_ids:
            return False
        if self._step is None:
            return self._system or unit.step is not None
        return _is_step(unit, self._step)

    def units(self) -> list[Unit]:
        return [unit for job_id in self.job_ids for unit in self._reading.units(job_id) if self.has(unit)]

    def lines(self, tail: int | None) -> Iterator[tuple[Where, Any]]:
        """Output in `seq` order; with `tail` only so much of each unit's end as can matter."""
        return lines_in_order(self.units(), tail, whole=self.whole)


def _is_step(unit: Unit, wanted: str) -> bool:
    if wanted in (unit.step, unit.section):
        return True
    return wanted.isdigit() and unit.step == f"script/{int(wanted):02d}"


def _followed(reading: Reading, chosen: _Chosen, tail: int | None) -> Iterator[tuple[Where, Any]]:
    """Output as it is recorded, until the run is over (or its loom is dead); from the start, or from `tail` lines back."""
    follower = Follower(reading.paths, chosen.has, whole=chosen.whole)
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
        time.sleep(FOLLOW_EVERY_S)


def _printer(
    project: Here, reading: Reading, *, as_json: bool, timestamps: bool, many: bool
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
