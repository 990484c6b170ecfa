"""Runs of one checkout, one after the other, in a process that stays: for `loom watch` and `loom mcp`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.commands.plan.plan_run import concerned, plan_run
from loom.commands.plan.wiring import run_tools
from loom.commands.project import Worktree
from loom.commands.project.background import clean_later
from loom.errors import LoomError
from loom.plan.model import Plan
from loom.record.journal import Sink
from loom.record.request import Request
from loom.record.run import Run
from loom.runner import Gate, api
from loom.runner.prewarmed import NextRun
from loom.runner.tools import RunResult
from loom.util.refusals import refusals

IDLE_S = 600.0
"""The time that a prepared run may wait to be used."""

Choose = Callable[[Plan, frozenset[str] | None], Sequence[str] | None]
"""From the plan, and the jobs that the changes concern (None: all), to the ids of the jobs that run; None: the plan.

They bring those that they need.
"""


class PreparedRuns:
    """Every run is a whole one: its own workspace, containers, record, proof and receipt, as `loom run` makes them.

    After `prepare`, one workspace and the containers of the first jobs wait for the next run: until it begins, for `idle_s`
    seconds, or to the end of the block. Callers use one thread.
    """

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._guard = threading.Lock()
        """Guards the prepared run, which the caller and the clock change."""
        self._next: NextRun | None = None
        self._preparing: threading.Thread | None = None
        self._clock: threading.Timer | None = None
        self._cancel = Cancel()

    def __enter__(self) -> PreparedRuns:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def run(
        self,
        request: Request,
        *,
        sinks: Sequence[Sink],
        cancel: Cancel,
        gate: Gate | None = None,
        touched: AbstractSet[str] | None = None,
        choose: Choose = lambda _plan, _concerned: None,
    ) -> RunResult | None:
        """Run the workflow on the checkout as it is now, and return when the record is complete.

        `choose` decides which jobs of the plan run; `touched`: the files that changed. None if no job is to run. Errors as
        in `plan_run` and `api.execute`.
        """
        with self._guard:
            prepared_run = self._take_prepared()
        if prepared_run is not None and not prepared_run.ready():
            prepared_run.drop()
            prepared_run = None
        try:
            run_id = prepared_run.run_id if prepared_run is not None else str(time.time_ns())
            if (planned := _planned(request, run_id, choose, touched)) is None:
                return None
            project, run = planned
            ran = api.execute(run, run_tools(project, run, cancel, sinks, gate), prepared_run)
            clean_later(project)
            return ran
        finally:
            if prepared_run is not None:
                prepared_run.drop()

    def prepare(self, request: Request, choose: Choose = lambda _plan, _concerned: None) -> None:
        """Prepare a run of `request` in a thread; `run` checks what is prepared, and replaces what does not fit."""
        self.drop()
        with self._guard:
            self._cancel = cancel = Cancel()
            self._preparing = threading.Thread(
                target=self._prepare, args=(request, choose, cancel), name="prepare", daemon=True
            )
            self._preparing.start()

    def _prepare(self, request: Request, choose: Choose, cancel: Cancel) -> None:
        with suppress(LoomError), refusals():  # the run meets the same error, and reports it
            if (planned := _planned(request, str(time.time_ns()), choose, None)) is None or cancel.requested:
                return
            project, run = planned
            self._next = NextRun(run, run_tools(project, run, cancel))
            self._clock = threading.Timer(self._idle_s, self.drop)
            self._clock.daemon = True
            self._next.prepare()
            self._clock.start()

    def drop(self) -> None:
        """Remove the prepared run. Safe to repeat."""
        with self._guard:
            self._cancel.request(None)
            if (prepared_run := self._take_prepared()) is not None:
                prepared_run.drop()

    def _take_prepared(self) -> NextRun | None:
        """Wait for the prepared run and return it; none is prepared afterwards. The guard is held."""
        if self._preparing is not None:
            self._preparing.join()  # no limit: each of its waits has one, and a cancel ends them
        if self._clock is not None:
            self._clock.cancel()
        prepared_run, self._next, self._preparing, self._clock = self._next, None, None, None
        return prepared_run


def _planned(
    request: Request, run_id: str, choose: Choose, touched: AbstractSet[str] | None
) -> tuple[Worktree, Run] | None:
    """Plan the chosen jobs, with the options that `loom run` would need for it; None without jobs."""
    project, run = plan_run(request, run_id=run_id, ask=False)
    chosen = choose(run.plan, None if touched is None else concerned(project, run, touched))
    if chosen:
        project, run = plan_run(replace(request, names=tuple(chosen)), run_id=run_id, ask=False)
    return None if not run.plan.jobs or (chosen is not None and not chosen) else (project, run)
