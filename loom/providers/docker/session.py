"""One job's container, from the first step to the last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError, RequestError
from loom.providers.base import COMMAND_USER, Change, Command, SessionFacts, SessionRequest
from loom.providers.docker import driver, refusals
from loom.providers.docker.as_root import RootShell
from loom.providers.docker.attach import Attachment
from loom.providers.docker.channel import Channel, Died, Lost, Talk
from loom.providers.docker.container import environment_of
from loom.providers.docker.errors import translated
from loom.providers.docker.exec import ContainerInside
from loom.providers.docker.labels import kept_name
from loom.providers.docker.mounts import Mount
from loom.providers.docker.ownership import Ids, Owner
from loom.providers.files import unnoticed
from loom.providers.steps import chosen, handed_on, still_running
from loom.status import Ended, Exit, OnOutput, Stream

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import OnSkipped

HELLO_S = 60.0
"""Time limit from the container's start to the driver's first answer, on a busy machine."""
AFTER_KILL_S = 10.0
"""Time limit of the driver's report after KILL; then the container is killed."""
LEAVE_S = 3.0
"""Time limit for the end of the container's processes after the driver is ordered to stop."""
_MOST_HEARD = 10_000


class DockerSession:
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
        self._request = request
        self._channel = Channel(client, attachment, facts.container_id, request.job_id)
        self.facts = facts
        self._mount = mount
        self._as_root = RootShell(
            client=client, facts=facts, mount=mount, job_id=request.job_id, labels=container_labels
        )
        # Each step sets the variables that the engine's JSON can't encode (bytes that are not UTF-8).
        self._raw_environment = environment_of(request)[1]
        self._on_session_output = on_output
        self._chowned = False
        self._handed_on: dict[str, str] = {}
        self._to_mask: list[bytes] = []
        self._number = 0
        self._ooms = self._refused_forks = 0
        self._started = False
        self._unfinished = False
        self._died = False
        self.uid: int | None = None
        self.gid: int | None = None
        self._ids = Ids()
        self.kept_until: float | None = None

    @property
    def container_id(self) -> str:
        return self.facts.container_id

    # The start

    def start(self, cancel: Cancel, *, running: bool = False) -> None:
        """Start the container, unless it runs, and wait for the driver. ImageError when the image can't run it.

        After StartFailed, neither this session nor its attachment can be used.
        """
        talk = Talk()
        # Before the start: the engine buffers it until the driver reads, which saves a round trip.
        self._channel.send(driver.program() + driver.hello(talk.token))
        try:
            if not running:
                self._api.start(self.container_id)
        except Exception as error:
            raise refusals.not_started(error, self._request, self.facts) or error from error
        self._started = True
        if self._hear_hello(talk, cancel):
            self._take_hello(str(talk.answer))
        elif not cancel.requested:
            raise ProviderError(
                f"the container of job {self._request.job_id} started, but nothing in it answered within {HELLO_S:.0f} s",
                hint='an image\'s own `entrypoint` must end by running the command that it is given: exec "$@"',
            )

    def _hear_hello(self, talk: Talk, cancel: Cancel) -> bool:
        heard: list[bytes] = []

        def listen(stream: Stream, data: bytes) -> None:
            if sum(map(len, heard)) < _MOST_HEARD:
                heard.append(data)
            self._on_session_output(stream, data)

        unregister = cancel.on_request(self._channel.attachment.wake)
        try:
            return self._channel.listen(talk, listen, deadline=time.monotonic() + HELLO_S, cancel=cancel)
        except (Lost, Died) as lost:
            reason = lost.message if isinstance(lost, Lost) else f"it ended with exit code {lost.code}"
            output = b"".join(heard).decode("utf-8", "replace").strip()
            if isinstance(lost, Lost) and not output:
                raise
            raise refusals.ended_at_once(output, reason, self._request, self.facts) from lost
        finally:
            unregister()

    def _take_hello(self, answer: str) -> None:
        uid, gid, ooms, refused_forks, users, groups, bash, member_of = answer.split()
        self.facts = replace(self.facts, has_bash=bash == "bash")
        self._ooms, self._refused_forks = int(ooms), int(refused_forks)
        if uid.isdigit() and gid.isdigit():
            self.uid, self.gid = int(uid), int(gid)
            self._ids = Ids.read(users, groups)
            self.facts = replace(self.facts, user=f"{uid}:{gid}")
            if self._request.image is not None and self._request.image.entrypoint:
                # It may have become another user, which the engine starts no command as. The engine looks for further groups
                # of a user only where it is asked for none.
                further = set(member_of.split(",")) - {"", "-", gid}
                user = uid if further else f"{uid}:{gid}"
                self.facts = replace(self.facts, details={**self.facts.details, COMMAND_USER: user})

    # Steps

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        if cancel.wait(0):
            return Exit(code=130, ended=Ended.CANCELED)
        if self.kept_until is not None:
            raise ProviderError("the container is kept for inspection and runs no further steps")
        if self._died:
            raise Lost(f"a step of job {self._request.job_id} has ended its container; no other can run in it")
        if not self._chowned:
            self._chowned = True
            self._chown_to_job()
        self._number += 1
        talk = Talk()
        line = driver.step(
            talk.token,
            script=command.script,
            environment={**self._raw_environment, **command.environment},
            shell=tuple(chosen(command.shell or self._request.shell, has_bash=self.facts.has_bash)),
            number=self._number,
            merge_output=command.merge_output,
        )
        deadline = None if command.timeout_s is None else time.monotonic() + command.timeout_s
        ended = Ended.EXITED
        still_ran: tuple[str, ...] = ()
        unregister = cancel.on_request(self._channel.attachment.wake)
        self._unfinished = True
        try:
            self._channel.send(line)
            if not self._channel.listen(talk, on_output, deadline=deadline, cancel=cancel):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                still_ran = self._commands() if ended is Ended.TIMED_OUT else ()
                self._end_step(talk, on_output, cancel)
            self._channel.send(driver.OK)
            self._unfinished = False
        except Died as died:
            self._died = True
            if ended is Ended.EXITED and died.oom:
                ended = Ended.OOM_KILLED
            return Exit(code=died.code, ended=ended, still_ran=still_ran, ended_place=True)
        finally:
            unregister()
            talk.let_go(on_output)
        self._handed_on.update(handed_on(talk.env_lines))
        self._to_mask += [line for line in talk.mask_lines if line.strip()]
        return replace(self._exit(str(talk.answer), ended), still_ran=still_ran)

    def _commands(self) -> tuple[str, ...]:
        """Return the command lines of what the step runs; nothing if the engine can't tell."""
        try:
            with translated("listing the processes of the container"):
                listed = self._api.top(self.container_id, "-eo pid,args")["Processes"]
        except LoomError:
            return ()
        commands = [args for _, args in listed or () if driver.MARK not in args]
        return still_running(commands, f"{driver.DIRECTORY}/step.")

    def _exit(self, answer: str, ended: Ended) -> Exit:
        code, ooms, refused_forks = (int(word) for word in answer.split())
        if code < 0:
            raise ProviderError(
                f"the step could not be handed to the container of job {self._request.job_id}: its {driver.DIRECTORY},"
                " where steps, $LOOM_ENV and secrets are, takes no more files",
                hint="an earlier step has filled it, or made it read-only, or put something else in the place of"
                " $LOOM_ENV or $LOOM_MASK",
            )
        killed, self._ooms = ooms - self._ooms, ooms
        refused, self._refused_forks = refused_forks - self._refused_forks, refused_forks
        if ended is Ended.EXITED and code != 0 and killed > 0:
            ended = Ended.OOM_KILLED
        return Exit(code=code, ended=ended, oom_kills=killed, refused_forks=refused)

    def _end_step(self, talk: Talk, on_output: OnOutput, cancel: Cancel) -> None:
        """Send TERM to all processes of the job, KILL after the grace period, and finally kill the container."""
        if not cancel.now:
            self._channel.send(driver.TERM)
            grace = time.monotonic() + self._request.grace_s
            if self._channel.listen(talk, on_output, deadline=grace, cancel=cancel, only_now=True):
                self._channel.send(driver.KILL)  # the step ended in time; end its background processes too
                return
        self._channel.send(driver.KILL)
        if self._channel.listen(talk, on_output, deadline=time.monotonic() + AFTER_KILL_S, cancel=None):
            return
        self._channel.kill()
        raise Died(137, oom=False)

    def handed_on(self) -> Mapping[str, str]:
        return dict(self._handed_on)

    def to_mask(self) -> list[bytes]:
        found, self._to_mask = self._to_mask, []
        return found

    # Files

    def _chown_to_job(self) -> None:
        self._mount.chown_to_job(Owner(self.uid or 0, self.gid or 0), self._ids, self._as_root)

    def put_secret(self, name: str, content: bytes) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise RequestError(f"{name!r} can't be the name of a secret's file")
        path = f"{driver.DIRECTORY}/secret.{name}"
        if self._channel.ask(lambda token: driver.put(token, path, content), self._on_session_output, HELLO_S) != "0":
            raise ProviderError(f"the secret {name} could not be put into the container of job {self._request.job_id}")
        return path

    def settle(self) -> None:
        if self._chowned:
            self._mount.chown_back(self._as_root)

    def workspace_view(self) -> Path | None:
        return self._mount.view()

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        return self._mount.get_archive(paths, on_skipped)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        self._mount.put_archive(archive)

    def changes(self) -> Sequence[Change] | None:
        return self._mount.changes(self._as_root)

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> ContainerInside:
        if not self._chowned:  # the first step gives the job its files
            self.run(Command(script=":", shell=("sh",)), self._on_session_output, Cancel())
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
        # One that a step ended is started again by whoever enters it.
        if not self._died and self._channel.ask(driver.keep, self._on_session_output, HELLO_S) is None:
            raise ProviderError(
                f"the container of job {self._request.job_id} could not be kept: its driver does not answer"
            )
        if self._chowned and not self._died:  # the caller owned the files while reading; the job's user needs them
            self._chown_to_job()
        name = kept_name(self.facts.container_name, expires_at)
        if name != self.facts.container_name:  # otherwise, keeping it again within a second would reuse its own name
            with translated("keeping the container"):
                self._api.rename(self.container_id, name)
        self.facts = replace(self.facts, container_name=name)
        self.kept_until = expires_at

    def disconnect(self) -> None:
        """Release a container that did not start."""
        self._channel.attachment.close()

    def leave(self) -> list[str]:
        """End everything in the container; its last output goes to the session's `on_output`. Return the problems."""
        problems = []
        if self.kept_until is None:
            self._end_everything()
            if self._chowned:
                try:
                    self._mount.chown_back(self._as_root)
                except LoomError as error:
                    problems.append(str(error))
            # Root's kill reaches everything; after another user's, wait for the container's end (30 ms).
            if self.uid != 0 and self._started:
                self._channel.drain(self._on_session_output, LEAVE_S)
        self.disconnect()
        return problems

    def _end_everything(self) -> None:
        if self._channel.attachment.at_end or self._died or not self._started:
            return
        talk = Talk()
        try:
            if self._unfinished:
                # For example, its output could not be recorded: drop the rest.
                self._on_session_output = lambda *_: None
                self._channel.send(driver.KILL + driver.OK)
            self._channel.send(driver.end(talk.token))
            self._channel.listen(talk, self._on_session_output, deadline=time.monotonic() + LEAVE_S, cancel=None)
            talk.let_go(self._on_session_output)
        except (Died, LoomError):
            pass  # it already ended, or is removed by force next
