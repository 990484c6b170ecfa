"""Extension points of a job: the gate around steps, and resuming from an earlier run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from loom.cancel import Cancel
from loom.plan.model import Job, Step
from loom.status import Exit, OnOutput, Status
from loom.values import Immutable

if TYPE_CHECKING:
    from loom.providers.inside import CommandsInside


class Verdict(StrEnum):
    FAIL = "fail"
    RETRY = "retry"
    NEXT = "next"
    """Continue with the next step. The job still fails."""
    PAUSE = "pause"
    """Fail the job if it has no other attempt, and keep its session as the step left it, before `after_script`."""


class AtStep(Immutable):
    """A job that waits at a step, before it or after its failure, with nothing running."""

    job: Job
    step: Step
    inside: Callable[[], CommandsInside]
    """Enter the job's session, with the variables of the step's shell. The run counts as assisted."""


class Gate(Protocol):
    """Called around steps in the jobs' threads; may block, because the job's timeout is paused."""

    def before(self, at: AtStep, cancel: Cancel) -> None: ...

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict: ...


class Child(Immutable):
    """A child pipeline to run: that of `job.trigger`, on the snapshot of the run that starts it."""

    job: Job
    run_id: str
    """The parent's."""
    workspace: Path
    snapshot: Mapping[str, Any]
    """The facts of the parent's, which the child gets once more."""
    archive_of: Callable[[str], Path]
    """The path of the artifacts of a job of the parent."""
    succeeded: Callable[[str], bool]
    """Return whether a job of the parent has succeeded so far."""


class ChildEnded(Immutable):
    run_id: str
    status: Status
    error: str | None = None


RunChild = Callable[[Child, OnOutput, Cancel, Callable[[str], None]], ChildEnded]
"""Runs a child pipeline as a run of its own with this one as its parent.

The last argument is called with its id once its jobs begin. RequestError or WorkflowError when it has no plan.
"""


def keeps(when: str, status: Status, *, by_hand: bool) -> bool:
    """Return whether to keep the session of a job with this result (`Config.keep`).

    `by_hand`: it may hold repairs of a person, who stood in it or resumed it; an interrupt does not remove it.
    """
    failed = status in (Status.FAILURE, Status.TIMED_OUT, Status.ERROR) or (by_hand and status is Status.CANCELED)
    return when == "always" or (when == "on-failure" and failed)
