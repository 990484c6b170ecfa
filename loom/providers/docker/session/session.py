"""One job's container, from the first step to the last."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, LoomError, ProviderError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.command import Command
from loom.providers.docker.container import refusals
from loom.providers.docker.container.cleanup import remove_container
from loom.providers.docker.container.create import HARDENED_JOB
from loom.providers.docker.container.mounts import Mount
from loom.providers.docker.container.ownership import Owner, may_all
from loom.providers.docker.engine.client import ANSWER_S, LONG_S
from loom.providers.docker.engine.errors import explanation, to_loom_error, translated
from loom.providers.docker.engine.retries import RESUMED_AT_MOST, asked, retrying
from loom.providers.docker.session.attach import ContainerAttachment
from loom.providers.docker.session.exec import ContainerInside, EngineCommand
from loom.providers.driven import LEAVE_S, DrivenSession
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import ConnectionLost, Exchange
from loom.providers.labels import kept_name
from loom.record.facts import COMMAND_USER
from loom.status import OnOutput
from loom.storage.workspace import Archives
from loom.values import Environ

PING_S = 15.0
"""The time that the engine may take to answer the check of a silent step."""


class DockerSession(DrivenSession):
    """Implements `providers.base.Session` for an attached container."""

    attachment: ContainerAttachment

    def __init__(
        self,
        *,
        request: SessionRequest,
        attachment: ContainerAttachment,
        facts: SessionFacts,
        mount: Mount,
        on_output: OnOutput,
    ) -> None:
        self._client = attachment.client
        self._api: Any = self._client.api
        super().__init__(attachment, request, facts, on_output, environment=driver.environment(request.environment)[1])
        self._mount = mount
        self._chowned = False
        self._settled = False
        self._started = False
        self._user: Owner | None = None
        self._to_stay = False
        self._resumed = 0

    @property
    def is_removable(self) -> bool:
        """Return whether the container can be removed: it is not kept, was not lost, and did not fail to be kept again."""
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
        self.send(driver.program() + driver.greeting(exchange.token))
        try:
            if not running:
                self._api.start(self.container_id)
        except Exception as error:
            raise refusals.start_error(error, self._request) or error from error
        self._started = True

        def ended_at_once(output: str, reason: str) -> LoomError:
            return refusals.ended_at_once(output, reason, self._request)

        greeting = self.greet(exchange, cancel, ended_at_once)
        if greeting is None or greeting.uid is None:
            return
        if not running and self._request.mount_mode is not MountMode.VOLUME and not may_all(greeting.root):
            raise refusals.not_ours(self._request)
        self._user = Owner(greeting.uid, greeting.gid or 0)
        if self._request.image.entrypoint:
            # It may have become another user, which the engine starts no command as. The engine looks for further groups
            # of a user only where it is asked for none.
            user = str(greeting.uid) if greeting.further_groups else f"{greeting.uid}:{greeting.gid}"
            self.facts = replace(self.facts, details={**self.facts.details, COMMAND_USER: user})

    # The driver's container: whether it runs, and why it ended

    def kill(self) -> None:
        with translated("killing the container"):
            self._api.kill(self.container_id)

    def ask_engine(self) -> None:
        doing = f"asking the engine about job {self._request.job_id}, which has been silent"
        asked(doing, lambda: self._api.get(f"{self._api.base_url}/_ping", timeout=PING_S))

    def resume(self, error: OSError | None) -> None:
        job_id, state = self._request.job_id, self._state()
        if state.get("Running"):
            self._resumed += 1
            if self._resumed > RESUMED_AT_MOST:
                reason = explanation(error) if error else "it was closed"
                raise ConnectionLost(
                    f"the connection to the running container of job {job_id} is lost again and again: {reason}"
                )
            self.attachment.resume()
            return
        code = int(state.get("ExitCode") or 0)
        if by := self._stopped_by_others():
            raise ConnectionLost(
                f"the container of job {job_id} was stopped from outside ({by}) while it ran, exit code {code}"
            )
        if code != driver.INPUT_LOST_CODE and (why := state.get("Error")):
            raise ConnectionLost(f"the container of job {job_id} ended while it ran: {why}")
        raise self.end_error("the container", code, oom=bool(state.get("OOMKilled")))

    def _state(self) -> dict[str, Any]:
        job_id = self._request.job_id
        try:
            state: dict[str, Any] = retrying(lambda: self._api.inspect_container(self.container_id))["State"]
        except Exception as broken:
            converted = to_loom_error(broken, f"the engine was lost while job {job_id} ran")
            if converted is None:
                raise
            if getattr(broken, "status_code", None) == 404:
                raise ConnectionLost(
                    f"the container of job {job_id} was removed by someone else while it ran"
                ) from broken
            raise EngineUnavailable(
                converted.message, hint="see `docker info`; the job's container is removed at the next start of loom"
            ) from broken
        return state

    def _stopped_by_others(self) -> str:
        try:
            filters = json.dumps({"container": [self.container_id], "event": ["kill", "stop"]})
            # The SDK's own call has no time limit.
            answer = self._api.get(
                f"{self._api.base_url}/v{self._api.api_version}/events",
                params={"since": 1, "until": int(time.time()) + 1, "filters": filters},
                timeout=ANSWER_S,
            )
            answer.raise_for_status()
            events = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
        except Exception as error:
            if to_loom_error(error, "") is None:
                raise
            return ""  # the engine can't tell; use the exit code
        if not events:
            return ""
        signal = events[0].get("Actor", {}).get("Attributes", {}).get("signal")
        return f"{events[0].get('Action', 'kill')}, signal {signal}" if signal else str(events[0].get("Action"))

    # Steps

    def prepare_step(self) -> None:
        if self._request.chmod and not self._chowned:
            self._run_as_root(f"chmod -R {self._request.chmod} '{self._request.project_dir}'")
        if not self._chowned or self._settled:
            self._chowned, self._settled = True, False
            self._chown_to_job()

    def still_running(self) -> Sequence[str]:
        try:
            with translated("listing the processes of the container"):
                listed = self._api.top(self.container_id, "-eo pid,args")["Processes"]
        except LoomError:
            return ()
        return [args for _, args in listed or () if driver.MARK not in args]

    # Files

    def _chown_to_job(self) -> None:
        self._mount.chown_to_job(self._user or Owner(0, 0), self._run_as_root)

    def _run_as_root(self, line: str) -> int:
        """Run a line of shell as root on the workspace, in a new container if the job's has ended; return its exit code."""
        with translated(f"changing the owner of files for job {self._request.job_id}"):
            try:
                return self._run_as_root_inside(line)
            except Exception as error:
                # The engine's error, or its conversion: the container has ended.
                if not {getattr(one, "status_code", None) for one in (error, error.__cause__)} & {404, 409}:
                    raise
            return self._run_as_root_beside(line)

    def _run_as_root_inside(self, line: str) -> int:
        command = EngineCommand(self._client, self.container_id, ["sh", "-c", line], user="0:0")
        try:
            return command.result(LONG_S)[0]
        except TimeoutError as error:
            raise ProviderError(f"the owner of files was not changed in {LONG_S} s") from error

    def _run_as_root_beside(self, line: str) -> int:
        config = self._api.create_container_config(
            image=self._request.image_to_run,
            command=None,
            entrypoint=["sh", "-c", line],
            user="0:0",
            working_dir="/",
            labels=labels.request_labels(self._request, "helper"),
            host_config=self._api.create_host_config(  # use the image's own programs, with minimal rights
                mounts=self._mount.spec()[:1], network_mode="none", read_only=True, **HARDENED_JOB
            ),
        )
        helper = self._api.create_container_from_config(config, f"{self.facts.container_name}-helper")["Id"]
        try:
            self._api.start(helper)
            return int(self._api.wait(helper, timeout=LONG_S)["StatusCode"])
        finally:
            remove_container(self._client, helper)

    def settle(self) -> None:
        if self._chowned:
            self._mount.chown_back(self._run_as_root)
            self._settled = True

    def files(self) -> Path | Archives:
        return self._mount.files()

    def inside(self, environment: Environ, *, as_root: bool = False) -> ContainerInside:
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
        self.facts = replace(self.facts, container_name=name)
        self.kept_until = expires_at

    def leave(self) -> list[str]:
        """End everything in the container; its last output goes to the session's `on_output`. Return the problems."""
        problems = []
        if self.kept_until is None:
            if self._started:
                self.end()
            if self._chowned:
                try:
                    self._mount.chown_back(self._run_as_root)
                except LoomError as error:
                    problems.append(str(error))
            # Root's kill reaches everything; after another user's, wait for the container's end (30 ms).
            if self._started and (self._user is None or self._user.uid != 0):
                self._drain()
        self.attachment.close()
        return problems

    def _drain(self) -> None:
        """Close the input and pass on the remaining output that arrives in time."""
        self.attachment.close_input()
        deadline = time.monotonic() + LEAVE_S
        with suppress(OSError, LoomError):
            while not self.attachment.at_end and (left := deadline - time.monotonic()) > 0:
                for stream, data in self.attachment.read(left):
                    self.on_output(stream, data)
