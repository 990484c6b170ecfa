"""Run one job with all attempts: prepare a session, restore products, run steps, keep products, clean up.

A failed step is a value. A broken session (`InfrastructureError`) ends the attempt as `error`; other jobs continue.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom import snapshot
from loom.cancel import AT_ONCE_S, Cancel
from loom.errors import InfrastructureError, ProviderError
from loom.plan.model import Job, MountMode
from loom.record.events import PhaseCode, Section, timestamp
from loom.record.facts import NOT_KEPT
from loom.record.journal import Journal
from loom.record.run import BROUGHT
from loom.record.run_record import write_document
from loom.runner.attempt import Attempt
from loom.runner.children import Children
from loom.runner.hooks import keeps
from loom.runner.preparation import CODE, Preparation
from loom.runner.products import Handover
from loom.runner.results import Results
from loom.runner.session import OpenJob, SessionOpener
from loom.runner.steps import JobSteps, Steps
from loom.runner.views import save_files
from loom.status import JobResult, Skip, Status
from loom.util import atomic
from loom.util.units import rough_size

if TYPE_CHECKING:
    from loom.plan.github.late_jobs import LateJobs, Start


class JobRunner(Struct, kw_only=True, eq=False):
    """Runs the jobs of one run; thread-safe, one call per job."""

    journal: Journal
    opener: SessionOpener
    products: Handover
    children: Children
    handed_over: Callable[[str, int], Path]
    """Return the file for what goes on with an attempt at a job (`Detachable.hand_over`)."""
    results: Results | None = None
    """GitHub's services, if jobs use actions."""
    late: LateJobs | None = None
    """For jobs that are decided when they start."""
    _starting: set[str] = set()
    _going: set[str] = set()
    """Jobs that leaving would end, since they have not been handed over; and those that were, and go on."""
    _begun: dict[str, int] = {}

    def run(self, job: Job) -> JobResult:
        begun = self._begun[job.id] = self.journal.now_ns()
        start = None
        if self.late is not None:
            start = self.late.begin(job)
            job = start.job
            if start.status is not Status.SUCCESS:
                return self.skip(job, Skip(job_id=job.id, reason=start.reason, held=start.held), start.status)
        job = self.products.fill_reported(job, self.opener.run.variables, self.opener.tools.config.reported)
        resumed = self.opener.resumed(job)
        number = resumed.number if resumed is not None else 1
        begun -= round(resumed.before_ms * 1e6) if resumed is not None else 0
        while True:
            attempt = Attempt(job, self.journal, self.opener.cancel, number)
            self._run(attempt, start)
            begun -= attempt.unseen_ns
            if not self._tries_again(attempt) or self.opener.cancel.requested:
                break
            attempt.fact("attempt_failed", {"attempt": number, "status": attempt.status, "error": attempt.error})
            self.opener.forget_resumed(job)
            number += 1
            if self.opener.cancel.wait(job.retry.backoff_s * 2 ** (number - 2)):
                attempt = Attempt(job, self.journal, self.opener.cancel, number)
                attempt.status, attempt.error = Status.CANCELED, f"interrupted before attempt {number}"
                break
        return self._finish(attempt, begun, allowed=_is_allowed(attempt))

    def _tries_again(self, attempt: Attempt) -> bool:
        """Return whether another attempt follows; a resumed job has none, because it continues in its only session."""
        resumed = self.opener.resumed(attempt.job)
        return (resumed is None or resumed.attached) and _has_attempt_left(attempt)

    def skip(self, job: Job, skip: Skip, status: Status = Status.SKIPPED) -> JobResult:
        """Record a job that never ran, with its three phases skipped."""
        begun = self.journal.now_ns()
        attempt = Attempt(job, self.journal, self.opener.cancel)
        for code in (PhaseCode.JOB_PROVIDER_PREPARE, PhaseCode.JOB_EXECUTION, PhaseCode.JOB_CLEANUP):
            with attempt.phase(code) as outcome:
                outcome.status = Status.SKIPPED
        attempt.status, attempt.error = status, skip.reason
        return self._finish(attempt, begun, blocked_by=skip.blocked_by, held=skip.held)

    def leave_behind(self, job: Job) -> JobResult:
        """Record a job whose thread does not return."""
        attempt = Attempt(job, self.journal, self.opener.cancel)
        attempt.status = Status.CANCELED
        attempt.error = (
            f"not ended {AT_ONCE_S:.0f} s after the second interrupt; the next loom removes what it has in the engine"
        )
        return self._finish(attempt, self._begun[job.id])

    def _finish(
        self, attempt: Attempt, begun: int, *, allowed: bool = False, blocked_by: str | None = None, held: str = ""
    ) -> JobResult:
        data: dict[str, Any] = {"allowed_failure": allowed}
        for name in ("failing_step", "failing_section", "error_code"):
            if getattr(attempt, name) is not None:
                data[name] = getattr(attempt, name)
        if blocked_by is not None:
            data["blocked_by"] = blocked_by
        if held:
            data["held"] = held
        if attempt.outputs:
            data["outputs"] = dict(attempt.outputs)
        attempt.fact(
            "job_finished",
            data,
            status=attempt.status,
            exit_code=attempt.exit_code,
            error=attempt.error,
            duration_ms=round((self.journal.now_ns() - begun) / 1e6, 3),
        )
        return JobResult(
            status=attempt.status, allowed_failure=allowed, exit_code=attempt.exit_code, outputs=attempt.outputs
        )

    def _run(self, attempt: Attempt, start: Start | None) -> None:
        if attempt.job.refused:
            with attempt.phase(PhaseCode.JOB_PROVIDER_PREPARE):
                raise ProviderError("\n".join(attempt.job.refused), code="JOB_REFUSED")
            return
        if attempt.job.trigger is not None:
            self.children.run(attempt)
            return
        cancel = self.opener.cancel.child()
        if self.late is not None:
            self.late.running(attempt.job, cancel)
        self._starting.add(attempt.job.id)
        open_job: OpenJob | None = None
        with ExitStack() as last_resort:  # closes the session even when a bug interrupts the phases
            stack = last_resort.enter_context(ExitStack())
            stack.callback(cancel.detach)
            with attempt.phase(PhaseCode.JOB_PROVIDER_PREPARE):
                open_job = Preparation(attempt, self.opener, stack, cancel).open_job()
                self._reduce(attempt, open_job, cancel)
            if open_job is not None:
                self.products.restore(attempt, open_job)
            with attempt.phase(PhaseCode.JOB_EXECUTION) as outcome:
                if attempt.status is Status.SUCCESS:
                    steps = self._steps(attempt, open_job, start, cancel)
                    if self.results is not None:
                        stack.callback(self.results.ended, attempt)
                    if self.opener.run.detached:
                        self._hand_over(attempt, steps, open_job)
                    steps.run()
                    outcome.status, outcome.exit_code = attempt.status, attempt.exit_code
                    outcome.began_ns -= attempt.unseen_ns
                else:
                    outcome.status = Status.SKIPPED
            if open_job is not None:
                self.products.keep(attempt, open_job)
            with attempt.work(Section.CLEANUP, PhaseCode.JOB_CLEANUP):
                if open_job is not None:
                    self._let_stay(attempt, open_job)
                stack.close()
        self._going.discard(attempt.job.id)
        if attempt.job.id in self._starting:
            self._started(attempt.job)

    def _reduce(self, attempt: Attempt, open_job: OpenJob, cancel: Cancel) -> None:
        """Leave the job what its clone has in CI, where the run's workspace has more for another job."""
        job, opener, request = attempt.job, self.opener, open_job.request
        if job.clone is None or job.no_checkout or job.inputs is not None or open_job.resumed is not None:
            return
        if not (script := opener.reduction(job.clone)):
            return
        if request.directory is not None:  # what its files are compared with later
            reduced = snapshot.reduced_manifest(opener.workspace, job.clone)
            atomic.write(request.directory / BROUGHT, reduced, mode=0o600)
        if request.directory is None and not opener.alone:
            attempt.warn("it has more of git than its clone in CI: all jobs share their files (mount_mode)", CODE)
            return
        inside, printed = open_job.session.inside(open_job.environment), list[bytes]()
        ran = inside.exec(("sh", "-c", script), lambda _, data: printed.append(data), cancel, stdin=False)
        if ran.code != 0:
            text = b"".join(printed).decode("utf-8", "replace").strip()
            raise ProviderError(f"{job.id}: the job's clone could not be made: {text}", code="CLONE_NOT_MADE")

    def _steps(self, attempt: Attempt, open_job: OpenJob, start: Start | None, cancel: Cancel) -> Steps:
        request, opener = open_job.request, self.opener
        shares = request.mount_mode is MountMode.BIND and request.workspace == opener.workspace and not opener.alone
        own = JobSteps(
            attempt=attempt,
            open_job=open_job,
            gate=self.opener.tools.gate,
            cancel=cancel,
            again=opener.cancel.again,
            goes_on=lambda: self._tries_again(attempt) or _is_allowed(attempt),
            needs=start.needs if start is not None else {},
            provider=self.opener.provider(attempt.job),
            results=self.results,
            cache_dir=opener.tools.config.cache_dir,
            snapshot=opener.workspace,
            shares_files=shares,
        )
        if self.late is None:
            return Steps(own)
        from loom.runner.late.steps import LateSteps  # late: only for such jobs

        return LateSteps(own)

    def _hand_over(self, attempt: Attempt, steps: Steps, open_job: OpenJob) -> None:
        path = self.handed_over(attempt.job.id, attempt.number)
        steps.hand_over(partial(write_document, path))
        if open_job.resumed is None or open_job.resumed.kept is None:
            began_ns = self._begun[attempt.job.id]
            attempt.fact("handed_over", {"after_ms": round((self.journal.now_ns() - began_ns) / 1e6, 3)})
        if (leave := self.opener.tools.leave) is not None:
            attempt.on_lost = leave
        self._going.add(attempt.job.id)
        self._started(attempt.job)

    def _started(self, job: Job) -> None:
        """Record that the job was handed over, or ended before. Leave when all jobs that could start have been."""
        self._starting.discard(job.id)
        if self.opener.tools.leave is not None and self._going and not self._starting:
            self.opener.tools.leave("")

    def _let_stay(self, attempt: Attempt, open_job: OpenJob) -> None:
        """Keep the job's session (if `--keep` requires it) or its files."""
        if not self._keep_session(attempt, open_job):
            _save_files(attempt, open_job)

    def _keep_session(self, attempt: Attempt, open_job: OpenJob) -> bool:
        """Keep the job's session for inspection. A failure is only a warning, because the job has its result."""
        job, config = attempt.job, self.opener.tools.config
        by_hand = open_job.resumed is not None or attempt.entered
        if not keeps(config.keep, attempt.status, by_hand=by_hand) or self._tries_again(attempt):
            return False
        expires_at = self.journal.now_ns() / 1e9 + config.keep_for
        kept: dict[str, Any] = {"expires_at": timestamp(int(expires_at * 1e9)), "step": attempt.failing_step}
        kept["paused"] = attempt.paused
        try:
            kept["bytes"] = size = open_job.session.size()
            if size > config.keep_max_size:
                most = rough_size(config.keep_max_size)
                raise ProviderError(
                    f"its container takes {rough_size(size)}, and at most {most} are kept (keep_max_size)"
                )
            open_job.session.keep(expires_at)
            if (
                open_job.services is not None and self.opener.provider(job).capabilities.isolated
            ):  # otherwise opened again
                open_job.services.keep()
            facts = open_job.session.facts
            kept["container_id"], kept["container_name"] = facts.container_id, facts.container_name
            kept["kept_at"] = timestamp(self.journal.now_ns())
        except InfrastructureError as error:
            not_run = "; its `after_script` was not run" if attempt.paused else ""
            attempt.warn(f"{NOT_KEPT}{error.message}{not_run}", PhaseCode.JOB_CLEANUP)
            return False
        attempt.fact("session_kept", kept, PhaseCode.JOB_CLEANUP)
        return True


