"""One job's container, from the first step to the last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.providers.base import COMMAND_USER, Command, SessionFacts, SessionRequest
from loom.providers.docker.container import refusals
from loom.providers.docker.container.as_root import as_root
from loom.providers.docker.container.create import environment_of
from loom.providers.docker.container.mounts import Mount
from loom.providers.docker.container.ownership import Owner
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.session.attach import Attachment
from loom.providers.docker.session.channel import channel_to
from loom.providers.docker.session.exec import ContainerInside
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import Exchange
from loom.providers.driver.session import LEAVE_S, DrivenSession, Greeting
from loom.providers.driver.steps import still_running as to_report
from loom.providers.files import unnoticed
from loom.providers.labels import kept_name
from loom.status import OnOutput

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import OnSkipped


class DockerSession(DrivenSession):
    """Implements `providers.base.Session`; created by `DockerProvider.open` with an attached, started container."""

    def __init__(
        self,
        *,
        client: docker.DockerClient,
        request: SessionRequest,
        attachment: Attachment,
        facts: SessionFacts,
        mount: Mount,
        container_labels: Mapping[str, str],
        on_output: OnOutput,
    ) -> None:
        self._client = client
        self._api: Any = client.api
        super().__init__(
            channel_to(client, attachment, facts.container_id, request.job_id),
            request,
            facts,
            on_output,
            # Each step sets the variables that the engine's JSON can't encode (bytes that are not UTF-8).
            environment=environment_of(request)[1],
        )
        self._mount = mount
        self._as_root = partial(as_root, client, facts, mount, container_labels)
        self._chowned = False
        self._started = False
        self.uid: int | None = None
        self.gid: int | None = None
        self._to_stay = False

    @property
    def may_go(self) -> bool:
        """Return whether nobody needs the container: not one that was lost, or could not be kept again."""
        return self.kept_until is None and not self._to_stay and not self.lost

    @property
    def container_id(self) -> str:
        return self.facts.container_id

    # The start

    def start(self, cancel: Cancel, *, running: bool = False) -> None:
        """Start the container, unless it runs, and wait for the driver. ImageError when the image can't run it.

        After StartFailed, neither this session nor its attachment can be used.
        """
        exchange = Exchange()
        # Before the start: the engine buffers it until the driver reads, which saves a round trip.
        self.channel.send(driver.program() + driver.greeting(exchange.token))
        try:
            if not running:
                self._api.start(self.container_id)
        except Exception as error:
            raise refusals.not_started(error, self._request, self.facts) or error from error
        self._started = True

        def ended_at_once(output: str, reason: str) -> LoomError:
            return refusals.ended_at_once(output, reason, self._request, self.facts)

        if (greeting := self.greet(exchange, cancel, ended_at_once)) is not None and greeting.uid is not None:
            self._take(greeting)

    def _take(self, greeting: Greeting) -> None:
        self.uid, self.gid = greeting.uid, greeting.gid
        if self._request.image is not None and self._request.image.entrypoint:
            # It may have become another user, which the engine starts no command as. The engine looks for further groups
            # of a user only where it is asked for none.
            user = str(greeting.uid) if greeting.further_groups else f"{greeting.uid}:{greeting.gid}"
            self._add_facts(details={**self.facts.details, COMMAND_USER: user})

    def _add_facts(self, **changes: Any) -> None:
        self.facts = replace(self.facts, **changes)

    # Steps

    def before_step(self) -> None:
        if not self._chowned:
            self._chowned = True
            self._chown_to_job()

    def still_running(self) -> tuple[str, ...]:
        """Return the command lines of what the step runs; nothing if the engine can't tell."""
        try:
            with translated("listing the processes of the container"):
                listed = self._api.top(self.container_id, "-eo pid,args")["Processes"]
        except LoomError:
            return ()
        commands = [args for _, args in listed or () if driver.MARK not in args]
        return to_report(commands, f"{driver.DIRECTORY}/step.")

    # Files

    def _chown_to_job(self) -> None:
        self._mount.chown_to_job(Owner(self.uid or 0, self.gid or 0), self._as_root)

    def settle(self) -> None:
        if self._chowned:
            self._mount.chown_back(self._as_root)

    def workspace_view(self) -> Path | None:
        return self._mount.view()

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        return self._mount.get_archive(paths, on_skipped)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        self._mount.put_archive(archive)

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> ContainerInside:
        if not self._chowned:  # the first step gives the job its files
            self.run(Command(script=":", shell=("sh",)), self.on_output, Cancel())
        return ContainerInside(
            client=self._client,
            container_id=self.container_id,
            workdir=self._request.project_dir,
            environment=environment,
            user="0:0" if as_root else self.facts.details.get(COMMAND_USER),
        )

    # The end

    def size(self) -> int:
        with translated("measuring the container"):
            listed = self._api.containers(all=True, size=True, filters={"id": self.container_id})
        return int((listed[0] if listed else {}).get("SizeRw") or 0) + self._mount.size()

    def keep(self, expires_at: float) -> None:
        self._to_stay = True
        # One that a step ended is started again by whoever enters it.
        if not self.died and self.order(driver.keep) is None:
            raise ProviderError(
                f"the container of job {self._request.job_id} could not be kept: its driver does not answer"
            )
        if self._chowned and not self.died:  # the caller owned the files while reading; the job's user needs them
            self._chown_to_job()
        name = kept_name(self.facts.container_name, expires_at)
        if name != self.facts.container_name:  # otherwise, keeping it again within a second would reuse its own name
            with translated("keeping the container"):
                self._api.rename(self.container_id, name)
        self._add_facts(container_name=name)
        self.kept_until = expires_at

    def disconnect(self) -> None:
        """Release a container that did not start."""
        self.channel.attachment.close()

    def leave(self) -> list[str]:
        """End everything in the container; its last output goes to the session's `on_output`. Return the problems."""
        problems = []
        if self.kept_until is None:
            if self._started:
                self.end()
            if self._chowned:
                try:
                    self._mount.chown_back(self._as_root)
                except LoomError as error:
                    problems.append(str(error))
            # Root's kill reaches everything; after another user's, wait for the container's end (30 ms).
            if self.uid != 0 and self._started:
                self.channel.drain(self.on_output, LEAVE_S)
        self.disconnect()
        return problems
