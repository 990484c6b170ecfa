"""One job's container, from the first step to the last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError, RequestError
from loom.plan.model import MountMode
from loom.providers.base import Change, Command, SessionFacts, SessionRequest
from loom.providers.docker import devices, driver, hardening, labels, mounts, refusals
from loom.providers.docker.attach import Attachment, Hijacked
from loom.providers.docker.cleanup import remove_container
from loom.providers.docker.client import ANSWER_S as CALL_S
from loom.providers.docker.client import LONG_S
from loom.providers.docker.errors import explanation, ours, translated
from loom.providers.docker.labels import kept_name
from loom.providers.docker.mounts import Mount
from loom.providers.docker.ownership import Ids, Owner
from loom.providers.docker.retries import RESUMED_AT_MOST, retrying, start_failed
from loom.providers.files import unnoticed
from loom.providers.steps import chosen, handed_on
from loom.status import Ended, Exit, OnOutput, Stream

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import OnSkipped

UNSEEN = "WORKSPACE_UNSEEN"
"""The code of an error that says: the engine does not see the workspace, or may not look into it."""
HELLO_S = 60.0
"""How long a container may take from its start to the driver's first word, on a busy machine."""
AFTER_KILL_S = 10.0
"""How long the driver may take to report after KILL; then the container itself is killed."""
LEAVE_S = 3.0
"""How long the container's processes may take to be gone once the driver was ordered to stop."""
BEHIND_S = 15.0
"""How long a container's log may have nothing new while it has not come to where a lost connection had been."""
ASK_ENGINE_S = 60.0
"""How often a silent engine is asked whether it is still there."""
ANSWER_S = 15.0
"""How long the engine may take to answer that."""


class _Conversation:
    """One command said to the driver: its output so far, cut free of marks, and its answer, once both streams brought it."""

    def __init__(self, token: bytes) -> None:
        self.token = token
        self.answer: str | None = None
        self.env_lines: list[bytes] = []
        self.mask_lines: list[bytes] = []
        self._cutters: dict[Stream, driver.Cutter] = {"stdout": driver.Cutter(token), "stderr": driver.Cutter(token)}
        self._unanswered: set[Stream] = {"stdout", "stderr"}

    def is_over(self) -> bool:
        return not self._unanswered

    def hear(self, stream: Stream, data: bytes, on_output: OnOutput) -> None:
        for part in self._cutters[stream].feed(data):
            if isinstance(part, bytes):
                on_output(stream, part)
            elif part.text.startswith(b"="):
                self.env_lines.append(part.text[1:])
            elif part.text.startswith(b"-"):
                self.mask_lines.append(part.text[1:])
            else:
                self._unanswered.discard(stream)
                if stream == "stdout":
                    self.answer = part.text.decode("ascii", "replace").strip()

    def let_go(self, on_output: OnOutput) -> None:
        """Pass on what looked like the beginning of a mark and can't become one any more."""
        for stream, cutter in self._cutters.items():
            if rest := cutter.rest():
                on_output(stream, rest)


@dataclass
class _Died(Exception):
    """The driver is dead by the job's own doing, and the container with it."""

    code: int
    oom: bool


class Lost(ProviderError):
    """The container, or the way to it, is gone."""

    default_code = "CONTAINER_LOST"


def no_shell(image: str) -> ImageError:
    return ImageError(
        f"image {image} has no shell: loom needs `sh` in it to run a job's steps",
        hint="use the image's variant with a shell (often called debug or slim), or build one from it",
    )


def _unseen_workspace(request: SessionRequest, said: str) -> ProviderError | None:
    """What to tell when an engine `said` this because the workspace is not there, or not open, where it runs."""
    job, other_mode = request.job_id, "use --mount-mode ephemeral_volume"
    of_volume = "failed to mount local volume" in said and "no such file or directory" in said
    if of_volume or "bind source path does not exist" in said:
        return ProviderError(
            f"the engine does not see the workspace of job {job}: there is no {request.workspace} where it runs",
            hint=f"it runs on another machine, or sees other files: {other_mode}",
            code=UNSEEN,
        )
    if "chdir to cwd" in said and "permission denied" in said:
        return ProviderError(
            f"the engine may not look into the workspace of job {job}: root in its containers is another user here",
            hint=f"{other_mode}; a rootless engine is best used by the user whose it is",
            code=UNSEEN,
        )
    return None


