"""One job: its sections and steps, in order, in a session.

`JobRunner.run` turns one planned job into a result and tells everything that happens to the journal. A failing step is a
value; a place that breaks (`InfrastructureError`) ends the job as `error` here, at this one seam, and other jobs go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from msgspec import Struct

from loom.cancel import AT_ONCE_S, Cancel
from loom.errors import InfrastructureError, ProviderError, SecretError, ServiceError
from loom.plan.model import Job, MountMode, Step
from loom.providers.base import NO_SECRETS, BuiltImage, Command, OpenedServices, Resolved, SecretValues, Session
from loom.providers.steps import chosen
from loom.record.events import PhaseCode, Section, Where, timestamp
from loom.record.journal import Journal, Outcome
from loom.record.step_outputs import recorded
from loom.record.store import RunPaths
from loom.runner.hooks import Adopt, AtStep, Verdict, keeps
from loom.runner.products import Handover, report_facts
from loom.runner.sections import SectionOutput
from loom.runner.session import Ahead, Opened, Place, PlaceOpener
from loom.runner.views import save_files
from loom.status import Ended, Exit, JobResult, Skip, Status
from loom.util.bounded import listed
from loom.util.units import counted, duration_text

MAX_CHANGES = 1000
"""How many changed paths a job's manifest names."""

MAX_LEFT_OUT = 5
"""How many files that could not be kept are warned of one by one."""

MAX_OVERLAPS = 5
"""How many paths that several jobs left differently are warned of one by one."""

AFTER_SCRIPT_TIMEOUT_S = 300.0
"""What all of `after_script` may take, as in GitLab, where no `step_timeout` says what each step of it may: the job's own
time may be used up."""


class _Attempt(Struct, kw_only=True):
    """What one attempt at a job came to."""

    number: int = 1
    status: Status = Status.SUCCESS
    exit_code: int | None = None
    error: str | None = None
    error_code: str | None = None
    failing_step: str | None = None
    failing_section: str | None = None
    service_died: ServiceError | None = None
    place: Place | None = None


