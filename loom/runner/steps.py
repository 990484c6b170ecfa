"""Run the steps of one attempt in order: time limits, the gate, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import InfrastructureError, SecretError
from loom.plan.model import Job, Step
from loom.plan.variables import status_variables
from loom.providers.base import Detachable, Provider
from loom.providers.command import Command, Share
from loom.providers.driver.endings import observable
from loom.record.documents import Assistance, plain
from loom.record.events import RUN, PhaseCode, Section, Where
from loom.record.run import Resumed
from loom.record.step_outputs import recorded
from loom.runner.attempt import Attempt
from loom.runner.hooks import AtStep, Gate, Verdict
from loom.runner.own_output import Coverage, OwnOutput
from loom.runner.session import OpenJob
from loom.status import FAILURE, SUCCESS, Ended, Exit, OnOutput, Status
from loom.util.units import counted, duration_text, shortened
from loom.values import Immutable
from loom.workflow.patterns import PatternError, SearchError

if TYPE_CHECKING:
    from loom.providers.inside import CommandsInside
    from loom.runner.results import Results

CODE = PhaseCode.JOB_EXECUTION
AFTER_SCRIPT_TIMEOUT_S = 300.0
"""The total time of `after_script`, as in GitLab, unless `step_timeout` limits its steps: the job's own time may be
used up.
"""


class JobSteps(Immutable):
    """What runs the steps of an attempt, and where."""

    attempt: Attempt
    open_job: OpenJob
    gate: Gate | None
    cancel: Cancel
    """Ends the attempt."""
    again: Cancel
    """Ends the steps that run although it was."""
    goes_on: Callable[[], bool]
    """Return whether the job does, although its step failed: it may fail, or another attempt follows."""
    needs: Mapping[str, Any] = MappingProxyType({})
    """The results of the jobs before, for expressions."""
    provider: Provider
    results: Results | None
    """The services for actions; None: no job has any."""
    cache_dir: Path
    snapshot: Path
    shares_files: bool
    """Other jobs have the same files."""


class Steps:
    """Runs the steps in a session, one after the other, and stores results in `attempt`.

    Each has a condition: one of `after_script` always runs, any other while none before it has failed. A language with
    expressions evaluates its own, and a step's other texts.
    """

    def __init__(self, of: JobSteps) -> None:
        self._attempt = attempt = of.attempt
        self._job = attempt.job
        self._open_job = of.open_job
        self._gate = of.gate
        self._entered = False
        self._cancel = of.cancel
        self._again = of.again
        self._goes_on = of.goes_on
        self._coverage = self._coverage_of(attempt)
        self._observed = observable([step.script for step in attempt.job.steps])
        self._clock = Clock(attempt.job.timeout_s, attempt.journal.now_ns)
        self._left: list[Step] = []
        """The steps that have not begun."""
        self._canceled = False
        """Whether the job was, when the present step began."""
        self._failed = False
        """Whether a step failed, and nobody went on after it."""
        self._after: Mapping[str, str] = {}
        """The variables that only the steps of `after_script` have."""

    def _coverage_of(self, attempt: Attempt) -> Coverage | None:
        if attempt.job.coverage is None:
            return None
        try:
            return Coverage(attempt.job.coverage)
        except (PatternError, SearchError) as error:
            attempt.warn(f"coverage: {attempt.job.coverage!r} is not a regular expression here: {error}", CODE)
            return None

    def _state_coverage(self) -> None:
        if self._coverage is not None and self._coverage.problem is not None:
            self._attempt.warn(f"coverage: not known: {self._coverage.problem}", CODE)
        elif self._coverage is not None and self._coverage.percent is not None:
            percent = self._coverage.percent
            self._attempt.fact("coverage", {"percent": round(percent, 2)}, CODE)
            text = f"{self._job.id}: coverage {percent:.4g} %"
            self._attempt.journal.fact(RUN, PhaseCode.PIPELINE_EXECUTE, "notice", {"text": text})

    def hand_over(self, save: Callable[[bytes], None]) -> None:
        """Let the session begin all of the job's steps (`Detachable.hand_over`)."""
        session = self._open_job.session
        assert isinstance(session, Detachable)
        main = [step for step in self._job.steps if step.phase != "after_script"]
        after = [step for step in self._job.steps if step.phase == "after_script"]
        statuses = {True: Status.SUCCESS, False: Status.FAILURE}
        session.hand_over(
            [self._command(step, None) for step in main],
            {
                ok: [self._command(step, None, status_variables(status)) for step in after]
                for ok, status in statuses.items()
            },
            save,
        )

    def run(self) -> None:
        attempt, resumed = self._attempt, self._open_job.resumed
        self._left = [step for step in self._job.steps if step.phase != "after_script"]
        if resumed is not None and not resumed.attached:
            del self._left[: [step.id for step in self._left].index(resumed.step)]
            self._restore(resumed)
        self._run_those_left()
        self._decide()
        attempt.paused = attempt.paused and not self._goes_on()
        if not attempt.paused:
            self._run_after_script()

    def _run_those_left(self) -> None:
        while self._left:
            self._process(self._left.pop(0))

    def _process(self, step: Step) -> None:
        """Run or skip a step."""
        self._canceled = self._is_canceled()
        if not self._begins(step):
            return
        with self._clock.stopped():
            self._stop_before(step)
        if self._cancel.requested and not self._canceled:
            self._process(step)  # the person who was asked has left
        else:
            self._do(step)

    def _do(self, step: Step) -> None:
        running, limit_s, is_after = self._evaluated(step), self._limit_s(step), step.phase == "after_script"
        if limit_s is not None and limit_s <= 0:
            self._warn_of_time(f"{step.id} was not run: those before it had used up the time")
            return
        exit_ = self._step(running, limit_s, self._again if self._canceled or is_after else self._cancel)
        ends = self._job.shared_shell and not exit_.goes_on
        if is_after:
            self._tell_failure(step, exit_, limit_s)
            ends = ends or exit_.ended_session
        elif exit_.status is not Status.SUCCESS:
            self._judge(step, exit_, self._reason(running, exit_, limit_s))
            return
        else:
            self._end(step)
            if ends and self._left:
                text = f"{step.id} ended the shell with exit code 0: the steps after it were not run"
                self._attempt.warn(text, CODE)
        if ends:
            self._left.clear()

    def _judge(self, step: Step, exit_: Exit, text: str) -> None:
        """Decide about a failed step, and those after it."""
        with self._clock.stopped():
            verdict = self._verdict(step, exit_)
        if verdict is Verdict.RETRY:
            self._process(step)
            return
        if verdict is Verdict.FAIL:
            self._fail(step, exit_, text)
        else:
            self._blame(step, exit_, text)
            self._attempt.paused = verdict is Verdict.PAUSE
            self._end(step, FAILURE, SUCCESS)  # a person repaired it
        if self._attempt.paused or exit_.ended_session:
            self._left.clear()

    def _fail(self, step: Step, exit_: Exit, text: str) -> None:
        self._blame(step, exit_, text)
        self._end(step, FAILURE)

    def _blame(self, step: Step, exit_: Exit, text: str) -> None:
        """Make a step the reason for the job's failure, unless an earlier one is."""
        attempt = self._attempt
        if attempt.failing_step is None:
            attempt.status, attempt.exit_code = exit_.status, exit_.code
            attempt.failing_step, attempt.error = step.id, text

    def _decide(self) -> None:
        """Complete the result of the steps before `after_script`."""
        if self._canceled and self._cancel.requested and not self._failed:
            self._attempt.status, self._attempt.error = Status.CANCELED, "interrupted"
        self._state_coverage()
        self._blame_service()

    # -- what a language with expressions decides itself -----------------------------------------------------------

    def _restore(self, resumed: Resumed) -> None:
        """Restore what the steps before the first one made in the run that the job resumes."""
        self._tell_handed_on("", PhaseCode.PIPELINE_EXECUTE)

    def _is_canceled(self) -> bool:
        return self._cancel.requested

    def _begins(self, step: Step) -> bool:
        """Return whether the condition of a step holds."""
        return step.phase == "after_script" or not (self._canceled or self._failed)

    def _limit_s(self, step: Step) -> float | None:
        left_s, own_s = self._clock.left_s(), self._job.step_timeout_s
        if step.phase == "after_script":
            return own_s or left_s
        limits = (own_s, None if left_s is None else max(0.001, left_s))
        return min((limit for limit in limits if limit is not None), default=None)

    def _evaluated(self, step: Step) -> Step:
        """Return the step with the script that it runs."""
        return step

    def _reason(self, step: Step, exit_: Exit, limit_s: float | None) -> str:
        return why(self._job, step, exit_, limit_s) or ""

    def _end(self, step: Step, outcome: str = SUCCESS, conclusion: str = "") -> None:
        """Take over the result of a step; `conclusion`: the one for the job, if it is another."""
        self._failed = self._failed or (conclusion or outcome) == FAILURE

    # -- the parts of a step ---------------------------------------------------------------------------------------

    def _blame_service(self) -> None:
        """Make a service that ended the reason for the end of the job that it interrupted."""
        attempt = self._attempt
        if attempt.service_died is not None and attempt.status is Status.CANCELED:
            attempt.status, attempt.error = Status.ERROR, str(attempt.service_died)
            attempt.error_code = attempt.service_died.code
            attempt.failing_step, attempt.failing_section = None, Section.SERVICES

    def _share(self, step: Step) -> Share | None:
        """Return the step's part in the shell of `after_script`, or in that of the others, if the job's steps share one."""
        if not self._job.shared_shell:
            return None
        is_after = step.phase == "after_script"
        steps = [one for one in self._job.steps if (one.phase == "after_script") == is_after]
        return Share(first=step is steps[0], last=step is steps[-1], saved=not is_after, trace=self._job.trace)

    def _run_after_script(self) -> None:
        """Run `after_script` whatever the result, which it never changes. It has its own time limit."""
        job, attempt = self._job, self._attempt
        self._left = [step for step in job.steps if step.phase == "after_script"]
        if not self._left:
            return
        if attempt.status is Status.TIMED_OUT and job.ends_at_timeout:
            attempt.warn("`after_script` was not run: the job's time was over, as in GitLab", CODE)
            return
        self._after = status_variables(attempt.status)
        self._clock = Clock(job.after_script_timeout_s or AFTER_SCRIPT_TIMEOUT_S, attempt.journal.now_ns)
        self._run_those_left()
        if attempt.status is not Status.SUCCESS:
            # Somebody who enters the container later does not find it as the failing step left it.
            attempt.fact("after_script_ran", {}, CODE)

    def _tell_failure(self, step: Step, exit_: Exit, limit_s: float | None) -> None:
        """Tell the failure of a step of `after_script`."""
        if exit_.ended is Ended.TIMED_OUT:
            self._warn_of_time(f"{step.id} ran out of time and was ended")
        elif exit_.status is Status.FAILURE:
            not_run = exit_.ended_session and self._left
            rest = ", and what comes after it was not run: it has ended the container" if not_run else ""
            text = f"{why(self._job, step, exit_, limit_s)}{rest}; `after_script` does not change the job's result"
            self._attempt.warn(text, CODE)

    def _stop_before(self, step: Step) -> None:
        if self._gate is not None and not self._cancel.requested:
            with self._watched():
                self._gate.before(self._at(step), self._cancel)

    def _warn_of_time(self, text: str) -> None:
        all_s = self._job.after_script_timeout_s or AFTER_SCRIPT_TIMEOUT_S
        limit = (
            f"each of its steps may take {duration_text(self._job.step_timeout_s)} (`step_timeout`)"
            if self._job.step_timeout_s
            else f"all of it may take {duration_text(all_s)} where no `step_timeout` says otherwise"
        )
        self._attempt.warn(f"{text}; {limit}", CODE)

    def _verdict(self, step: Step, exit_: Exit) -> Verdict:
        """Decide about a failed step: it fails the job, unless the gate decides otherwise."""
        failed = exit_.status in (Status.FAILURE, Status.TIMED_OUT)
        if self._gate is None or not failed or self._cancel.requested:
            return Verdict.FAIL
        with self._watched():
            verdict = self._gate.failed(self._at(step), exit_, self._cancel)
        self._attempt.fact("step_decided", {"step": step.id, "verdict": verdict}, CODE)
        return Verdict.FAIL if self._cancel.wait(0) else verdict

    def _at(self, step: Step) -> AtStep:
        def inside() -> CommandsInside:
            self._entered = True
            return self._open_job.session.inside(self._environment(step))

        return AtStep(job=self._job, step=step, inside=inside)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Record that somebody entered the session, if somebody does."""
        yield
        if self._entered:
            self._attempt.entered, self._entered = True, False
            shell = Assistance(how="shell", job_id=self._job.id)
            self._attempt.journal.fact(RUN, PhaseCode.RUN_PIPELINE_EXECUTE, "assisted", plain(shell))

    def _environment(self, step: Step) -> dict[str, str]:
        return {
            **self._open_job.handed_on(),
            **self._open_job.environment,
            "LOOM_STEP": step.id,
            "LOOM_ATTEMPT": str(self._attempt.number),
        }

    def _step(self, step: Step, timeout_s: float | None, cancel: Cancel) -> Exit:
        job, attempt, open_job = self._job, self._attempt, self._open_job
        where = Where(scope="step", job_id=job.id, step=step.id)
        writer = attempt.journal.writer(where)
        own = OwnOutput(writer.counts)
        exit_: Exit | None = None
        with attempt.journal.span(where, PhaseCode.STEP_EXECUTE, self._started(step)) as outcome:
            try:
                before = open_job.handed_on()
                command = replace(self._command(step, timeout_s, self._after), began=own.began)
                coverage = self._coverage if step.phase != "after_script" else None
                on_output = writer if coverage is None else coverage.watching(writer)
                exit_ = self._run(step, command, on_output, cancel)
                if coverage is not None:
                    coverage.end()
                self._mask_values(step)
                outcome.status, outcome.exit_code = exit_.status, exit_.code
                outcome.error = why(job, step, exit_, timeout_s)
                if exit_.took_s is not None:
                    began_ns = attempt.journal.now_ns() - round(exit_.took_s * 1e9)
                    attempt.unseen_ns += outcome.began_ns - began_ns
                    outcome.began_ns = began_ns
                for text in _unnoticed(step, exit_):
                    attempt.warn(text, CODE)
                if open_job.handed_on() != before:
                    self._tell_handed_on(step.id, CODE)
            except InfrastructureError:
                attempt.blame(step=step.id)  # not the remaining steps in a broken session
                raise
            finally:
                outcome.data = {"output": writer.counts}  # the numbering continues
                writer.close()
                if exit_ is not None and exit_.status is Status.FAILURE and exit_.ended is Ended.EXITED:
                    ended_by = own.ended_by(step.script, exit_)
                    outcome.data |= {} if ended_by is None else {"ended_by": plain(ended_by)}
        return exit_

    def _run(self, step: Step, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        return self._open_job.session.run(command, on_output, cancel)

    def _started(self, step: Step) -> dict[str, Any]:
        started: dict[str, Any] = {"command": step.script, "phase": step.phase, "number": step.number}
        started["attempt"] = self._attempt.number
        return started | ({"file": step.file, "line": step.line, "literal": step.literal} if step.file else {})

    def _command(self, step: Step, timeout_s: float | None, after: Mapping[str, str] = MappingProxyType({})) -> Command:
        return Command(
            script=step.script,
            shell=self._job.shell,
            environment={**self._environment(step), **after},
            timeout_s=timeout_s,
            merge_output=self._job.merge_output,
            share=self._share(step),
            name=step.id,
            observed=self._observed,
        )

    def _tell_handed_on(self, step: str, code: PhaseCode) -> None:
        attempt, open_job = self._attempt, self._open_job
        found = recorded(open_job.handed_on(), open_job.secrets, attempt.journal.masker)
        attempt.fact("handed_on", {"step": step, "attempt": attempt.number, **found}, code)

    def _mask_values(self, step: Step) -> None:
        """Mask from now on the values that the step appended to `$LOOM_MASK`."""
        for value in filter(bytes.strip, self._open_job.session.reported().get("mask", ())):
            self._mask(step, "LOOM_MASK", value, "a line of $LOOM_MASK")

    def _mask(self, step: Step, name: str, value: str | bytes, what: str) -> None:
        try:
            self._attempt.journal.masker.add(name, value)
        except SecretError as error:
            self._attempt.warn(f"{step.id}: {what} is not masked: {error.message.partition(': ')[2]}", CODE)


class Clock:
    """The remaining time of several steps. It is paused while the gate waits for a person."""

    def __init__(self, limit_s: float | None, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._deadline_ns = None if limit_s is None else now_ns() + int(limit_s * 1e9)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        asked_ns = self._now_ns()
        yield
        if self._deadline_ns is not None:
            self._deadline_ns += self._now_ns() - asked_ns

    def left_s(self) -> float | None:
        return None if self._deadline_ns is None else (self._deadline_ns - self._now_ns()) / 1e9

    @property
    def over(self) -> bool:
        return self._deadline_ns is not None and self._now_ns() >= self._deadline_ns


def _limit_reached(job: Job, step: Step, limit_s: float | None) -> str:
    """Return the job's limit that a step with `limit_s` reached, and its origin."""
    of_step = limit_s == job.step_timeout_s
    key, seconds = ("step_timeout", job.step_timeout_s) if of_step else ("timeout", job.timeout_s)
    if seconds is None or step.phase == "after_script":  # it has its own time limit
        return ""
    source = job.sources.get(key, "")
    written = source if source.startswith("`") else f"`{key}`, {source}".removesuffix(", ")
    return f": {'a step' if of_step else 'the job'} may take {duration_text(seconds)} ({written})"