def _save_files(attempt: Attempt, open_job: OpenJob) -> None:
    """Lay out the files of a job in a volume that will be removed: of a failed job, or of a resumed one."""
    directory = open_job.request.directory
    wanted = attempt.status in (Status.FAILURE, Status.TIMED_OUT) or open_job.resumed is not None
    if open_job.request.mount_mode is not MountMode.VOLUME or directory is None or not wanted:
        return
    try:
        save_files(open_job.session, directory / "workspace")
    except InfrastructureError as error:
        attempt.warn(f"what the job left could not be saved: {error}", PhaseCode.JOB_CLEANUP)


def _is_allowed(attempt: Attempt) -> bool:
    allow = attempt.job.allow_failure
    return attempt.status in (Status.FAILURE, Status.TIMED_OUT) and (
        allow.always or attempt.exit_code in allow.exit_codes
    )


def _has_attempt_left(attempt: Attempt) -> bool:
    retry = attempt.job.retry
    if (
        attempt.job.refused
        or attempt.number > retry.max
        or attempt.status in (Status.SUCCESS, Status.SKIPPED, Status.CANCELED)
    ):
        return False
    reasons = {Status.FAILURE: "script_failure", Status.TIMED_OUT: "timeout"}
    reason = reasons.get(attempt.status, "provider_failure")
    any_reason = "always" in retry.when and not retry.exit_codes
    return attempt.exit_code in retry.exit_codes or any_reason or reason in retry.when
