"""`loom watch`: run the workflow again at each change of the checkout."""

from __future__ import annotations

import errno
import os
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from msgspec.structs import replace

from loom.cancel import Cancel, signals
from loom.commands.plan.plan_run import plan_run
from loom.commands.project import Worktree
from loom.commands.run import run as running
from loom.commands.run.changes import CheckoutWatch
from loom.commands.run.prewarmed import PreparedRuns
from loom.commands.screen import screen_parts
from loom.config.layers import user_file
from loom.errors import LoomError, RequestError
from loom.plan.model import Plan
from loom.plan.selection import dependents
from loom.record.events import PhaseEvent
from loom.record.journal import OutputBatch
from loom.record.request import FAILURE, Request
from loom.record.run import Run
from loom.render.look import Detail, Look
from loom.render.problems import error_lines
from loom.render.screen import diagnosis_lines
from loom.runner.tools import RunResult
from loom.snapshot.observed import CheckoutChange
from loom.status import ExitCode, JobResult, Status
from loom.util.controls import escape_commands, shown
from loom.util.units import counted
from loom.util.within import readable

_Event = CheckoutChange | str | None
"""A change, a key, or None: somebody asked for the end."""

_MOST_NAMED = 3
HANGUP = ""
"""The key that stands for the end of the terminal."""


def watch(*, everything: bool, poll: bool, **given: Any) -> int:
    request = Request.of(given)
    if other := next((when for when in request.stop_at if when != FAILURE), None):
        raise RequestError(f"--stop-at {other}: `loom watch` stops at {FAILURE} only")
    return _Watch(request, everything=everything).run_until_quit(poll=poll)