def why(job: Job, step: Step, exit_: Exit, limit_s: float | None) -> str | None:
    match exit_.ended:
        case Ended.EXITED:
            failed = f"{step.id} failed with exit code {exit_.code}"
            why = f": the job's container had as many processes as `pids` allows{_refused_forks(exit_)}"
            return None if exit_.status is Status.SUCCESS else f"{failed}{why if exit_.refused_forks else ''}"
        case Ended.TIMED_OUT:
            running = (
                f"; still running: {', '.join(shortened(line, 120) for line in exit_.still_ran)}"
                if exit_.still_ran
                else ""
            )
            return f"{step.id} ran out of time{_limit_reached(job, step, limit_s)}{running}"
        case Ended.CANCELED:
            return f"{step.id} was interrupted"
        case Ended.OOM_KILLED:
            return f"{step.id} was killed: the job's container ran out of memory{exit_.limited_by} (exit code {exit_.code})"


def _refused_forks(exit_: Exit) -> str:
    return f", and {counted(exit_.refused_forks, 'further one')} could not be started"


def _unnoticed(step: Step, exit_: Exit) -> Iterator[str]:
    """Explain a lack of memory or processes, if the step's end does not show it."""
    went_on = "the step passed all the same" if exit_.status is Status.SUCCESS else "the step's end does not show it"
    if exit_.oom_kills and exit_.ended is not Ended.OOM_KILLED:
        how_many = "a process was" if exit_.oom_kills == 1 else f"{exit_.oom_kills} processes were"
        yield f"{step.id}: {how_many} killed because the job's container ran out of memory; {went_on}"
    if exit_.refused_forks and (exit_.ended is not Ended.EXITED or exit_.code == 0):
        yield f"{step.id}: the job's container had as many processes as `pids` allows{_refused_forks(exit_)}; {went_on}"
