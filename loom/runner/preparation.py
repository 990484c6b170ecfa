"""Prepare a job's session, from its secrets on; each part is a section of the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack

from loom.cancel import Cancel
from loom.errors import InfrastructureError, ProviderError, SecretError, ServiceError
from loom.plan import variables
from loom.plan.model import Job, Resolved
from loom.providers.base import NO_SECRETS, OpenedServices, SecretValues
from loom.providers.driver.steps import chosen
from loom.record.events import PhaseCode, Section
from loom.record.run import LeftContainer
from loom.runner.attempt import Attempt, SectionOutput
from loom.runner.session import OpenedSession, OpenJob, Prewarmed, SessionOpener

CODE = PhaseCode.JOB_PROVIDER_PREPARE


class Preparation:
    """Opens the session of one attempt; `stack` closes it. `cancel` belongs to the attempt."""

    def __init__(self, attempt: Attempt, opener: SessionOpener, stack: ExitStack, cancel: Cancel) -> None:
        self._attempt = attempt
        self._job = attempt.job
        self._opener = opener
        self._stack = stack
        self._cancel = cancel

    def open_job(self) -> OpenJob:
        secrets = self._secrets()
        resumed = self._opener.resumed(self._job)
        prewarmed = self._opener.prewarmed.pop(self._job.id, None)
        image = resumed.image if resumed is not None and resumed.image is not None else self._image(prewarmed, secrets)
        if image is not None:
            found = {"name": image.name, "id": image.image_id, "digest": image.digest}
            self._attempt.fact("image_resolved", found, CODE)
            self._images_used(image.bases)
        kept = resumed.kept if resumed is not None else None
        services = None if kept else self._services(secrets)
        try:
            opened = self._session(prewarmed, image, services, kept)
        except ProviderError as error:
            ended = services and (self._attempt.service_died or services.blamed_for(error))
            if not ended:
                raise
            self._attempt.failing_section = Section.SERVICES
            raise ended from error
        self._tell(opened)
        return OpenJob(
            session=opened.session,
            request=opened.request,
            image=image,
            environment=self._put_files(opened, secrets.own),
            secrets=secrets.own,
            services=services,
            resumed=resumed,
        )

    def _secrets(self) -> SecretValues:
        """Resolve the values, and register them with the masker before any output."""
        job = self._job
        if not job.all_secrets:
            return NO_SECRETS
        with self._attempt.section(Section.SECRETS, CODE) as output:
            values, missing = self._opener.tools.secrets(job)
            owners = [("", values.own)]
            owners += [(f"{one.name}: ", found) for one, found in zip(job.services, values.services, strict=True)]
            for _, found in owners:
                for name, value in found.items():
                    self._attempt.journal.masker.add(name, value)
            for secret in job.secrets:
                if not secret.file and b"\0" in values.own.get(secret.name, b""):
                    raise _no_variable(job, secret.name)
            writer = output.begin()
            for owner, found in owners:
                for name in found:
                    writer.line(f"{owner}{name}: found")
            for text in missing:
                writer.line(text)
                self._attempt.warn(text, CODE)
        return values

    def _image(self, prewarmed: Prewarmed | None, secrets: SecretValues) -> Resolved | None:
        with self._attempt.section(Section.IMAGE_BUILD, CODE) as output:
            if prewarmed is None:
                return self._opener.resolve(self._job, output, secrets)
            prewarmed.image_output.pass_on(output)
            return prewarmed.image()

    def _images_used(self, images: Sequence[Resolved]) -> None:
        """Record further images, of services and base images: the receipt lists all."""
        for image in images:
            self._attempt.fact("image_used", {"name": image.name, "id": image.image_id, "digest": image.digest}, CODE)
            self._images_used(image.bases)

    def _services(self, secrets: SecretValues) -> OpenedServices | None:
        job, attempt = self._job, self._attempt
        if not job.services:
            return None

        needed = {service.name for service in job.services if service.needed}

        def on_died(name: str, how: str) -> None:
            result, _, last = how.partition("\n")
            died = ServiceError(f"service {name} ended while the job ran: {result}", hint=last.strip())
            if name in needed:
                attempt.service_died = died
                self._cancel.request(None)
            elif result != "exit code 0":
                attempt.warn(f"{died.message}{last and f'; it printed: {last.splitlines()[-1].strip()}'}", CODE)

        # It lasts as long as the job, so a later step's failure is not its own.
        section = SectionOutput(attempt.journal, job.id, Section.SERVICES, CODE)
        section.begin()

        def end() -> None:
            if attempt.service_died is not None:
                section.failed = str(attempt.service_died)
            section.end()

        self._stack.callback(end)
        try:
            opened = self._stack.enter_context(self._opener.services(job, section, self._cancel, on_died, secrets))
        except InfrastructureError as error:
            attempt.failing_section = Section.SERVICES
            section.failed = str(error)
            raise
        self._images_used(opened.images)
        return opened

    def _session(
        self,
        prewarmed: Prewarmed | None,
        image: Resolved | None,
        services: OpenedServices | None,
        kept: LeftContainer | None,
    ) -> OpenedSession:
        with self._attempt.section(Section.PROVIDER, CODE) as output:
            # Again after the session: background processes may end with a partial line.
            self._stack.callback(output.begin().close)
            if prewarmed is not None:
                return self._prewarmed(prewarmed, image, output)
            opening: AbstractContextManager[OpenedSession] = (
                self._opener.adopted(self._job, kept, image, output, self._cancel)
                if kept
                else self._opener.open(self._job, image, output, services)
            )
            return self._stack.enter_context(opening)

    def _prewarmed(self, prewarmed: Prewarmed, image: Resolved | None, on_output: SectionOutput) -> OpenedSession:
        """Return the prewarmed session, or open another one if it can't show the workspace."""
        prewarmed.provider_output.pass_on(on_output)
        try:
            opened, closing = prewarmed.opened()
        except ProviderError as error:
            if not self._opener.another_view(self._job, prewarmed.view, error, on_output):
                raise
            return self._stack.enter_context(self._opener.open(self._job, image, on_output))
        self._stack.push(closing)
        return opened

    def _put_files(self, opened: OpenedSession, secrets: Mapping[str, bytes]) -> Mapping[str, str]:
        """Put the job's files into its session; return their variables, the other secrets and those of the attempt."""
        job, attempt = self._job, self._attempt
        files = variables.files_of(job, secrets)
        paths = {name: opened.session.put_secret(name, value) for name, value in files.items()}
        own = variables.attempt_variables(attempt.number, attempt.began_ns)
        request = opened.request
        return variables.session_variables(job, request.environment, request.concealed, secrets, paths, own)

    def _tell(self, opened: OpenedSession) -> None:
        facts = opened.session.facts
        fact = {
            "provider": self._opener.provider(self._job).name,
            "container_id": facts.container_id,
            "container_name": facts.container_name,
            "user": facts.user,
            "shell": " ".join(chosen(self._job.shell, facts.auto_shell)),
            "workspace": str(opened.view.files),
            "view_of": str(opened.view.workspace),
            "mount_mode": opened.view.mode.value,
            **({"input_tree": opened.input_tree} if opened.input_tree else {}),
            **({"path": facts.path} if self._job.has_expressions else {}),
            **facts.details,
        }
        self._attempt.fact("session_opened", fact, CODE)
        for text in facts.warnings:
            self._attempt.warn(text, CODE)


def _no_variable(job: Job, name: str) -> SecretError:
    return SecretError(
        f"secret {name} of job {job.id}: the value holds a NUL byte, which no variable can hold (SECRETS_VALUE_NOT_TEXT)",
        hint=f"Leave `file: false` out: ${name} is then the path of a file with the value.",
        code="SECRETS_VALUE_NOT_TEXT",
    )