class JobRunner:
    """Runs jobs of one run; thread-safe, one call per job."""

    def __init__(
        self, *, journal: Journal, opener: PlaceOpener, handover: Handover, cancel: Cancel, paths: RunPaths
    ) -> None:
        self.journal = journal
        self._opener = opener
        self._handover = handover
        self._cancel = cancel
        self._paths = paths
        self._begun: dict[str, int] = {}

    # -- a job, all its attempts ----------------------------------------------------------------------------------

    def run(self, job: Job) -> JobResult:
        begun = self._begun[job.id] = self.journal.now_ns()
        number = 1
        while True:
            attempt = self._attempt(job, number)
            if not _tries_again(job, attempt, number) or self._cancel.requested:
                break
            self._job_fact(job, "attempt_failed", {"attempt": number, "status": attempt.status, "error": attempt.error})
            self._cancel.wait(job.retry.backoff_s * 2 ** (number - 1))
            number += 1
        allowed = attempt.status in (Status.FAILURE, Status.TIMED_OUT) and (
            job.allow_failure.always or attempt.exit_code in job.allow_failure.exit_codes
        )
        result = JobResult(status=attempt.status, allowed_failure=allowed, exit_code=attempt.exit_code)
        self._finish(job, result, begun, attempt)
        return result

    def skip(self, job: Job, skip: Skip) -> None:
        """Record a job that never ran: its three phases are there all the same, each of them skipped."""
        begun = self.journal.now_ns()
        for code in (PhaseCode.JOB_PROVIDER_PREPARE, PhaseCode.JOB_EXECUTION, PhaseCode.JOB_CLEANUP):
            with self._phase(job, code) as outcome:
                outcome.status = Status.SKIPPED
        attempt = _Attempt(status=Status.SKIPPED, error=skip.reason)
        self._finish(job, JobResult(status=Status.SKIPPED), begun, attempt, blocked_by=skip.blocked_by)

    def leave_behind(self, job: Job) -> JobResult:
        """Record a job whose thread does not come back."""
        why = f"not ended {AT_ONCE_S:.0f} s after the second interrupt; the next loom removes what it has in the engine"
        attempt = _Attempt(status=Status.CANCELED, error=why)
        result = JobResult(status=Status.CANCELED)
        self._finish(job, result, self._begun[job.id], attempt)
        return result

    def _finish(
        self, job: Job, result: JobResult, begun: int, attempt: _Attempt, *, blocked_by: str | None = None
    ) -> None:
        data: dict[str, Any] = {"allowed_failure": result.allowed_failure}
        for name in ("failing_step", "failing_section", "error_code"):
            if getattr(attempt, name) is not None:
                data[name] = getattr(attempt, name)
        failing = next((step for step in job.steps if step.id == attempt.failing_step), None)
        if failing is not None and failing.file:
            data["failing_place"] = {"file": failing.file, "line": failing.line}
        if blocked_by is not None:
            data["blocked_by"] = blocked_by
        self._job_fact(
            job,
            "job_finished",
            data,
            status=result.status,
            exit_code=result.exit_code,
            error=attempt.error,
            duration_ms=round((self.journal.now_ns() - begun) / 1e6, 3),
        )

    # -- one attempt ----------------------------------------------------------------------------------------------

    def _attempt(self, job: Job, number: int) -> _Attempt:
        attempt = _Attempt(number=number)
        cancel = self._cancel.child()
        with ExitStack() as last_resort:  # closes the place also when a bug of ours cuts the way through the phases
            stack = last_resort.enter_context(ExitStack())
            stack.callback(cancel.detach)
            with self._phase(job, PhaseCode.JOB_PROVIDER_PREPARE, attempt) as outcome, self._seam(attempt, outcome):
                attempt.place = self._prepare(job, attempt, stack, cancel)
            if attempt.place is not None:
                self._restore(job, attempt.place, attempt)
            with self._phase(job, PhaseCode.JOB_EXECUTION, attempt) as outcome, self._seam(attempt, outcome):
                if attempt.status is Status.SUCCESS:
                    self._execute(job, attempt.place, attempt, cancel)
                    outcome.status, outcome.exit_code = attempt.status, attempt.exit_code
                else:
                    outcome.status = Status.SKIPPED
            if attempt.place is not None:
                self._keep(job, attempt.place, attempt)
            with (
                self._phase(job, PhaseCode.JOB_CLEANUP, attempt) as outcome,
                self._seam(attempt, outcome),
                self._section(job, Section.CLEANUP, PhaseCode.JOB_CLEANUP, attempt),
            ):
                if attempt.place is not None:
                    self._let_stay(job, attempt.place, attempt)
                stack.close()
        return attempt

    def _prepare(self, job: Job, attempt: _Attempt, stack: ExitStack, cancel: Cancel) -> Place:
        secrets = self._secrets(job, attempt)
        resumed = self._opener.resumed(job)
        ahead = self._opener.take_ahead(job)
        with self._section(job, Section.IMAGE_BUILD, PhaseCode.JOB_PROVIDER_PREPARE, attempt) as image_output:
            if resumed is not None and resumed.image is not None:
                image: Resolved | None = resumed.image
            elif ahead is None:
                image = self._opener.resolve(job, image_output, secrets)
            else:
                ahead.image_output.pass_on(image_output)
                if ahead.image_error:
                    ahead.opened()
                image = ahead.resolved
        if image is not None:
            found = {"name": image.name, "id": image.image_id, "digest": image.digest}
            self._job_fact(job, "image_resolved", found, code=PhaseCode.JOB_PROVIDER_PREPARE)
            self._images_used(job, image.bases if isinstance(image, BuiltImage) else ())
        kept = resumed.adopt if resumed is not None else None
        services = None if kept else self._services(job, attempt, stack, cancel, secrets)
        with self._section(job, Section.PROVIDER, PhaseCode.JOB_PROVIDER_PREPARE, attempt) as provider_output:
            # Once more when the session has been left: background children may have said half a line last.
            stack.callback(provider_output.begin().close)
            if ahead is None:
                opened = stack.enter_context(
                    self._adopted(job, kept, image, provider_output, cancel)
                    if kept
                    else self._opener.open(job, image, provider_output, services)
                )
            else:
                opened = self._take(job, ahead, image, provider_output, stack)
        session, facts = opened.session, opened.session.facts
        fact = {
            "provider": facts.provider,
            "container_id": facts.container_id,
            "container_name": facts.container_name,
            "user": facts.user,
            "shell": " ".join(chosen(job.shell, has_bash=facts.has_bash)),
            "workspace": str(opened.view.place),
            "view_of": str(opened.view.workspace),
            "mount_mode": opened.view.mode.value,
            **facts.details,
        }
        self._job_fact(job, "session_opened", fact, code=PhaseCode.JOB_PROVIDER_PREPARE)
        for text in facts.warnings:
            self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_PROVIDER_PREPARE)
        return Place(
            session=session,
            request=opened.request,
            image=image,
            environment=self._placed(job, session, secrets.own),
            secrets=secrets.own,
            services=services,
            resumed=resumed,
        )

    @contextmanager
    def _adopted(
        self, job: Job, kept: Adopt, image: Resolved | None, on_output: SectionOutput, cancel: Cancel
    ) -> Iterator[Opened]:
        view = self._opener.view(job)
        request = self._opener.request(job, view, image)
        with kept(request, on_output, cancel) as session:
            yield Opened(session=session, request=request, view=view)

    def _take(
        self, job: Job, ahead: Ahead, image: Resolved | None, on_output: SectionOutput, stack: ExitStack
    ) -> Opened:
        """What was opened ahead, or where that could not show the workspace, the place opened in another way."""
        ahead.provider_output.pass_on(on_output)
        try:
            opened, opened_ahead = ahead.opened()
        except ProviderError as error:
            if not self._opener.another_view(job, ahead.view, error, on_output):
                raise
            return stack.enter_context(self._opener.open(job, image, on_output))
        stack.push(opened_ahead)
        return opened

    def _secrets(self, job: Job, attempt: _Attempt) -> SecretValues:
        """The values, known to the masker before anything could print them."""
        if not job.all_secrets:
            return NO_SECRETS
        with self._section(job, Section.SECRETS, PhaseCode.JOB_PROVIDER_PREPARE, attempt) as output:
            values, missing = self._opener.secrets(job)
            of_whom = [("", values.own)]
            of_whom += [(f"{one.name}: ", found) for one, found in zip(job.services, values.services, strict=True)]
            for _, found in of_whom:
                for name, value in found.items():
                    self.journal.masker.add(name, value)
            for secret in job.secrets:
                if not secret.file and b"\0" in values.own.get(secret.name, b""):
                    raise _no_variable(job, secret.name)
            writer = output.begin()
            for whose, found in of_whom:
                for name in found:
                    writer.line(f"{whose}{name}: found")
            for text in missing:
                writer.line(text)
                self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_PROVIDER_PREPARE)
        return values

    def _placed(self, job: Job, session: Session, secrets: Mapping[str, bytes]) -> Mapping[str, str]:
        """Secrets as steps see them: a file's path, or the value where the workflow says `file: false`."""
        as_file = {secret.name for secret in job.secrets if secret.file}
        return {
            name: session.put_secret(name, value) if name in as_file else value.decode(errors="surrogateescape")
            for name, value in secrets.items()
        }

    def _services(
        self, job: Job, attempt: _Attempt, stack: ExitStack, cancel: Cancel, secrets: SecretValues
    ) -> OpenedServices | None:
        if not job.services:
            return None

        def on_died(name: str, how: str) -> None:
            hint = "write `run: once` for a service that does something and ends" if how == "exit code 0" else None
            attempt.service_died = ServiceError(f"service {name} ended while the job ran: {how}", hint=hint)
            cancel.request(None)

        section = stack.enter_context(
            self._section(job, Section.SERVICES, PhaseCode.JOB_PROVIDER_PREPARE, attempt, lasting=True)
        )
        section.begin()
        try:
            opened = stack.enter_context(self._opener.services(job, section, cancel, on_died, secrets))
            self._images_used(job, opened.images)
            return opened
        except InfrastructureError as error:
            attempt.failing_section = Section.SERVICES
            section.failed = str(error)
            raise

    def _images_used(self, job: Job, images: Sequence[Resolved]) -> None:
        """Besides the job's own: of its services, and what was built from. The receipt names every one."""
        for image in images:
            fact = {"name": image.name, "id": image.image_id, "digest": image.digest}
            self._job_fact(job, "image_used", fact, code=PhaseCode.JOB_PROVIDER_PREPARE)
            self._images_used(job, image.bases if isinstance(image, BuiltImage) else ())

    def _restore(self, job: Job, place: Place, attempt: _Attempt) -> None:
        """Before the first step: caches, then what earlier jobs left. A job that goes on somewhere has them already."""
        if place.resumed is not None:
            if self._handover.caches(job):
                self._settle_caches(job, place.resumed.cache_keys)
            return
        if self._handover.caches(job):
            code = PhaseCode.JOB_CACHE_RESTORE
            with (
                self._phase(job, code, attempt) as outcome,
                self._seam(attempt, outcome),
                self._section(job, Section.CACHE_RESTORE, code, attempt) as output,
            ):
                output.begin()
                self._settle_caches(job, None)
                for fact in self._handover.restore_caches(job, place.session, output):
                    self._cache_fact(job, code, fact)
        if self._handover.sources(job):
            code = PhaseCode.JOB_ARTIFACT_RESTORE
            with (
                self._phase(job, code, attempt) as outcome,
                self._seam(attempt, outcome),
                self._section(job, Section.ARTIFACT_RESTORE, code, attempt) as output,
            ):
                texts = self._handover.restore(job, place.session, self._opener.workspace, output)
                for text in listed(texts, MAX_OVERLAPS):
                    self._job_fact(job, "warning", {"text": f"artifacts: {text}"}, code=code)

    def _settle_caches(self, job: Job, resumed: Sequence[str] | None) -> None:
        """The record keeps the keys, so that a job that goes on from here saves under the same ones."""
        keys = self._handover.settle_caches(job, self._opener.workspace, resumed)
        self._job_fact(job, "cache_keys", {"keys": list(keys)}, code=PhaseCode.JOB_CACHE_RESTORE)

    def _cache_fact(self, job: Job, code: PhaseCode, fact: Mapping[str, Any]) -> None:
        self._job_fact(job, "cache", fact, code=code)
        if fact.get("warning"):
            self._job_fact(job, "warning", {"text": f"cache: {fact['warning']}"}, code=code)
        self._left_out(job, code, "cache", fact)

    def _left_out(self, job: Job, code: PhaseCode, what: str, fact: Mapping[str, Any]) -> None:
        """Files that were asked for and not kept, since they hold a secret, can't be read, or are none."""
        texts = [f"{item['path']} left out: {item['reason']}" for item in fact.get("skipped", ())[:MAX_LEFT_OUT]]
        more = fact.get("skipped_total", 0) - len(texts)
        if more > 0:
            texts.append(f"{more} more left out: `loom logs {job.id} --system` names them")
        for text in texts:
            self._job_fact(job, "warning", {"text": f"{what}: {text}"}, code=code)

    def _keep(self, job: Job, place: Place, attempt: _Attempt) -> None:
        """After the last step: artifacts, test reports, and what the job changed in a view of its own."""
        code = PhaseCode.JOB_ARTIFACT_EXTRACT
        try:
            place.session.settle()
        except InfrastructureError as error:
            self._job_fact(job, "warning", {"text": error.message}, code=code)
        if job.artifacts is not None:
            with (
                self._phase(job, code, attempt) as outcome,
                self._seam(attempt, outcome),
                self._section(job, Section.ARTIFACT_EXTRACT, code, attempt) as output,
                self._not_kept(job, code, attempt, "artifacts"),
            ):
                saved = self._handover.collect(job, place.session, attempt.status, output)
                if saved is not None:
                    self._job_fact(job, "artifacts_saved", saved, code=code)
                    for pattern in saved["missing"]:
                        text = f"artifacts: nothing matches {pattern}{_broken_off(attempt)}"
                        self._job_fact(job, "warning", {"text": text}, code=code)
                    self._left_out(job, code, "artifacts", saved)
                reports = self._handover.reports(job, place.session, place.request.project_dir)
                if reports is not None:
                    totals, failing = report_facts(reports)
                    self._job_fact(job, "test_reports", totals, code=code)
                    for test in failing:
                        self._job_fact(job, "failing_test", test, code=code)
        if self._handover.caches(job):
            save = PhaseCode.JOB_CACHE_SAVE
            with (
                self._phase(job, save, attempt) as outcome,
                self._seam(attempt, outcome),
                self._section(job, Section.CACHE_SAVE, save, attempt) as output,
                self._not_kept(job, save, attempt, "cache"),
            ):
                output.begin()
                for fact in self._handover.save_caches(job, place.session, attempt.status, output):
                    self._cache_fact(job, save, fact)
        with self._listing_changes(job):
            changes = place.session.changes()
            if changes:
                paths = [f"{change.kind} {change.path}" for change in changes]
                self._job_fact(job, "workspace_changed", {"count": len(paths), "paths": paths[:MAX_CHANGES]}, code=code)

    @contextmanager
    def _not_kept(self, job: Job, code: PhaseCode, attempt: _Attempt, what: str) -> Iterator[None]:
        """Of a job that has its result already, that something could not be kept is a warning; else it is the result."""
        try:
            yield
        except InfrastructureError as error:
            if attempt.status is not Status.SUCCESS and not self._cancel.requested:
                self._job_fact(job, "warning", {"text": f"{what}: not kept: {error.message}"}, code=code)
            raise

    @contextmanager
    def _listing_changes(self, job: Job) -> Iterator[None]:
        """Listing changes is a service to the reader: that it failed is a warning, not the job's failure."""
        try:
            yield
        except InfrastructureError as error:
            text = f"what the job changed could not be listed: {error.message}"
            self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_ARTIFACT_EXTRACT)

    def _execute(self, job: Job, place: Place, attempt: _Attempt, cancel: Cancel) -> None:
        deadline_ns = None if job.timeout_s is None else self.journal.now_ns() + int(job.timeout_s * 1e9)
        steps = [step for step in job.steps if step.phase != "after_script"]
        if place.resumed is not None:
            steps = steps[[step.id for step in steps].index(place.resumed.step) :]
            found = recorded(place.handed_on(), place.secrets, self.journal.masker)
            self._job_fact(job, "handed_on", {"step": "", "attempt": attempt.number, **found})
        while steps:
            step = steps[0]
            asked_ns = self.journal.now_ns()
            if self._opener.gate is not None and not cancel.requested:
                self._opener.gate.before(self._at(job, place, step, attempt), cancel)
            if cancel.requested:
                attempt.status, attempt.error = Status.CANCELED, "interrupted"
                break
            if deadline_ns is not None:
                deadline_ns += self.journal.now_ns() - asked_ns
            limit_s = self._time_left(job, deadline_ns)
            exit_ = self._step(job, place, step, attempt, limit_s, cancel)
            asked_ns = self.journal.now_ns()
            verdict = Verdict.NEXT
            if exit_.status is not Status.SUCCESS:
                verdict = self._verdict(job, place, step, attempt, exit_, cancel)
                if verdict is not Verdict.RETRY and attempt.failing_step is None:
                    attempt.status, attempt.exit_code = exit_.status, exit_.code
                    attempt.failing_step, attempt.error = step.id, _why(job, step, exit_, limit_s)
            if verdict is Verdict.FAIL:
                break
            if verdict is Verdict.NEXT:
                steps.pop(0)
            if deadline_ns is not None:
                deadline_ns += self.journal.now_ns() - asked_ns
        if attempt.service_died is not None and attempt.status is Status.CANCELED:
            attempt.status, attempt.error = Status.ERROR, str(attempt.service_died)
            attempt.error_code = attempt.service_died.code
            attempt.failing_step, attempt.failing_section = None, Section.SERVICES
        self._after_script(job, place, attempt)

    def _after_script(self, job: Job, place: Place, attempt: _Attempt) -> None:
        """What the job does whatever became of it. It has time of its own, and never changes the result."""
        extra = {"LOOM_JOB_STATUS": attempt.status.value, "CI_JOB_STATUS": attempt.status.value}
        deadline_ns = self.journal.now_ns() + int(AFTER_SCRIPT_TIMEOUT_S * 1e9)
        for step in job.steps:
            if step.phase != "after_script":
                continue
            left_s = job.step_timeout_s or (deadline_ns - self.journal.now_ns()) / 1e9
            if left_s <= 0:
                self._after_script_warning(job, f"{step.id} was not run: those before it had used up the time")
                continue
            exit_ = self._step(job, place, step, attempt, left_s, self._cancel.again, extra)
            if exit_.ended is Ended.TIMED_OUT:
                self._after_script_warning(job, f"{step.id} ran out of time and was ended")
            elif exit_.status is Status.FAILURE:
                not_run = exit_.ended_place and step is not job.steps[-1]
                rest = ", and what comes after it was not run: it has ended the container" if not_run else ""
                text = f"{_why(job, step, exit_, left_s)}{rest}; `after_script` does not change the job's result"
                self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_EXECUTION)
            if exit_.ended_place:
                break

    def _after_script_warning(self, job: Job, text: str) -> None:
        limit = (
            f"each of its steps may take {duration_text(job.step_timeout_s)} (`step_timeout`)"
            if job.step_timeout_s
            else f"all of it may take {duration_text(AFTER_SCRIPT_TIMEOUT_S)} where no `step_timeout` says otherwise"
        )
        self._job_fact(job, "warning", {"text": f"{text}; {limit}"}, code=PhaseCode.JOB_EXECUTION)

    def _verdict(self, job: Job, place: Place, step: Step, attempt: _Attempt, exit_: Exit, cancel: Cancel) -> Verdict:
        """What becomes of a failed step: it fails the job, unless somebody is there to decide otherwise."""
        gate = self._opener.gate
        if gate is None or exit_.status not in (Status.FAILURE, Status.TIMED_OUT) or cancel.requested:
            return Verdict.FAIL
        verdict = gate.failed(self._at(job, place, step, attempt), exit_, cancel)
        self._job_fact(job, "step_decided", {"step": step.id, "verdict": verdict}, code=PhaseCode.JOB_EXECUTION)
        return Verdict.FAIL if cancel.wait(0) else verdict

    def _at(self, job: Job, place: Place, step: Step, attempt: _Attempt) -> AtStep:
        return AtStep(
            job=job,
            step=step,
            session=place.session,
            request=place.request,
            environment=self._step_environment(place, step, attempt),
        )

    def _step_environment(self, place: Place, step: Step, attempt: _Attempt) -> dict[str, str]:
        return {
            **place.handed_on(),
            **place.environment,
            "LOOM_STEP": step.id,
            "LOOM_ATTEMPT": str(attempt.number),
        }

    def _let_stay(self, job: Job, place: Place, attempt: _Attempt) -> None:
        """What stays of the job's place: all of it, as `--keep` says, else its files."""
        if not self._keep_place(job, place, attempt):
            self._save_files(job, place, attempt)

    def _keep_place(self, job: Job, place: Place, attempt: _Attempt) -> bool:
        """Keep the job's place for a person to look at. That it could not be kept is a warning: the job has its result."""
        config = self._opener.config
        if not keeps(config.keep, attempt.status) or _tries_again(job, attempt, attempt.number):
            return False
        expires_at = self.journal.now_ns() / 1e9 + config.keep_for
        kept: dict[str, Any] = {"expires_at": timestamp(int(expires_at * 1e9)), "step": attempt.failing_step}
        try:
            archive = self._paths.checkpoint(job.id)
            if attempt.status is not Status.SUCCESS and (saved := place.session.checkpoint(archive, expires_at)):
                kept["checkpoint"] = saved
        except InfrastructureError as error:
            self._job_fact(job, "warning", {"text": f"no checkpoint: {error.message}"}, code=PhaseCode.JOB_CLEANUP)
        try:
            place.session.keep(expires_at)
            if place.services is not None and self._opener.provider(job).capabilities.isolated:  # else opened anew
                place.services.keep()
            facts = place.session.facts
            kept["container_id"], kept["container_name"] = facts.container_id, facts.container_name
        except InfrastructureError as error:
            self._job_fact(job, "warning", {"text": f"not kept: {error.message}"}, code=PhaseCode.JOB_CLEANUP)
        stays = "container_id" in kept or "checkpoint" in kept
        if stays:
            self._job_fact(job, "session_kept", kept, code=PhaseCode.JOB_CLEANUP)
        return stays

    def _save_files(self, job: Job, place: Place, attempt: _Attempt) -> None:
        """Lay out what a job leaves in a volume, which goes: of a job that failed, or that goes on where somebody was at work."""
        directory = place.request.directory
        wanted = attempt.status in (Status.FAILURE, Status.TIMED_OUT) or place.resumed is not None
        if place.request.mount_mode is not MountMode.VOLUME or directory is None or not wanted:
            return
        try:
            save_files(place.session, directory / "workspace")
        except InfrastructureError as error:
            text = f"what the job left could not be saved: {error}"
            self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_CLEANUP)

    def _time_left(self, job: Job, deadline_ns: int | None) -> float | None:
        left = None if deadline_ns is None else max(0.001, (deadline_ns - self.journal.now_ns()) / 1e9)
        limits = [limit for limit in (left, job.step_timeout_s) if limit is not None]
        return min(limits, default=None)

    def _step(
        self,
        job: Job,
        place: Place,
        step: Step,
        attempt: _Attempt,
        timeout_s: float | None,
        cancel: Cancel,
        extra: Mapping[str, str] | None = None,
    ) -> Exit:
        where = Where(scope="step", job_id=job.id, step=step.id)
        writer = self.journal.writer(where)
        started = {"command": step.script, "phase": step.phase, "number": step.number, "attempt": attempt.number}
        started |= {"file": step.file, "line": step.line, "literal": step.literal} if step.file else {}
        with self.journal.span(where, PhaseCode.STEP_EXECUTE, started) as outcome:
            try:
                before = place.handed_on()
                variables = {**self._step_environment(place, step, attempt), **(extra or {})}
                command = Command(script=step.script, shell=job.shell, environment=variables, timeout_s=timeout_s)
                exit_ = place.session.run(command, writer, cancel)
                self._mask_values(job, place.session, step)
                outcome.status, outcome.exit_code = exit_.status, exit_.code
                outcome.error = _why(job, step, exit_, timeout_s)
                for text in _unnoticed(step, exit_):
                    self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_EXECUTION)
                if (after := place.handed_on()) != before:
                    found = recorded(after, place.secrets, self.journal.masker)
                    self._job_fact(
                        job,
                        "handed_on",
                        {"step": step.id, "attempt": attempt.number, **found},
                        code=PhaseCode.JOB_EXECUTION,
                    )
            except InfrastructureError:
                # Not what is left to run in a place that an earlier step has broken.
                if attempt.failing_step is None and attempt.failing_section is None:
                    attempt.failing_step = step.id
                raise
            finally:
                outcome.data = {"output": writer.counts}  # the counts go on counting
                writer.close()
        return exit_

    def _mask_values(self, job: Job, session: Session, step: Step) -> None:
        """Hide from here on what the step appended to `$LOOM_MASK`."""
        for value in session.to_mask():
            try:
                self.journal.masker.add("LOOM_MASK", value)
            except SecretError as error:
                text = f"{step.id}: a line of $LOOM_MASK is not masked: {error.message.partition(': ')[2]}"
                self._job_fact(job, "warning", {"text": text}, code=PhaseCode.JOB_EXECUTION)

    # -- small parts ----------------------------------------------------------------------------------------------

    def _phase(self, job: Job, code: PhaseCode, attempt: _Attempt | None = None) -> AbstractContextManager[Outcome]:
        data = {} if attempt is None else {"attempt": attempt.number}
        return self.journal.span(Where(scope="job", job_id=job.id), code, data)

    def _job_fact(
        self,
        job: Job,
        name: str,
        data: Mapping[str, Any],
        *,
        code: PhaseCode = PhaseCode.PIPELINE_EXECUTE,
        **more: Any,
    ) -> None:
        self.journal.fact(Where(scope="job", job_id=job.id), code, name, data, **more)

    @contextmanager
    def _section(
        self, job: Job, section: Section, code: PhaseCode, attempt: _Attempt, *, lasting: bool = False
    ) -> Iterator[SectionOutput]:
        """One section of the record. A `lasting` one stays open while steps run; what fails then is not its failure."""
        output = SectionOutput(self.journal, job.id, section, code)
        outcome = Outcome()
        try:
            yield output
        except BaseException as error:
            if not lasting:
                output.begin()
                output.failed = str(error) if isinstance(error, InfrastructureError) else repr(error)
                if attempt.failing_step is None and attempt.failing_section is None:
                    attempt.failing_section = section
            raise
        finally:
            if lasting and attempt.service_died is not None:
                output.failed = str(attempt.service_died)
            if output.failed is not None:
                outcome.status, outcome.error = Status.ERROR, output.failed
            output.end(outcome)

    @contextmanager
    def _seam(self, attempt: _Attempt, outcome: Outcome) -> Iterator[None]:
        """Where a broken place becomes a value: the phase and the attempt are `error` (`canceled` after a cancel)."""
        try:
            yield
        except InfrastructureError as error:
            status = Status.CANCELED if self._cancel.requested else Status.ERROR
            outcome.status, outcome.error = status, str(error)
            if attempt.status in (Status.SUCCESS, Status.CANCELED):
                attempt.status, attempt.error = status, str(error)
                attempt.error_code = error.code if status is Status.ERROR else None


