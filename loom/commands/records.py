"""What the commands that read records do: find the run, read it, and hand the lines to the terminal."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.commands.project import configured, find_root
from loom.errors import LoomError, RequestError
from loom.render.output import print_json
from loom.util.bounded import listed

if TYPE_CHECKING:
    from loom.config import Config
    from loom.record.events import Where
    from loom.record.reader import Reading, Unit
    from loom.record.store import Store
    from loom.render.screen import Look
    from loom.workflow import Workflow

FOLLOW_EVERY_S = 0.1


class Here(Struct, frozen=True, kw_only=True):
    """The checkout that the command was started in, with what it needs to find runs."""

    root: Path
    config: Config
    store: Store

    def find(self, run: str) -> Reading:
        """RequestError when no run is meant by `run`, or several are."""
        from loom.record.reader import Reading

        return Reading(self.store.find(run, repo_root=self.root))


def here(color: str | None = None) -> Here:
    from loom.record.store import Store

    root = find_root(Path.cwd()).resolve()
    settings = configured(root, os.environ, {"color": color})
    return Here(root=root, config=settings, store=Store(settings.state_dir))


def look_of(place: Here, **details: Any) -> tuple[Look, Callable[[str], None]]:
    from loom.commands.run import screen_parts

    look, write = screen_parts(
        place.config.color,
        quiet=details.get("quiet", False),
        verbose=details.get("verbose", False),
        stream=details.get("stream", False),
    )
    return look, write


# -- loom runs ----------------------------------------------------------------------------------------------------


def runs(*, everywhere: bool, limit: int, as_json: bool, color: str | None) -> None:
    from itertools import islice

    from loom.record.documents import Runs
    from loom.record.listing import row_of
    from loom.render.records import runs_lines

    place = here(color)
    entries = place.store.entries(None if everywhere else place.root)
    rows = [row_of(entry) for entry in islice(entries, limit)]
    if as_json:
        print_json(Runs(runs=rows))
        return
    look, write = look_of(place)
    for line in runs_lines(rows, look, now_ns=time.time_ns(), with_place=everywhere):
        write(line)
    if not rows:
        what = "no run yet" if everywhere else f"no run of {place.root} yet; --all lists those of every checkout"
        print(what, file=sys.stderr)


# -- loom show ----------------------------------------------------------------------------------------------------


def show(run: str, *, stream: bool, quiet: bool, verbose: bool, as_json: bool, color: str | None) -> None:
    from loom.record.reader import document_of, replay
    from loom.record.store import INTERRUPTED, RUNNING
    from loom.render.records import unfinished_lines
    from loom.render.screen import Screen, closing_lines

    place = here(color)
    reading = place.find(run)
    if as_json:
        print_json(document_of(reading))
        return
    look, write = look_of(place, quiet=quiet, verbose=verbose, stream=stream)
    replay(reading, Screen(look, write), every_line=stream)
    if reading.state in (RUNNING, INTERRUPTED):
        for line in unfinished_lines(reading.state, reading.last_sign(), reading.running_units(), look):
            write(line)
    else:
        for line in closing_lines(reading.state, str(reading.paths.receipt), look):
            write(line)
        if not quiet:
            for job in reading.fold.jobs.values():
                if "session_kept" in job.facts:
                    write(f"look inside: loom shell {reading.run_id} {job.id}")


# -- loom logs ----------------------------------------------------------------------------------------------------


class LogOptions(Struct, frozen=True, kw_only=True):
    follow: bool = False
    grep: str | None = None
    tail: int | None = None
    timestamps: bool = False
    system: bool = False
    as_json: bool = False
    color: str | None = None


def logs(run: str, job: str | None, step: str | None, options: LogOptions) -> None:
    place = here(options.color)
    reading, job, step = run_or_job(place, run, job, step)
    chosen = _Chosen(reading, job, step, system=options.system)
    wanted = _wanted(options.grep)
    printer = _printer(place, reading, options, many=chosen.many())
    if options.follow:
        for where, event in _followed(reading, chosen, options.tail):
            if wanted(event.text):
                printer(where, event)
        return
    lines: Iterable[tuple[Where, Any]] = chosen.lines(None if options.grep else options.tail)
    lines = (line for line in lines if wanted(line[1].text))
    if options.tail is not None:
        lines = deque(lines, maxlen=options.tail)
    for where, event in lines:
        printer(where, event)


def run_or_job(place: Here, run: str, job: str | None, step: str | None) -> tuple[Reading, str | None, str | None]:
    """`loom logs test` means the last run's job, where no run has that name."""
    try:
        return place.find(run), job, step
    except RequestError as error:
        if error.code != "RUN_UNKNOWN" or run in ("last", "last-failed") or step is not None:
            raise
        try:
            last = place.find("last")
        except LoomError:
            raise error from None
        if not fnmatch.filter(last.fold.jobs, run):
            jobs = ", ".join(listed(last.fold.jobs, 20))
            raise RequestError(
                f"{run!r} is neither a run nor a job of the last run",
                hint=f"its jobs: {jobs}\n`loom runs` lists the runs",
                code="RUN_UNKNOWN",
            ) from None
        return last, run, job


