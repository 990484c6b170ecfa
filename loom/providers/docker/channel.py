"""Send commands to a container's driver and receive answers, over a connection that may break and be resumed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, LoomError, ProviderError
from loom.providers.docker import driver
from loom.providers.docker.attach import Attachment
from loom.providers.docker.client import ANSWER_S as CALL_S
from loom.providers.docker.errors import explanation, to_loom_error, translated
from loom.providers.docker.retries import RESUMED_AT_MOST, retrying
from loom.status import OnOutput, Stream

if TYPE_CHECKING:
    import docker

BEHIND_S = 15.0
"""How long a container's log may be silent before it reaches the point of the loss."""
ASK_ENGINE_S = 60.0
"""How often to check a silent engine."""
ANSWER_S = 15.0
"""How long the engine may take to answer that check."""


class Talk:
    """One command to the driver: its output so far, without marks, and its answer, which arrives on both streams."""

    def __init__(self) -> None:
        self.token = driver.new_token()
        self.answer: str | None = None
        self.env_lines: list[bytes] = []
        self.mask_lines: list[bytes] = []
        self._cutters: dict[Stream, driver.Cutter] = {
            "stdout": driver.Cutter(self.token),
            "stderr": driver.Cutter(self.token),
        }
        self._unanswered: set[Stream] = {"stdout", "stderr"}

    def is_over(self) -> bool:
        return not self._unanswered

    def feed(self, stream: Stream, data: bytes, on_output: OnOutput) -> None:
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
        """Pass on the beginning of an incomplete mark."""
        for stream, cutter in self._cutters.items():
            if rest := cutter.rest():
                on_output(stream, rest)


class Died(Exception):
    """The job itself ended the driver, and so the container."""

    def __init__(self, code: int, *, oom: bool) -> None:
        super().__init__(code)
        self.code = code
        self.oom = oom


class Lost(ProviderError):
    """The container, or the connection to it, is gone."""

    default_code = "CONTAINER_LOST"


class Channel:
    """The connection to one container's driver. One command at a time."""

    def __init__(self, client: docker.DockerClient, attachment: Attachment, container_id: str, job_id: str) -> None:
        self._api: Any = client.api
        self.attachment = attachment
        self._container_id = container_id
        self._job_id = job_id
        self._resumed = 0

    def send(self, line: bytes) -> None:
        try:
            self.attachment.send(line)
        except OSError:
            pass  # the end of the output has the reason

    def ask(self, line: Callable[[bytes], bytes], on_output: OnOutput, limit_s: float) -> str | None:
        """Return the driver's answer to a command, which `line` builds with a token; None on timeout. Lost when the
        container has ended.
        """
        talk = Talk()
        self.send(line(talk.token))
        try:
            answered = self.listen(talk, on_output, deadline=time.monotonic() + limit_s, cancel=None)
        except Died as died:
            raise Lost(f"the container of job {self._job_id} has ended, exit code {died.code}") from died
        return talk.answer if answered else None

    def listen(
        self,
        talk: Talk,
        on_output: OnOutput,
        *,
        deadline: float | None,
        cancel: Cancel | None,
        only_now: bool = False,
    ) -> bool:
        """Pass output on until the answer arrives; False at the deadline or on a cancel.

        `only_now`: only the second cancel request counts. After False, it can be called again. Died, Lost and
        EngineUnavailable mean that no answer will come.
        """
        while not talk.is_over():
            if cancel is not None and (cancel.now if only_now else cancel.requested):
                return False
            left = ASK_ENGINE_S if deadline is None else min(ASK_ENGINE_S, deadline - time.monotonic())
            if left <= 0:
                return False
            if (behind := self.attachment.behind_s) is not None:
                if behind >= BEHIND_S:
                    raise self._log_not_whole()
                left = min(left, BEHIND_S - behind)
            asked = time.monotonic()
            try:
                chunks = self.attachment.read(left)
            except OSError as error:
                self._resume_or_tell(error)
                continue
            for stream, data in chunks:
                talk.feed(stream, data, on_output)
            if self.attachment.at_end and not talk.is_over():
                self._resume_or_tell(None, lambda: talk.let_go(on_output))
            if not chunks and time.monotonic() - asked >= ASK_ENGINE_S:
                self._ask_engine()
        return True

    def drain(self, on_output: OnOutput, limit_s: float) -> None:
        """Close the input and pass on the remaining output that arrives in time."""
        self.attachment.close_input()
        try:
            for stream, data in self.attachment.drain(limit_s):
                on_output(stream, data)
        except (OSError, LoomError):
            pass

    def kill(self) -> None:
        with translated("killing the container"):
            self._api.kill(self._container_id)

    def _log_not_whole(self) -> Lost:
        return Lost(
            f"the connection to the container of job {self._job_id} was lost, and its log, out of which the"
            " output would be taken up again, lacks what it had printed before",
            hint="look for errors of the log in the engine's own log; a full disk of the engine is one",
        )

    def _ask_engine(self) -> None:
        """Check the engine during a silent step: steps may be silent for hours, engines may not."""
        with translated(f"asking the engine about job {self._job_id}, which has been silent"):
            retrying(lambda: self._api.get(f"{self._api.base_url}/_ping", timeout=ANSWER_S))

    def _resume_or_tell(self, error: OSError | None, let_go: Callable[[], None] = lambda: None) -> None:
        """Handle an early end of output: resume from the log if the container runs, else raise the reason.

        Died if the job itself ended the container.
        """
        state = self._state()
        if state.get("Running"):
            self._resumed += 1
            if self._resumed > RESUMED_AT_MOST:
                reason = explanation(error) if error else "it was closed"
                raise Lost(
                    f"the connection to the running container of job {self._job_id} is lost again and again: {reason}"
                )
            self.attachment.resume()
            return
        let_go()
        code = int(state.get("ExitCode") or 0)
        if by := self._stopped_by_others():
            raise Lost(
                f"the container of job {self._job_id} was stopped from outside ({by}) while it ran, exit code {code}"
            )
        if code == driver.INPUT_LOST_CODE:
            raise Lost(
                f"the connection to the container of job {self._job_id} was lost, and the container ended itself",
                hint="run it again; if that happens often, see the network on the way to the engine, or the log of sshd there",
            )
        if why := state.get("Error"):
            raise Lost(f"the container of job {self._job_id} ended while it ran: {why}")
        raise Died(code or 137, oom=bool(state.get("OOMKilled")))

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = retrying(lambda: self._api.inspect_container(self._container_id))["State"]
        except Exception as broken:
            converted = to_loom_error(broken, f"the engine was lost while job {self._job_id} ran")
            if converted is None:
                raise
            if getattr(broken, "status_code", None) == 404:
                raise Lost(f"the container of job {self._job_id} was removed by someone else while it ran") from broken
            raise EngineUnavailable(
                converted.message, hint="see `docker info`; the job's container is removed at the next start of loom"
            ) from broken
        return state

    def _stopped_by_others(self) -> str:
        try:
            filters = json.dumps({"container": [self._container_id], "event": ["kill", "stop"]})
            # The SDK's own call has no time limit.
            answer = self._api.get(
                f"{self._api.base_url}/v{self._api.api_version}/events",
                params={"since": 1, "until": int(time.time()) + 1, "filters": filters},
                timeout=CALL_S,
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