def _limit_reached(job: Job, step: Step, limit_s: float | None) -> str:
    """Which of the job's limits a step ran into that might take `limit_s`, and where that is set."""
    of_step = limit_s == job.step_timeout_s
    key, seconds = ("step_timeout", job.step_timeout_s) if of_step else ("timeout", job.timeout_s)
    if seconds is None or step.phase == "after_script":  # that has time of its own
        return ""
    place = job.places.get(key, "")
    written = place if place.startswith("`") else f"`{key}`, {place}".removesuffix(", ")
    return f": {'a step' if of_step else 'the job'} may take {duration_text(seconds)} ({written})"


def _why(job: Job, step: Step, exit_: Exit, limit_s: float | None) -> str | None:
    match exit_.ended:
        case Ended.EXITED:
            failed = f"{step.id} failed with exit code {exit_.code}"
            why = f": the job's container had as many processes as `pids` allows{_how_often(exit_)}"
            return None if exit_.code == 0 else f"{failed}{why if exit_.refused_forks else ''}"
        case Ended.TIMED_OUT:
            return f"{step.id} ran out of time{_limit_reached(job, step, limit_s)}"
        case Ended.CANCELED:
            return f"{step.id} was interrupted"
        case Ended.OOM_KILLED:
            return f"{step.id} was killed: the job's container ran out of memory (exit code {exit_.code})"