def _no_overlay(request: SessionRequest, said: str) -> ProviderError | None:
    """What to tell when an engine `said` this because an overlay of the workspace can't be mounted where it runs."""
    if request.mount_mode is not MountMode.OVERLAY or "mount" not in said:
        return None
    if "overlay" not in said and "volume" not in said:
        return None
    return ProviderError(
        f"the engine can't mount an overlay of the workspace of job {request.job_id}: {said}",
        hint="use another `mount_mode`: auto and copy work everywhere where the engine sees this machine's files",
        code=mounts.UNAVAILABLE,
    )


def _no_user(request: SessionRequest, said: str) -> ImageError | None:
    """What to tell when an engine `said` this because the image does not know the user that the job is to run as."""
    if "unable to find user" not in said and "unable to find group" not in said:
        return None
    image = request.image
    name, asked = (image.name if image else None) or request.image_id, image.user if image else None
    return ImageError(
        f"image {name} can't run job {request.job_id} as {asked or 'the user that it names itself'}: {said}",
        hint="name a user that the image knows, or a number such as 1000:1000, in `user:`",
    )


def why_refused(request: SessionRequest, said: str) -> LoomError | None:
    """What to tell when an engine `said` that it can't make or start a job's container, where the reason is a known one."""
    asked_too_much = devices.refused(request, said) or refusals.refused(request, said)
    no_view = _unseen_workspace(request, said) or _no_overlay(request, said)
    return asked_too_much or no_view or _no_user(request, said)


