"""Run the steps of one attempt in order: time limits, the gate, results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import InfrastructureError, SecretError
from loom.plan.model import Job, Step
from loom.plan.variables import status_variables
from loom.providers.base import Detachable
from loom.providers.command import Command, Share
from loom.providers.driver.endings import observable
from loom.record.documents import Assistance, plain
from loom.record.events import RUN, PhaseCode, Section, Where
from loom.record.step_outputs import recorded
from loom.runner.attempt import Attempt
from loom.runner.hooks import AtStep, Gate, Verdict
from loom.runner.own_output import Coverage, OwnOutput
from loom.runner.session import OpenJob
from loom.status import Ended, Exit, OnOutput, Status
from loom.util.units import counted, duration_text, shortened
from loom.workflow.patterns import PatternError, SearchError

if TYPE_CHECKING:
    from loom.providers.inside import CommandsInside
    from loom.runner.actions import ActionTools

CODE = PhaseCode.JOB_EXECUTION
AFTER_SCRIPT_TIMEOUT_S = 300.0
"""The total time of `after_script`, as in GitLab, unless `step_timeout` limits its steps: the job's own time may be
used up.
"""


class Steps:
    """Runs the steps in a session, and stores results in `attempt`. `cancel` belongs to the attempt."""

    def __init__(self, attempt: Attempt, open_job: OpenJob, gate: Gate | None, cancel: Cancel) -> None:
        self._attempt = attempt
        self._job = attempt.job
        self._open_job = open_job
        self._gate = gate
        self._entered = False
        self._cancel = cancel
        self._coverage = self._coverage_of(attempt)
        self.for_actions: ActionTools | None = None
        self._observed = observable([step.script for step in attempt.job.steps])
        self._clock = _JobClock(attempt.job, attempt)

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
            [self._command(step, None, self._share(step, main)) for step in main],
            {
                ok: [self._command(step, None, self._share(step, after), status_variables(status)) for step in after]
                for ok, status in statuses.items()
            },
            save,
        )

    def run(self) -> None:
        job, attempt, clock = self._job, self._attempt, self._clock
        all_steps = [step for step in job.steps if step.phase != "after_script"]
        steps = list(all_steps)
        if self._open_job.resumed is not None and not self._open_job.resumed.attached:
            steps = steps[[step.id for step in steps].index(self._open_job.resumed.step) :]
            self._tell_handed_on("", PhaseCode.PIPELINE_EXECUTE)
        while steps:
            step = steps[0]
            with clock.stopped():
                self._stop_before(step)
            if self._cancel.requested:
                attempt.status, attempt.error = Status.CANCELED, "interrupted"
                break
            limit_s = clock.left_s()
            exit_ = self._step(step, limit_s, self._cancel, self._share(step, all_steps))
            verdict = Verdict.NEXT
            if exit_.status is not Status.SUCCESS:
                with clock.stopped():
                    verdict = self._verdict(step, exit_)
                if verdict is not Verdict.RETRY and attempt.failing_step is None:
                    attempt.status, attempt.exit_code = exit_.status, exit_.code
                    attempt.failing_step, attempt.error = step.id, why(job, step, exit_, limit_s)
            if verdict in (Verdict.FAIL, Verdict.PAUSE):
                attempt.paused = verdict is Verdict.PAUSE
                break
            if verdict is Verdict.NEXT:
                steps.pop(0)
                if job.shared_shell and not exit_.goes_on and exit_.status is Status.SUCCESS and steps:
                    attempt.warn(f"{step.id} ended the shell with exit code 0: the steps after it were not run", CODE)
                    break
        self._state_coverage()
        self._blame_service()

    def _blame_service(self) -> None:
        """Make a service that ended the reason for the end of the job that it interrupted."""
        attempt = self._attempt
        if attempt.service_died is not None and attempt.status is Status.CANCELED:
            attempt.status, attempt.error = Status.ERROR, str(attempt.service_died)
            attempt.error_code = attempt.service_died.code
            attempt.failing_step, attempt.failing_section = None, Section.SERVICES

    def _share(self, step: Step, steps: Sequence[Step]) -> Share | None:
        """Return the step's part in the shell that `steps` share, if the job's steps do."""
        if not self._job.shared_shell:
            return None
        first = step is steps[0]
        saved = step.phase != "after_script"
        return Share(first=first, last=step is steps[-1], saved=saved, trace=self._job.trace)

    def run_after_script(self, cancel: Cancel) -> None:
        """Run `after_script` regardless of the result. It has its own time limit and never changes the result."""
        job, attempt = self._job, self._attempt
        if attempt.status is Status.TIMED_OUT and job.ends_at_timeout:
            if any(step.phase == "after_script" for step in job.steps):
                attempt.warn("`after_script` was not run: the job's time was over, as in GitLab", CODE)
            return
        extra = status_variables(attempt.status)
        deadline_ns = attempt.journal.now_ns() + int((job.after_script_timeout_s or AFTER_SCRIPT_TIMEOUT_S) * 1e9)
        failed = attempt.status is not Status.SUCCESS and any(step.phase == "after_script" for step in job.steps)
        steps = [step for step in job.steps if step.phase == "after_script"]
        for step in steps:
            paused_ns = attempt.journal.now_ns()
            self._stop_before(step)
            deadline_ns += attempt.journal.now_ns() - paused_ns
            left_s = job.step_timeout_s or (deadline_ns - attempt.journal.now_ns()) / 1e9
            if left_s <= 0:
                self._warn_of_time(f"{step.id} was not run: those before it had used up the time")
                continue
            exit_ = self._step(step, left_s, cancel, self._share(step, steps), extra)
            if exit_.ended is Ended.TIMED_OUT:
                self._warn_of_time(f"{step.id} ran out of time and was ended")
            elif exit_.status is Status.FAILURE:
                not_run = exit_.ended_session and step is not job.steps[-1]
                rest = ", and what comes after it was not run: it has ended the container" if not_run else ""
                text = f"{why(job, step, exit_, left_s)}{rest}; `after_script` does not change the job's result"
                attempt.warn(text, CODE)
            if exit_.ended_session or (job.shared_shell and not exit_.goes_on):
                break
        if failed:  # somebody who enters the container later does not find it as the failing step left it
            attempt.fact("after_script_ran", {}, CODE)

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

    def _step(
        self,
        step: Step,
        timeout_s: float | None,
        cancel: Cancel,
        share: Share | None,
        extra: Mapping[str, str] | None = None,
    ) -> Exit:
        job, attempt, open_job = self._job, self._attempt, self._open_job
        where = Where(scope="step", job_id=job.id, step=step.id)
        writer = attempt.journal.writer(where)
        own = OwnOutput(writer.counts)
        exit_: Exit | None = None
        with attempt.journal.span(where, PhaseCode.STEP_EXECUTE, self._started(step)) as outcome:
            try:
                before = open_job.handed_on()
                command = replace(self._command(step, timeout_s, share, extra), began=own.began)
                coverage = self._coverage if step.phase != "after_script" else None
                on_output = writer if coverage is None else coverage.watching(writer)
                exit_ = self._run(step, command, on_output, cancel)
                if coverage is not None:
                    coverage.end()
                self._mask_values(step)
                outcome.status, outcome.exit_code = exit_.status, exit_.code
                outcome.error = why(job, step, exit_, timeout_s)
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

    def _command(
        self, step: Step, timeout_s: float | None, share: Share | None, extra: Mapping[str, str] | None = None
    ) -> Command:
        return Command(
            script=step.script,
            shell=self._job.shell,
            environment={**self._environment(step), **(extra or {})},
            timeout_s=timeout_s,
            merge_output=self._job.merge_output,
            share=share,
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
            try:
                self._attempt.journal.masker.add("LOOM_MASK", value)
            except SecretError as error:
                reason = error.message.partition(": ")[2]
                self._attempt.warn(f"{step.id}: a line of $LOOM_MASK is not masked: {reason}", CODE)


class _JobClock:
    """The remaining time of a job's steps. It is paused while the gate waits for a person."""

    def __init__(self, job: Job, attempt: Attempt) -> None:
        self._job = job
        self._now_ns = attempt.journal.now_ns
        self._deadline_ns = None if job.timeout_s is None else self._now_ns() + int(job.timeout_s * 1e9)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        asked_ns = self._now_ns()
        yield
        if self._deadline_ns is not None:
            self._deadline_ns += self._now_ns() - asked_ns

    @property
    def over(self) -> bool:
        return self._deadline_ns is not None and self._now_ns() >= self._deadline_ns

    def left_s(self) -> float | None:
        left = None if self._deadline_ns is None else max(0.001, (self._deadline_ns - self._now_ns()) / 1e9)
        limits = [limit for limit in (left, self._job.step_timeout_s) if limit is not None]
        return min(limits, default=None)


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
            why = f": the job's container had as many processes as `pids` allows{_how_often(exit_)}"
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
            return f"{step.id} was killed: the job's container ran out of memory (exit code {exit_.code})"


def _how_often(exit_: Exit) -> str:
    return f", and {counted(exit_.refused_forks, 'further one')} could not be started"


def _unnoticed(step: Step, exit_: Exit) -> Iterator[str]:
    """Explain a lack of memory or processes, if the step's end does not show it."""
    went_on = "the step passed all the same" if exit_.status is Status.SUCCESS else "the step's end does not show it"
    if exit_.oom_kills and exit_.ended is not Ended.OOM_KILLED:
        how_many = "a process was" if exit_.oom_kills == 1 else f"{exit_.oom_kills} processes were"
        yield f"{step.id}: {how_many} killed because the job's container ran out of memory; {went_on}"
    if exit_.refused_forks and (exit_.ended is not Ended.EXITED or exit_.code == 0):
        yield f"{step.id}: the job's container had as many processes as `pids` allows{_how_often(exit_)}; {went_on}"
