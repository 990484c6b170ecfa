"""Where a person, or an earlier run, takes part in a job: the gate around steps, and how a job resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Job, Step
from loom.providers.base import Resolved, Session, SessionRequest
from loom.status import Exit, OnOutput, Status

if TYPE_CHECKING:
    from loom.runner.views import View


class Verdict(StrEnum):
    """What becomes of a step that failed."""

    FAIL = "fail"
    RETRY = "retry"
    NEXT = "next"
    """Go on with the next step. The job still ends as failed: one of its steps did."""


class AtStep(Struct, frozen=True, kw_only=True):
    """A job that stands at a step, with nothing running: before it, or after it failed."""

    job: Job
    step: Step
    session: Session
    request: SessionRequest
    environment: Mapping[str, str]
    """What the step's shell gets on top of the session's own; secrets included."""


class Gate(Protocol):
    """Asked around steps, from the jobs' threads; may take as long as it likes, the job's timeout stands still meanwhile."""

    def before(self, at: AtStep, cancel: Cancel) -> None: ...

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict: ...


def keeps(when: str, status: Status) -> bool:
    """Whether the place of a job that ended like this stays (`Config.keep`)."""
    ended = status in (Status.FAILURE, Status.TIMED_OUT, Status.ERROR) or (
        when == "always" and status is Status.SUCCESS
    )
    return when in ("always", "on-failure") and ended


Adopt = Callable[[SessionRequest, OnOutput, Cancel], AbstractContextManager[Session]]


class Resumption(Struct, frozen=True, kw_only=True):
    """How a job goes on from a step of an earlier run."""

    step: str
    handed_on: Mapping[str, str] = field(default_factory=dict)
    cache_keys: tuple[str, ...] = ()
    """Of the job's caches, as they were when it began."""
    image: Resolved | None = None
    """The checkpoint's image, or the one that the kept container was made from."""
    adopt: Adopt | None = None
    """Opens the kept container, its services with it; None: a new container is made from `image`."""
    view: View | None = None
    """The job's files as it left them then; None: it gets a view as at the start of a job."""
