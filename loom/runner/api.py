"""Run a plan and return its receipt.

The record and its first event are written first. Containers start slowly, so `execute` opens the first ones before it
imports the rest of loom; `run` records everything in the order of the phases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loom.analysis import formats
from loom.errors import LoomError
from loom.record.run import Run
from loom.runner.start import start
from loom.runner.tools import RunResult, RunTools
from loom.util.refusals import refusals

if TYPE_CHECKING:
    from loom.runner.prewarmed import NextRun


def execute(run: Run, tools: RunTools, prepared: NextRun | None = None) -> RunResult:
    """Run a run. Every failure ends in a receipt, except bugs and an unwritable record.

    `prepared`: what was prepared for this run, by its id; not with `run.workspace`.
    """
    started = start(run, tools, formats.watch(), prepared)
    try:
        try:
            with refusals():
                from loom.runner.pipeline import Execution
        except LoomError as error:  # concurrent work has used up the descriptors
            started.undo()
            started.problem = started.problem or error
            from loom.runner.pipeline import Execution

        return Execution(started).execute()
    except BaseException:
        started.undo()
        started.journal.close()  # jobs that have not ended write nothing more
        started.record.close_all()
        raise