class DockerSession:
    """Implements `providers.base.Session`; made by `DockerProvider.open` with an attached, started container."""

    def __init__(
        self,
        *,
        client: docker.DockerClient,
        request: SessionRequest,
        attachment: Attachment,
        facts: SessionFacts,
        mount: Mount,
        container_labels: Mapping[str, str],
        raw_environment: Mapping[str, str],
        on_output: OnOutput,
    ) -> None:
        self._client = client
        self._api: Any = client.api
        self._request = request
        self._attachment = attachment
        self._facts = facts
        self._mount = mount
        self._labels = container_labels
        # What the engine's JSON can't carry (bytes that are not UTF-8) is set anew in each step.
        self._raw_environment = raw_environment
        self._on_session_output = on_output
        self._handed_over = False
        self._handed_on: dict[str, str] = {}
        self._to_mask: list[bytes] = []
        self._number = 0
        self._ooms = self._refused_forks = 0
        self._started = False
        self._unfinished = False
        self._died = False
        self._resumed = 0
        self.uid: int | None = None
        self.gid: int | None = None
        self._ids = Ids()
        self.kept_until: float | None = None

    @property
    def facts(self) -> SessionFacts:
        return self._facts

    @property
    def container_id(self) -> str:
        return self._facts.container_id

    def start(self, cancel: Cancel, *, running: bool = False) -> None:
        """Start the container, unless it runs, and wait for the driver's first word. ImageError when the image can't run it.

        After StartFailed both this session and its attachment are of no use any more.
        """
        token = driver.new_token()
        # Before the start: the engine keeps it until the driver reads, which saves the way there and back.
        self._say(driver.program() + driver.hello(token))
        job = self._request.job_id
        try:
            if not running:
                self._api.start(self.container_id)
            self._started = True
        except Exception as error:
            said = explanation(error)
            if why := why_refused(self._request, said):
                raise why from error
            if "executable file" in said or ("exec: " in said and "no such file or directory" in said):
                raise no_shell(self._facts.image or self._facts.image_id) from error
            if failed := start_failed(error, f"starting the container of job {job}"):
                raise failed from error
            mine = ours(error, f"starting the container of job {job}")
            if mine is None:
                raise
            raise mine from error
        heard: list[bytes] = []

        def listen(stream: Stream, data: bytes) -> None:
            if sum(map(len, heard)) < 10_000:
                heard.append(data)
            self._on_session_output(stream, data)

        talk = _Conversation(token)
        unregister = cancel.on_request(self._attachment.wake)
        try:
            answered = self._converse(talk, listen, deadline=time.monotonic() + HELLO_S, cancel=cancel)
        except (Lost, _Died) as lost:
            self._why_it_did_not_start(b"".join(heard).decode("utf-8", "replace"), lost)
        finally:
            unregister()
        if not answered and cancel.requested:
            return
        if not answered:
            raise ProviderError(
                f"the container of job {self._request.job_id} started, but nothing in it answered within {HELLO_S:.0f} s",
                hint='an image\'s own `entrypoint` must end by running the command that it is given: exec "$@"',
            )
        uid, gid, ooms, refused_forks, users, groups, bash = str(talk.answer).split()
        self._facts = replace(self._facts, has_bash=bash == "bash")
        self._ooms, self._refused_forks = int(ooms), int(refused_forks)
        if uid.isdigit() and gid.isdigit():
            self.uid, self.gid = int(uid), int(gid)
            self._ids = Ids.read(users, groups)
            self._facts = replace(self._facts, user=f"{uid}:{gid}")

    def _why_it_did_not_start(self, said: str, lost: Lost | _Died) -> NoReturn:
        image = self._facts.image or self._facts.image_id
        if "exec sh failed" in said:
            if "Exec format error" in said:
                raise ImageError(
                    f"image {image} is built for another kind of processor than this machine's",
                    hint="choose another `image:`, or set its `platform:` and install the emulation for it",
                ) from lost
            raise no_shell(image) from lost
        if isinstance(lost, Lost) and not said.strip():
            raise lost
        reason = lost.message if isinstance(lost, Lost) else f"it ended with exit code {lost.code}"
        raise ProviderError(
            f"the container of job {self._request.job_id} did not start: {reason}"
            + (f"; it said: {said.strip()[-2000:]}" if said.strip() else ""),
        ) from lost

    # Steps

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        if cancel.wait(0):
            return Exit(code=130, ended=Ended.CANCELED)
        if self.kept_until is not None:
            raise ProviderError("the container is kept for inspection and runs no further steps")
        if self._died:
            raise Lost(f"a step of job {self._request.job_id} has ended its container; no other can run in it")
        if not self._handed_over:
            self._handed_over = True
            self._hand_over()
        self._number += 1
        talk = _Conversation(driver.new_token())
        line = driver.step(
            talk.token,
            script=command.script,
            environment={**self._raw_environment, **command.environment},
            shell=tuple(chosen(command.shell or self._request.shell, has_bash=self._facts.has_bash)),
            number=self._number,
        )
        deadline = None if command.timeout_s is None else time.monotonic() + command.timeout_s
        ended = Ended.EXITED
        unregister = cancel.on_request(self._attachment.wake)
        self._unfinished = True
        try:
            self._say(line)
            if not self._converse(talk, on_output, deadline=deadline, cancel=cancel):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                self._end_step(talk, on_output, cancel)
            self._say(driver.OK)
            self._unfinished = False
        except _Died as died:
            self._died = True
            if ended is Ended.EXITED and died.oom:
                ended = Ended.OOM_KILLED
            return Exit(code=died.code, ended=ended, ended_place=True)
        finally:
            unregister()
            talk.let_go(on_output)
        self._handed_on.update(handed_on(talk.env_lines))
        self._to_mask += [line for line in talk.mask_lines if line.strip()]
        code, ooms, refused_forks = (int(word) for word in str(talk.answer).split())
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

    def _hand_over(self) -> None:
        self._mount.hand_over(Owner(self.uid or 0, self.gid or 0), self._ids, self._as_root)

    def handed_on(self) -> Mapping[str, str]:
        return dict(self._handed_on)

    def to_mask(self) -> list[bytes]:
        found, self._to_mask = self._to_mask, []
        return found

    def _end_step(self, talk: _Conversation, on_output: OnOutput, cancel: Cancel) -> None:
        """TERM to everything the job started, time to end, KILL, and as the last resort the container's own end."""
        if not cancel.now:
            self._say(driver.TERM)
            grace = time.monotonic() + self._request.grace_s
            if self._converse(talk, on_output, deadline=grace, cancel=cancel, only_now=True):
                self._say(driver.KILL)  # the step ended in time; what it left in the background goes too
                return
        self._say(driver.KILL)
        if self._converse(talk, on_output, deadline=time.monotonic() + AFTER_KILL_S, cancel=None):
            return
        with translated("killing the container"):
            self._api.kill(self.container_id)
        raise _Died(code=137, oom=False)

    def _say(self, line: bytes) -> None:
        try:
            self._attachment.send(line)
        except OSError:
            pass  # the output's end, which is read next, tells what happened

    def _converse(
        self,
        talk: _Conversation,
        on_output: OnOutput,
        *,
        deadline: float | None,
        cancel: Cancel | None,
        only_now: bool = False,
    ) -> bool:
        """Pass output on until the answer is there; False at the deadline or when a cancel is asked for.

        `only_now`: only the second request counts. After False it can be taken up again.
        """
        while not talk.is_over():
            if cancel is not None and (cancel.now if only_now else cancel.requested):
                return False
            left = ASK_ENGINE_S if deadline is None else min(ASK_ENGINE_S, deadline - time.monotonic())
            if left <= 0:
                return False
            if (behind := self._attachment.behind_s) is not None:
                if behind >= BEHIND_S:
                    raise self._log_not_whole()
                left = min(left, BEHIND_S - behind)
            asked = time.monotonic()
            try:
                chunks = self._attachment.read(left)
            except OSError as error:
                self._resume_or_tell(error)
                continue
            for stream, data in chunks:
                talk.hear(stream, data, on_output)
            if self._attachment.at_end and not talk.is_over():
                self._resume_or_tell(None, lambda: talk.let_go(on_output))
            if not chunks and time.monotonic() - asked >= ASK_ENGINE_S:
                self._ask_engine()
        return True

    def _log_not_whole(self) -> Lost:
        return Lost(
            f"the connection to the container of job {self._request.job_id} was lost, and its log, out of which the"
            " output would be taken up again, lacks what it had printed before",
            hint="look for errors of the log in the engine's own log; a full disk of the engine is one",
        )

    def _ask_engine(self) -> None:
        """A step may be silent for hours; an engine may not."""
        with translated(f"asking the engine about job {self._request.job_id}, which has been silent"):
            retrying(lambda: self._api.get(f"{self._api.base_url}/_ping", timeout=ANSWER_S))

    def _resume_or_tell(self, error: OSError | None, let_go: Callable[[], None] = lambda: None) -> None:
        """The output ended before its time: go on reading it from the log when that is all that happened, or raise why.

        _Died when it was the job itself that ended the container.
        """
        job = self._request.job_id
        try:
            state = retrying(lambda: self._api.inspect_container(self.container_id))["State"]
        except Exception as broken:
            mine = ours(broken, f"the engine was lost while job {job} ran")
            if mine is None:
                raise
            if getattr(broken, "status_code", None) == 404:
                raise Lost(f"the container of job {job} was removed by someone else while it ran") from broken
            raise EngineUnavailable(
                mine.message, hint="see `docker info`; the job's container is removed at the next start of loom"
            ) from broken
        if state.get("Running"):
            self._resumed += 1
            if self._resumed > RESUMED_AT_MOST:
                reason = explanation(error) if error else "it was closed"
                raise Lost(f"the connection to the running container of job {job} is lost again and again: {reason}")
            self._attachment.resume()
            return
        let_go()
        code = int(state.get("ExitCode") or 0)
        if by := self._stopped_by_others():
            raise Lost(f"the container of job {job} was stopped from outside ({by}) while it ran, exit code {code}")
        if code == driver.INPUT_LOST_CODE:
            raise Lost(
                f"the connection to the container of job {job} was lost, and the container ended itself",
                hint="run it again; if that happens often, see the network on the way to the engine, or the log of sshd there",
            )
        if reason := state.get("Error"):
            raise Lost(f"the container of job {job} ended while it ran: {reason}")
        raise _Died(code=code or 137, oom=bool(state.get("OOMKilled")))

    def _stopped_by_others(self) -> str:
        try:
            filters = json.dumps({"container": [self.container_id], "event": ["kill", "stop"]})
            # Not by the SDK's own call, which waits for as long as the engine likes.
            answer = self._api.get(
                f"{self._api.base_url}/v{self._api.api_version}/events",
                params={"since": 1, "until": int(time.time()) + 1, "filters": filters},
                timeout=CALL_S,
            )
            answer.raise_for_status()
            events = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
        except Exception as error:
            if ours(error, "") is None:
                raise
            return ""  # an engine that can't tell: the exit code has to do
        if not events:
            return ""
        signal = events[0].get("Actor", {}).get("Attributes", {}).get("signal")
        return f"{events[0].get('Action', 'kill')}, signal {signal}" if signal else str(events[0].get("Action"))

    # Files

    def put_secret(self, name: str, content: bytes) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise RequestError(f"{name!r} can't be the name of a secret's file")
        path = f"{driver.DIRECTORY}/secret.{name}"
        talk = _Conversation(driver.new_token())
        self._say(driver.put(talk.token, path, content))
        try:
            answered = self._converse(talk, self._on_session_output, deadline=time.monotonic() + HELLO_S, cancel=None)
        except _Died as died:
            raise Lost(f"the container of job {self._request.job_id} has ended, exit code {died.code}") from died
        if not answered or talk.answer != "0":
            raise ProviderError(f"the secret {name} could not be put into the container of job {self._request.job_id}")
        return path

    def settle(self) -> None:
        if self._handed_over:
            self._mount.take_back(self._as_root)

    def workspace_view(self) -> Path | None:
        return self._mount.view()

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        return self._mount.get_archive(paths, on_skipped)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        self._mount.put_archive(archive)

    def changes(self) -> Sequence[Change] | None:
        return self._mount.changes(self._as_root)

    def keep(self, expires_at: float) -> None:
        talk = _Conversation(driver.new_token())
        self._say(driver.keep(talk.token))
        try:
            answered = self._converse(talk, self._on_session_output, deadline=time.monotonic() + HELLO_S, cancel=None)
        except _Died as died:
            raise Lost(f"the container of job {self._request.job_id} has ended, exit code {died.code}") from died
        if not answered:
            raise ProviderError(
                f"the container of job {self._request.job_id} could not be kept: its driver does not answer"
            )
        if self._handed_over:  # it was taken back for what was read; whoever goes on here goes on as the job's user
            self._hand_over()
        name = kept_name(self._facts.container_name, expires_at)
        if (
            name != self._facts.container_name
        ):  # kept again within the second: the engine refuses a container's own name
            with translated("keeping the container"):
                self._api.rename(self.container_id, name)
        self._facts = replace(self._facts, container_name=name)
        self.kept_until = expires_at

    # The end

    def disconnect(self) -> None:
        """Let go of a container that did not start."""
        self._attachment.close()

    def leave(self) -> list[str]:
        """End everything in the container; what it still prints goes to the session's `on_output`. What went wrong."""
        problems = []
        if self.kept_until is None:
            self._end_everything()
            if self._handed_over:
                try:
                    self._mount.take_back(self._as_root)
                except LoomError as error:
                    problems.append(str(error))
            # Root's kill reaches everything; after another user's, the container's end has to be waited for (30 ms).
            if self.uid != 0:
                self._drain()
        self._attachment.close()
        return problems

    def _as_root(self, line: str) -> int:
        """Run a line of shell as root with the workspace in its place: in the job's container, or beside it when it has ended."""
        api = self._api
        with translated(f"changing the owner of files for job {self._request.job_id}"):
            try:
                made = api.exec_create(self.container_id, ["sh", "-c", line], user="0:0", workdir="/")
                command = Hijacked.of_exec(self._client, made["Id"])
                try:
                    ended = command.ends_within(LONG_S)
                finally:
                    command.close()
                if not ended:
                    raise ProviderError(
                        f"the owner of files of job {self._request.job_id} was not changed in {LONG_S} s"
                    )
                return int(api.exec_inspect(made["Id"])["ExitCode"] or 0)
            except Exception as error:
                # The engine's own error, or one of ours that was made of it.
                if not {getattr(one, "status_code", None) for one in (error, error.__cause__)} & {404, 409}:
                    raise
            image = self._facts.image_id or self._facts.image
            config = api.create_container_config(
                image=image,
                command=None,
                entrypoint=["sh", "-c", line],
                user="0:0",
                working_dir="/",
                labels={**self._labels, labels.ROLE: "helper"},
                host_config=api.create_host_config(  # the image's own programs, with no more than this takes
                    mounts=self._mount.spec()[:1], network_mode="none", read_only=True, **hardening.JOB
                ),
            )
            helper = api.create_container_from_config(config, f"{self._facts.container_name}-helper")["Id"]
            try:
                api.start(helper)
                return int(api.wait(helper, timeout=LONG_S)["StatusCode"])
            finally:
                remove_container(self._client, helper)

    def _end_everything(self) -> None:
        if self._attachment.at_end or self._died or not self._started:
            return
        talk = _Conversation(driver.new_token())
        try:
            if self._unfinished:
                # What it printed could not be recorded, say: the rest of that is nobody's.
                self._on_session_output = lambda *_: None
                self._say(driver.KILL + driver.OK)
            self._say(driver.end(talk.token))
            self._converse(talk, self._on_session_output, deadline=time.monotonic() + LEAVE_S, cancel=None)
            talk.let_go(self._on_session_output)
        except (_Died, LoomError):
            pass  # it is over already, or is removed by force next

    def _drain(self) -> None:
        self._attachment.close_input()
        if not self._started:
            return
        try:
            for stream, data in self._attachment.drain(LEAVE_S):
                self._on_session_output(stream, data)
        except (OSError, LoomError):
            pass
