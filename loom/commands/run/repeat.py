"""`loom run --repeat N`: the same plan N times on one snapshot, each a run of its own, the child of one that stands for all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from loom.analysis.repetition import repetition_of
from loom.cancel import Cancel, signals
from loom.commands.plan.preparing import Prepared
from loom.commands.plan.wiring import request_of, tools_of
from loom.commands.project.background import clean_later
from loom.commands.run.children import ChildRuns
from loom.plan.model import Job, Plan, Trigger
from loom.plan.variables import rerun_variables
from loom.record.journal import Sink
from loom.record.reader import Reading
from loom.render.look import Detail, Look
from loom.render.output import print_json
from loom.render.records import repetition_lines
from loom.runner import api
from loom.runner.hooks import Child, ChildEnded
from loom.status import OnOutput

_STAGE = "repeat"


class _Repetitions(ChildRuns):
    """Implements `runner.hooks.RunChild`: each child runs the plan itself."""

    _detail = Detail.QUIET

    def __init__(self, prepared: Prepared) -> None:
        config = dataclasses.replace(prepared.here.config, jobs=1)  # the parent counts how many run at once
        super().__init__(replace(prepared, here=replace(prepared.here, config=config)), None)

    def __call__(self, child: Child, on_output: OnOutput, cancel: Cancel, started: Callable[[str], None]) -> ChildEnded:
        run_id = str(time.time_ns())
        variables = rerun_variables(self._parent.variables, run_id)
        return self._run(child, replace(self._parent, run_id=run_id, variables=variables), on_output, cancel, started)


def repeat(prepared: Prepared, times: int, *, sinks: Sequence[Sink], look: Look, write: Callable[..., None]) -> int:
    """Run the plan so many times, shown by `sinks`; print how often it failed, and return the exit code of the worst."""
    of_all = replace(prepared, plan=_plan_of(prepared.plan, times))
    here = prepared.here
    cancel = Cancel()
    tools = replace(tools_of(of_all), run_child=_Repetitions(prepared))
    with signals(cancel):
        ran = api.execute(request_of(of_all, tools=tools, cancel=cancel, sinks=sinks))
    runs = [entry for entry in here.store.entries(here.root) if entry.child_of == ran.receipt.run_id]
    found = repetition_of(ran.receipt.run_id, list(map(Reading, reversed(runs))), times)
    if prepared.options.form == "json":
        print_json(found)
    else:
        write(*repetition_lines(found, look))
    clean_later(here)
    return ran.receipt.exit_code


def _plan_of(plan: Plan, times: int) -> Plan:
    """Return the plan of the run that stands for all: a job for each repetition."""
    digits = len(str(times))
    jobs = tuple(
        Job(
            id=f"{_STAGE}.{number:0{digits}d}",
            name=f"{_STAGE}.{number:0{digits}d}",
            stage=_STAGE,
            steps=(),
            provider=plan.jobs[0].provider,
            image=plan.jobs[0].image,
            trigger=Trigger(files=(), depend=True),
        )
        for number in range(1, times + 1)
    )
    return Plan(workflow_path=plan.workflow_path, stages=(_STAGE,), jobs=jobs, left_out=plan.left_out)