class _Watch:
    def __init__(self, request: Request, *, everything: bool) -> None:
        project, run = plan_run(request)  # as `loom run`: asks for trust, and ends for what can't be run
        self._request = request
        self._project = project
        self._counts_too = list(_deciding_files(project, run, request))
        look, self._write = screen_parts(project.config.color, verbose=request.verbose, stream=project.config.stream)
        self._look = replace(look, calm=look.detail is not Detail.VERBOSE)
        self._cancel = Cancel()
        self._events: SimpleQueue[_Event] = SimpleQueue()
        self._keys = ExitStack()
        """Holds the terminal, whose keys become events."""
        self._due = _DueJobs(everything=everything)
        self._touched: set[str] | None = None
        """The paths that changed since the last plan; None: everything."""
        self._because: frozenset[str] = frozenset()
        """The reasons for the next run."""
        self._plan_ids: list[str] = []
        self._last: RunResult | None = None
        self._quits = False

    def run_until_quit(self, *, poll: bool) -> int:
        self._cancel.on_request(lambda: self._events.put(None))
        with (
            signals(self._cancel),
            PreparedRuns() as runs,
            CheckoutWatch(
                self._project.source,
                self._project.environ,
                self._events.put,
                poll=poll,
                say=self._say,
                also=self._counts_too,
            ),
            self._keys,
        ):
            self._keys.enter_context(_keys(self._events.put))
            self._runs(runs, self._due.choose)
            while not self._is_over:
                self._prepare(runs)
                self._say(_waiting_line(self._look, keys=sys.stdin.isatty()))
                self._next(runs)
        return self._cancel.exit_code or ExitCode.OK

    @property
    def _is_over(self) -> bool:
        return self._quits or self._cancel.requested

    @contextmanager
    def _away(self) -> Iterator[None]:
        """Leave the terminal, as it was, to others for the block."""
        self._keys.close()
        try:
            yield
        finally:
            self._keys.enter_context(_keys(self._events.put))

    def _say(self, line: str) -> None:
        self._write(escape_commands(line))

    # -- what is to be done ---------------------------------------------------------------------------------------

    def _next(self, runs: PreparedRuns) -> None:
        found, key = CheckoutChange(), ""
        while not (found.paths or found.settings or key or self._is_over):
            for event in self._come():
                if isinstance(event, CheckoutChange):
                    found |= event
                elif event in ("q", HANGUP):
                    self._quits = True
                elif event in ("r", "f", "s"):
                    key = key or str(event)
            if found.head and not (found.paths or found.settings):
                found = CheckoutChange()
                self._prepare(runs)  # what waits is of another commit
        if self._is_over:
            return
        if found:
            self._because = found.paths | found.settings
            self._touched = None if self._touched is None or found.settings else self._touched | found.paths
            self._runs(runs, self._due.choose)
        elif key == "r":
            self._touched = None
            self._runs(runs, self._due.choose)
        elif key == "s":
            self._shell()
        elif failed := sorted(self._due.failed):
            self._runs(runs, lambda _: failed, goes_on=False)
        else:
            self._say("no job has failed")

    def _come(self) -> Iterator[_Event]:
        """Yield the next event, and those that came with it."""
        yield self._events.get()  # no limit: until something changes
        while not self._events.empty():
            yield self._events.get_nowait()

    def _shell(self) -> None:
        from loom.commands.inside.shell import shell  # needed only to enter a job

        with self._helped(), self._away():
            if self._last is None:
                raise RequestError("no run has ended yet")
            shell(self._last.receipt.run_id, None, None, as_root=False, trust=self._request.trust)

    def _prepare(self, runs: PreparedRuns) -> None:
        runs.prepare(self._request, lambda plan, _: self._due.forecast(plan))

    # -- one run after the other ----------------------------------------------------------------------------------

    def _runs(self, runs: PreparedRuns, choose: Callable[[Plan], list[str] | None], *, goes_on: bool = True) -> None:
        """Run the jobs that are due, then those that waited for them; edits made meanwhile come first."""
        with self._helped():
            while self._run(runs, choose) and goes_on and self._due.goes_on:
                if self._is_over or not self._events.empty():
                    break

    def _run(self, runs: PreparedRuns, choose: Callable[[Plan], list[str] | None]) -> bool:
        """Run once; tell whether jobs ran."""
        touched = self._touched
        because, self._because = self._because.union(touched or ()), frozenset()
        self._say("\n" + _changed_line(because, time.strftime("%H:%M:%S"), self._look))

        def chosen(plan: Plan, concerned: Collection[str] | None) -> list[str] | None:
            if touched != set():
                self._due.changed(concerned)
            self._touched, self._due.results = set(), {}
            self._plan_ids = [job.id for job in plan.jobs]
            return choose(plan)

        audience, gate = running.audience_for(self._request, None, self._look, self._write)
        attended = self._away() if self._request.attended else nullcontext()
        with attended, closing(audience):
            cancel = self._cancel.child()
            try:
                ended = runs.run(
                    self._request, sinks=[audience, self._due], cancel=cancel, gate=gate, touched=touched, choose=chosen
                )
            finally:
                cancel.detach()
        if ended is None:
            self._say("no job is concerned by that")
            return False
        self._last = ended
        self._due.ended(self._plan_ids)
        for line in diagnosis_lines(ended.diagnosis, self._look):
            self._say(line)
        return True

    @contextmanager
    def _helped(self) -> Iterator[None]:
        """Show an error instead of ending: the next change may repair its cause."""
        try:
            yield
        except LoomError as error:
            for line in error_lines(error):
                self._say(line)


def _changed_line(paths: Collection[str], time: str, look: Look) -> str:
    """State when a run began, and what had changed."""
    named = ", ".join(shown(path) for path in sorted(paths)[:_MOST_NAMED])
    more = f" and {counted(len(paths) - _MOST_NAMED, 'more file')}" if len(paths) > _MOST_NAMED else ""
    what = f"changed: {named}{more}" if paths else "run"
    return look.styled(f"{look.marks['start']} {time}  {what}", "bold")


def _waiting_line(look: Look, *, keys: bool) -> str:
    shown_keys = "  " + f" {look.marks['dot']} ".join(("r run", "f failed only", "s shell", "q quit")) if keys else ""
    return look.styled(f"waiting for changes{look.marks['dots']}{shown_keys}", "dim")


