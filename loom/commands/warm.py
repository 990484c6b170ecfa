"""Runs of one checkout, one after the other, in a process that stays: for `loom watch`, and without a terminal.

with Warm(options) as warm:
    finished = warm.run(options, sinks=[screen], cancel=cancel)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.commands import run as running
from loom.commands import wiring
from loom.commands.project import Here
from loom.commands.run import Options
from loom.plan.model import Plan
from loom.record.events import PhaseEvent
from loom.record.journal import OutputBatch
from loom.runner import Gate, api
from loom.runner.api import Ran
from loom.status import JobResult, Status

if TYPE_CHECKING:
    from loom.record.journal import Sink


Choose = Callable[[Plan, frozenset[str] | None], Sequence[str] | None]
"""From the plan, and `Prepared.concerned`, to the ids of the jobs that run, and bring those that they need; None: the plan."""


class Finished(Struct, frozen=True, kw_only=True):
    """A run that ended, with the results of its jobs by id."""

    ran: Ran
    here: Here
    results: Mapping[str, JobResult]


class _Results:
    """A sink for the results of jobs."""

    def __init__(self) -> None:
        self.found: dict[str, JobResult] = {}

    def phase(self, event: PhaseEvent) -> None:
        if event.kind == "message" and event.message == "job_finished" and event.job_id is not None:
            allowed = bool(event.data.get("allowed_failure"))
            self.found[event.job_id] = JobResult(status=event.status or Status.ERROR, allowed_failure=allowed)

    def output(self, batch: OutputBatch) -> None:
        """Only results count here."""


class Warm:
    """Every run is a whole one: its own workspace, containers, record, proof and receipt, as `loom run` makes them."""

    def __enter__(self) -> Warm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self,
        options: Options,
        *,
        sinks: Sequence[Sink],
        cancel: Cancel,
        gate: Gate | None = None,
        touched: AbstractSet[str] | None = None,
        choose: Choose = lambda _plan, _concerned: None,
    ) -> Finished | None:
        """Run the workflow on the checkout as it is now, and return when the record is complete.

        `choose` decides which jobs of the plan run; `touched` as in `run.prepare`. None if no job is to run. Errors as in
        `run.prepare` and `api.execute`.
        """
        prepared = running.prepare(options, ask=False, touched=touched)
        chosen = choose(prepared.plan, prepared.concerned)
        if chosen is not None:
            options = replace(options, names=tuple(chosen))
            prepared = running.prepare(options, ask=False) if chosen else prepared
        if not prepared.plan.jobs or (chosen is not None and not chosen):
            return None
        here, results = prepared.here, _Results()
        tools = wiring.tools_for(
            prepared.plan,
            here.config,
            here.root,
            here.environ,
            run_id=prepared.run_id,
            isolated=options.strict,
        )
        request = running.request_of(
            prepared, options, tools=replace(tools, gate=gate), cancel=cancel, sinks=[*sinks, results]
        )
        return Finished(ran=api.execute(request), here=here, results=results.found)

    def close(self) -> None:
        """Remove what is prepared. Safe to repeat."""