def jobs_of(reading: Reading, job: str | None) -> list[str]:
    """The ids of the jobs that a name or glob means, all of them without one; RequestError when there is none."""
    known = list(reading.fold.jobs)
    found = known if job is None else fnmatch.filter(known, job)
    if not found and job is not None:
        raise RequestError(
            f"run {reading.run_id} has no job {job!r}; it has {', '.join(known) or 'none'}", code="JOB_UNKNOWN"
        )
    return found


def _wanted(grep: str | None) -> Callable[[str], bool]:
    if grep is None:
        return lambda _: True
    try:
        pattern = re.compile(grep)
    except re.error as error:
        raise RequestError(f"--grep {grep}: {error}", hint="it is a regular expression of Python's `re`") from error
    return lambda text: pattern.search(text) is not None


class _Chosen:
    """The steps and sections of a run that a command line names."""

    def __init__(self, reading: Reading, job: str | None, step: str | None, *, system: bool) -> None:
        self._reading = reading
        self._step = step
        self._system = system
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
        from loom.record.reader import lines_in_order

        return lines_in_order(self.units(), tail)


def _is_step(unit: Unit, wanted: str) -> bool:
    if wanted in (unit.step, unit.section):
        return True
    return wanted.isdigit() and unit.step == f"script/{int(wanted):02d}"


def _followed(reading: Reading, chosen: _Chosen, tail: int | None) -> Iterator[tuple[Where, Any]]:
    """Output as it is recorded, until the run is over (or its loom is dead); from the start, or from `tail` lines back."""
    from loom.record.reader import Follower

    follower = Follower(reading.paths, chosen.has)
    behind: Iterable[tuple[Where, Any]] = follower.poll()
    if tail is not None:
        behind = deque(behind, maxlen=tail)
    yield from behind
    while True:
        over = follower.over or not place_is_alive(reading)
        yield from follower.poll()
        if over:
            return
        sys.stdout.flush()
        time.sleep(FOLLOW_EVERY_S)


def place_is_alive(reading: Reading) -> bool:
    from loom.record.store import is_alive

    return is_alive(reading.entry.identity)


def _printer(place: Here, reading: Reading, options: LogOptions, *, many: bool) -> Callable[[Where, Any], None]:
    from loom.render.records import log_json, log_line

    if options.as_json:
        return lambda where, event: _raw(log_json(where, event))
    look, _ = look_of(place)
    width = min(40, max((len(job_id) for job_id in reading.fold.jobs), default=0)) if many else 0
    return lambda where, event: _raw(
        log_line(where, event, look, job_width=width, timestamps=options.timestamps).encode(errors="surrogateescape")
        + b"\n"
    )


def _raw(data: bytes) -> None:
    sys.stdout.buffer.write(data)


# -- loom diagnose ------------------------------------------------------------------------------------------------