@contextmanager
def _keys(tell: Callable[[str], None]) -> Iterator[None]:
    """Call `tell` from a thread for each key, in the block; never where standard input is no terminal."""
    try:
        before = termios.tcgetattr(0)
        tty.setcbreak(0, termios.TCSADRAIN)
    except termios.error as error:
        if error.args[0] == errno.EIO:  # the terminal has gone while it was left to others
            tell(HANGUP)
        yield
        return
    wake, waker = os.pipe()

    def read() -> None:
        while wake not in readable((0, wake), None):  # no limit: a person may take any time
            try:
                typed = os.read(0, 1)
            except OSError:
                typed = b""
            tell(typed.decode("ascii", "replace"))
            if not typed:
                return

    thread = threading.Thread(target=read, name="keys", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(waker)
        thread.join()  # no limit: the closed pipe ends its wait
        os.close(wake)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _deciding_files(project: Worktree, run: Run, request: Request) -> Iterator[Path]:
    """Yield the files that decide a run besides its snapshot."""
    yield project.workflow(request.workflow)
    for path in (user_file(project.environ), project.config.gitlab.variables):
        if path is not None:
            yield path
    for job in run.plan.jobs:
        for secret in job.all_secrets:
            if secret.ref.startswith("file://"):
                yield project.root / Path(secret.ref.removeprefix("file://")).expanduser()


class _DueJobs:
    """The jobs that are still to pass; a sink of each run. `everything`: each change starts all again, in the plan's order."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._due: set[str] | None = None
        """None: every job."""
        self.failed: set[str] = set()
        self.results: dict[str, JobResult] = {}
        """The results of the present run, by the ids of its jobs."""
        self._advanced = False
        """Whether the last run took a job off those that are due."""

    def changed(self, concerned: Collection[str] | None) -> None:
        """Record that these jobs (None: all) have to pass again with the changes."""
        if concerned is None or self._everything:
            self._due = None
        elif self._due is not None:
            self._due |= set(concerned)

    def choose(self, plan: Plan) -> list[str] | None:
        """Return the ids of the jobs to run now; None for the whole plan."""
        ids = [job.id for job in plan.jobs]
        due = set(ids) if self._due is None else self._due & set(ids)
        failed = set() if self._everything else self.failed & due
        chosen = dependents(plan, failed) & due if failed else due
        return None if chosen == set(ids) else [job_id for job_id in ids if job_id in chosen]

    def forecast(self, plan: Plan) -> list[str] | None:
        """Predict the jobs that `choose` returns after the next change."""
        failed = set() if self._everything else self.failed & {job.id for job in plan.jobs}
        chosen = dependents(plan, failed)
        return [job.id for job in plan.jobs if job.id in chosen] if failed else None

    def phase(self, event: PhaseEvent) -> None:
        if event.kind == "message" and event.message == "job_finished" and event.job_id is not None:
            allowed = bool(event.data.get("allowed_failure"))
            self.results[event.job_id] = JobResult(status=event.status or Status.ERROR, allowed_failure=allowed)

    def output(self, batch: OutputBatch) -> None:
        """Ignore output: only results count here."""

    def ended(self, plan_ids: Collection[str]) -> None:
        """Take in how jobs ended. `plan_ids`: all jobs that could be due."""
        due = set(plan_ids) if self._due is None else self._due
        self._advanced = any(result.lets_go_on for result in self.results.values())
        for job_id, result in self.results.items():
            if result.lets_go_on:
                due.discard(job_id)
                self.failed.discard(job_id)
            else:
                due.add(job_id)
                if result.status not in (Status.SKIPPED, Status.CANCELED):
                    self.failed.add(job_id)
        self._due = due

    @property
    def goes_on(self) -> bool:
        """Return whether jobs that are due wait only for their turn: the failed ones passed.

        Not after a run that brought nothing forward, such as one that ended before its jobs: the next would end as it did.
        """
        return bool(self._due) and not self.failed and self._advanced