def _how_often(exit_: Exit) -> str:
    return f", and {counted(exit_.refused_forks, 'further one')} could not be started"


def _unnoticed(step: Step, exit_: Exit) -> Iterator[str]:
    """What went wrong with a step that lacked memory or processes, where it is not what it ended by."""
    went_on = "the step passed all the same" if exit_.status is Status.SUCCESS else "the step did not end by that"
    if exit_.oom_kills and exit_.ended is not Ended.OOM_KILLED:
        how_many = "a process was" if exit_.oom_kills == 1 else f"{exit_.oom_kills} processes were"
        yield f"{step.id}: {how_many} killed because the job's container ran out of memory; {went_on}"
    if exit_.refused_forks and (exit_.ended is not Ended.EXITED or exit_.code == 0):
        yield f"{step.id}: the job's container had as many processes as `pids` allows{_how_often(exit_)}; {went_on}"


def _broken_off(attempt: _Attempt) -> str:
    """Why something is not there that the job would have made, where it did not come to its end."""
    if attempt.status is not Status.ERROR or not attempt.error:
        return ""
    return f", since the job was broken off: {attempt.error.splitlines()[0]}"


def _tries_again(job: Job, attempt: _Attempt, number: int) -> bool:
    retry = job.retry
    if number > retry.max or attempt.status in (Status.SUCCESS, Status.SKIPPED, Status.CANCELED):
        return False
    if retry.exit_codes and attempt.exit_code in retry.exit_codes:
        return True
    kinds: Callable[[str], bool] = retry.when.__contains__
    match attempt.status:
        case Status.FAILURE:
            reason = "script_failure"
        case Status.TIMED_OUT:
            reason = "timeout"
        case _:
            reason = "provider_failure"
    return (kinds("always") and not retry.exit_codes) or kinds(reason)


def _no_variable(job: Job, name: str) -> SecretError:
    return SecretError(
        f"secret {name} of job {job.id}: the value holds a NUL byte, which no variable can hold (SECRETS_VALUE_NOT_TEXT)",
        hint=f"Leave `file: false` out: ${name} is then the path of a file with the value.",
        code="SECRETS_VALUE_NOT_TEXT",
    )
