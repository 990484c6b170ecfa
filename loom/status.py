"""How things end: the vocabulary every layer shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum, StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Code = Annotated[int, Meta(ge=-(1 << 31), le=1 << 53)]

Stream = Literal["stdout", "stderr"]

OnOutput = Callable[[Stream, bytes], None]
"""Receives output as it arrives: any chunk of bytes, in order per stream; never called after what it was handed to returned."""


class Status(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    """Loom or the engine could not do its part."""
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    SKIPPED = "skipped"

    @property
    def ok(self) -> bool:
        return self in (Status.SUCCESS, Status.SKIPPED)


class ExitCode(IntEnum):
    """What the `loom` process ends with."""

    OK = 0
    JOB_FAILED = 1
    REQUEST = 2
    INFRASTRUCTURE = 3
    TIMED_OUT = 4
    BUG = 70
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class Ended(StrEnum):
    """Why a command in a session is over."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    OOM_KILLED = "oom_killed"


class Exit(Struct, frozen=True, kw_only=True):
    """How a command ended. `code` is the shell's exit code (128+N when signal N killed it)."""

    code: int
    ended: Ended = Ended.EXITED
    oom_kills: int = 0
    """How many processes were killed for lack of memory since the command before it, as far as the place can tell."""
    refused_forks: int = 0
    """How often no process could be made since then because there were as many as there may be (`pids`)."""
    ended_place: bool = False
    """The command ended the place that it ran in: no other can run there."""

    @property
    def status(self) -> Status:
        match self.ended:
            case Ended.EXITED:
                return Status.SUCCESS if self.code == 0 else Status.FAILURE
            case Ended.OOM_KILLED:
                return Status.FAILURE
            case Ended.TIMED_OUT:
                return Status.TIMED_OUT
            case Ended.CANCELED:
                return Status.CANCELED


class FailingTest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A test that failed. `file` is relative to the workspace where it lies in it, `line` counts from 1."""

    name: str
    classname: str | None = None
    file: str | None = None
    line: Code | None = None
    message: str | None = None
    kind: Literal["failure", "error"] = "failure"
    report: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.classname}.{self.name}" if self.classname else self.name

    @property
    def place(self) -> str:
        """` (file:line)`, as far as it is known."""
        return f" ({self.file}{f':{self.line}' if self.line else ''})" if self.file else ""

    @property
    def reason(self) -> str:
        """The first line of the message."""
        return next(iter((self.message or "").strip().splitlines()), "")


class JobResult(Struct, frozen=True, kw_only=True):
    status: Status
    allowed_failure: bool = False
    exit_code: int | None = None

    @property
    def lets_go_on(self) -> bool:
        """Whether jobs that wait for this one's success may start."""
        return self.status is Status.SUCCESS or self.allowed_failure


class Skip(Struct, frozen=True, kw_only=True):
    job_id: str
    reason: str
    blocked_by: str | None = None


_WORST_FIRST = (Status.ERROR, Status.FAILURE, Status.TIMED_OUT, Status.CANCELED, Status.SUCCESS, Status.SKIPPED)


def worst(statuses: Iterable[Status]) -> Status:
    """The status that stands for all of them; `skipped` only when everything was, and for nothing at all `success`."""
    present = set(statuses)
    return next((status for status in _WORST_FIRST if status in present), Status.SUCCESS)


def run_status(jobs: Mapping[str, tuple[Status, bool]]) -> Status:
    """The pipeline's status from each job's `(status, allowed to fail)`; a failure that is allowed counts as none."""
    if not jobs:
        return Status.SUCCESS
    status = worst(Status.SUCCESS if allowed else status for status, allowed in jobs.values())
    return Status.SUCCESS if status is Status.SKIPPED else status


def exit_code_of(status: Status) -> ExitCode:
    match status:
        case Status.SUCCESS | Status.SKIPPED:
            return ExitCode.OK
        case Status.FAILURE:
            return ExitCode.JOB_FAILED
        case Status.ERROR:
            return ExitCode.INFRASTRUCTURE
        case Status.TIMED_OUT:
            return ExitCode.TIMED_OUT
        case Status.CANCELED:
            return ExitCode.INTERRUPTED
