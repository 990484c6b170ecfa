"""Statuses and results, shared by all layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta

from loom.values import Immutable

Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Code = Annotated[int, Meta(ge=-(1 << 31), le=1 << 53)]

SUCCESS, FAILURE, CANCELLED, SKIPPED = "success", "failure", "cancelled", "skipped"
"""The results of a step, as expressions have them."""

Stream = Literal["stdout", "stderr"]

OnOutput = Callable[[Stream, bytes], None]
"""Receives chunks of output, in order per stream. Not called after the function that received it returns."""


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
    """Exit codes of the `loom` process."""

    OK = 0
    JOB_FAILED = 1
    REQUEST = 2
    INFRASTRUCTURE = 3
    TIMED_OUT = 4
    BUG = 70
    PAUSED = 77
    """A job waits at its failing step for `loom resume` (`--stop-at pause`)."""
    NOT_RUN = 125
    """`loom exec` could not run the command: the codes of its own errors, which a command could end with too, become this one."""
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class Ended(StrEnum):
    """The reason for the end of a command in a session."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"
    CANCELED = "canceled"
    OOM_KILLED = "oom_killed"


class Frame(Immutable, forbid_unknown_fields=True):
    """A call in a shell: the line in `file` that was running; in the step's own script without a file."""

    file: str | None = None
    line: Code | None = None
    function: str | None = None


class EndedBy(Immutable, forbid_unknown_fields=True):
    """The command that ended a step, as its shell reports it."""

    command: str
    line: Code | None = None
    """The line of the step's script."""
    code: Code
    parts: list[Code] = []
    """The exit codes of the parts of a pipeline of several."""
    stack: list[Frame] = []
    """The calls of functions and sourced files, the innermost first; empty at the top level of the script."""
    directory: str | None = None
    """The shell's directory at that time."""
    background: bool = False
    """Whether processes in the background had the step's output when it ended."""
    stdout_lines: Count | None = None
    """The lines of this stream before the command's own; None where that is not known."""
    stderr_lines: Count | None = None
    said_stdout_lines: Count | None = None
    """For a command that prints nothing: the lines before those of the last command that printed something."""
    said_stderr_lines: Count | None = None


class Exit(Immutable):
    """A command's result. `code` is the shell's exit code (128+N when signal N killed it)."""

    code: int
    ended: Ended = Ended.EXITED
    oom_kills: int = 0
    """Number of processes killed for lack of memory since the previous command, if known."""
    limited_by: str = ""
    """Whose limit of memory ran out, if it is neither the job's nor its pool's: the end of a message."""
    refused_forks: int = 0
    """Number of failed process creations since then due to the `pids` limit."""
    still_ran: tuple[str, ...] = ()
    """The command lines of the processes that a timed-out command was running, as far as the session can tell."""
    ended_session: bool = False
    """The command ended its session: no other can run there."""
    goes_on: bool = False
    """The shell that it shares with other commands goes on, so the code is no failure (`Share`)."""
    took_s: float | None = None
    """The time that it took, of a command that may have begun, or ended, before anybody listened."""
    reports: tuple[str, ...] = ()
    """The words of its shell about the command that ended it (`Command.observed`), as `endings.ended_by` reads them."""

    @property
    def status(self) -> Status:
        match self.ended:
            case Ended.EXITED:
                return Status.SUCCESS if self.code == 0 or self.goes_on else Status.FAILURE
            case Ended.OOM_KILLED:
                return Status.FAILURE
            case Ended.TIMED_OUT:
                return Status.TIMED_OUT
            case Ended.CANCELED:
                return Status.CANCELED


class FailingTest(Immutable, forbid_unknown_fields=True):
    """A failed test. `file` is relative to the workspace if inside, `line` counts from 1."""

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
    def position(self) -> str:
        """Format ` (file:line)`, as far as known."""
        return f" ({self.file}{f':{self.line}' if self.line else ''})" if self.file else ""

    @property
    def reason(self) -> str:
        """Return the first line of the message."""
        return next(iter((self.message or "").strip().splitlines()), "")


def failing_tests_total(named: Sequence[FailingTest], reports: Mapping[str, Any] | None) -> int:
    """Return the number of failed tests in the reports; the record names only the first ones."""
    return max(len(named), sum((reports or {}).get(kind) or 0 for kind in ("failures", "errors")))


class Failure(Immutable, forbid_unknown_fields=True):
    """One thing that a tool reports as wrong."""

    tool: str
    """The name of the format, or of the tool that a report names."""
    test: str | None = None
    file: str | None = None
    line: Code | None = None
    column: Code | None = None
    message: str | None = None
    code: str | None = None
    """The tool's own name for the kind: a rule, or an error's code."""


class JobResult(Immutable):
    status: Status
    allowed_failure: bool = False
    exit_code: int | None = None
    holds_up: bool = False
    """A manual job that was not started: the jobs after it do not run either."""
    outputs: Mapping[str, str] = {}
    """For the jobs after it, by name; without secrets."""

    @property
    def lets_go_on(self) -> bool:
        """Return whether jobs that wait for this one's success may start."""
        return self.status is Status.SUCCESS or self.allowed_failure


class Skip(Immutable):
    job_id: str
    reason: str
    blocked_by: str | None = None
    held: str = ""
    """Of a job that can't run here, though CI runs it: what such jobs are."""


NOT_BEGUN = "the run could not start"
"""The reason why each job of a run that ended before its first one was skipped."""

_WORST_FIRST = (Status.ERROR, Status.FAILURE, Status.TIMED_OUT, Status.CANCELED, Status.SUCCESS, Status.SKIPPED)


def worst(statuses: Iterable[Status]) -> Status:
    """Combine statuses; `skipped` only if all were, `success` for none."""
    present = set(statuses)
    return next((status for status in _WORST_FIRST if status in present), Status.SUCCESS)


def run_status(jobs: Iterable[JobResult]) -> Status:
    """Combine the results of jobs to the pipeline's status; allowed failures are ignored."""
    status = worst(Status.SUCCESS if job.allowed_failure else job.status for job in jobs)
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
