"""`loom run --repeat N`: the same plan N times on one snapshot, each a run of its own, the child of one that stands for all."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from loom.analysis.repetition import repetition_of
from loom.cancel import Cancel, signals
from loom.commands.plan.wiring import run_tools
from loom.commands.project import Worktree
from loom.commands.project.background import clean_later
from loom.commands.run.children import ChildRuns
from loom.plan.model import Job, Plan, Trigger
from loom.record.journal import Sink
from loom.record.reader import Reading
from loom.record.run import Run
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

    def __init__(self, project: Worktree, run: Run) -> None:
        config = dataclasses.replace(project.config, jobs=1)  # the parent counts how many run at once
        super().__init__(replace(project, config=config), run, None)

    def __call__(self, child: Child, on_output: OnOutput, cancel: Cancel, started: Callable[[str], None]) -> ChildEnded:
        return self._execute(child, self._parent.again(str(time.time_ns())), on_output, cancel, started)


def repeat(
    project: Worktree, run: Run, times: int, *, sinks: Sequence[Sink], look: Look, write: Callable[..., None]
) -> int:
    """Run the plan so many times, shown by `sinks`; print how often it failed, and return the exit code of the worst."""
    of_all, cancel = replace(run, plan=_plan_of(run.plan, times)), Cancel()
    tools = replace(run_tools(project, of_all, cancel, sinks), run_child=_Repetitions(project, run))
    with signals(cancel):
        ran = api.execute(of_all, tools)
    runs = [entry for entry in project.store.entries(project.root) if entry.child_of == ran.receipt.run_id]
    found = repetition_of(ran.receipt.run_id, list(map(Reading, reversed(runs))), times)
    if run.request.form == "json":
        print_json(found)
    else:
        write(*repetition_lines(found, look))
    clean_later(project)
    return ran.receipt.exit_code


def _plan_of(plan: Plan, times: int) -> Plan:
    """Return the plan of the run that stands for all: a job for each repetition."""
    what = plan.jobs[0].id if len(plan.jobs) == 1 else "run"
    jobs = tuple(
        Job(
            id=f"{what} ({number} of {times})",
            name=f"{what} ({number} of {times})",
            stage=_STAGE,
            steps=(),
            provider=plan.jobs[0].provider,
            image=plan.jobs[0].image,
            trigger=Trigger(files=(), depend=True),
        )
        for number in range(1, times + 1)
    )
    return Plan(workflow_path=plan.workflow_path, stages=(_STAGE,), jobs=jobs, left_out=plan.left_out)