def diagnose(run: str, job: str | None, form: str, *, color: str | None) -> None:
    from loom.commands import diagnose as diagnosing
    from loom.record import unrecorded

    place = here(color)
    reading, job, more = run_or_job(place, run, job, None)
    if more is not None:
        raise RequestError(f"{job} is a job, and {more} one name too many", hint="one job at a time: [RUN] [JOB]")
    diagnosis = diagnosing.diagnosis_of(
        reading, job, unrecorded.since(place.config.state_dir, place.root, reading.run_id)
    )
    if form == "json":
        print_json(diagnosis)
    elif form == "agent":
        from loom.render.agent import agent_text
        from loom.util.controls import cleaned

        sys.stdout.write(cleaned(agent_text(diagnosis, now_ns=time.time_ns())))
    else:
        from loom.render.records import diagnosis_lines

        look, write = look_of(place)
        for line in diagnosis_lines(diagnosis, look, now_ns=time.time_ns()):
            write(line)


# -- loom diff ----------------------------------------------------------------------------------------------------


def diff(run_a: str, run_b: str, *, as_json: bool, color: str | None) -> None:
    from loom.commands import diff as comparing
    from loom.render.diff import diff_lines

    place = here(color)
    found = comparing.diff_of(place.find(run_a), place.find(run_b))
    if as_json:
        print_json(found)
        return
    look, write = look_of(place)
    for line in diff_lines(found, look):
        write(line)


# -- shell completion ---------------------------------------------------------------------------------------------


def known_runs(incomplete: str) -> list[tuple[str, str]]:
    """For the shell: never an error, at most a screenful."""
    try:
        place = here()
        found = [("last", "the newest run"), ("last-failed", "the newest run that failed")]
        for entry in place.store.entries(place.root):
            found.append((entry.run_id, str((entry.receipt or {}).get("status", "no end"))))
            if len(found) >= 40:
                break
    except (LoomError, OSError):
        return []
    return [run for run in found if run[0].startswith(incomplete)]


def known_jobs(run: str | None, incomplete: str) -> list[str]:
    try:
        return [job_id for job_id in here().find(run or "last").job_ids() if job_id.startswith(incomplete)]
    except (LoomError, OSError, KeyError):
        return []


def known_steps(run: str | None, job: str | None, incomplete: str) -> list[str]:
    try:
        units = here().find(run or "last").units(job or "")
    except (LoomError, OSError, KeyError):
        return []
    return [unit.name for unit in units if unit.name.startswith(incomplete)]


def workflow_stages(incomplete: str) -> list[str]:
    loaded = _workflow_here()
    return [] if loaded is None else [stage for stage in loaded.stages if stage.startswith(incomplete)]


def workflow_matrix(incomplete: str) -> list[str]:
    """`KEY=value` of every matrix of the workflow."""
    loaded = _workflow_here()
    found: dict[str, None] = {}
    for entry in loaded.jobs.values() if loaded is not None else ():
        for row in (entry.fields.parallel.matrix if entry.fields.parallel else None) or ():
            found |= {f"{key}={value}": None for key, values in row.items() for value in values}
    return [pair for pair in found if pair.startswith(incomplete)]


def _workflow_here() -> Workflow | None:
    from loom import workflow
    from loom.commands import project

    root = find_root(Path.cwd()).resolve()
    try:
        return workflow.load(project.workflow_path(root, None, root), root)
    except (LoomError, OSError):
        return None


def workflow_jobs(incomplete: str) -> list[str]:
    """The ids of the jobs that the workflow would run here."""
    from loom import workflow
    from loom.commands import project
    from loom.plan.model import resolve

    root = find_root(Path.cwd()).resolve()
    try:
        settings = configured(root, os.environ)
        loaded = workflow.load(project.workflow_path(root, None, root), root)
        plan = resolve(
            loaded,
            project.selection(container=settings.container),
            project.resolve_context(root, settings, os.environ),
        )
    except (LoomError, OSError):
        return []
    return [job.id for job in plan.jobs if job.id.startswith(incomplete)]
