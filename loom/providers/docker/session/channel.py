"""Ask the engine about a job's container: whether it runs, and why it ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from loom.errors import EngineUnavailable
from loom.providers.docker.engine.client import ANSWER_S as CALL_S
from loom.providers.docker.engine.errors import explanation, to_loom_error, translated
from loom.providers.docker.engine.retries import RESUMED_AT_MOST, retrying
from loom.providers.docker.session.attach import Attachment
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import Attached, Channel, ConnectionLost, Died

if TYPE_CHECKING:
    import docker

BEHIND_S = 15.0
"""How long a container's log may be silent before it reaches the point of the loss."""
ANSWER_S = 15.0
"""How long the engine may take to answer the check of a silent step."""


def channel_to(client: docker.DockerClient, attachment: Attachment, container_id: str, job_id: str) -> Channel:
    return Channel(attachment, EngineContainer(client, container_id, job_id), job_id)


class EngineContainer:
    """Implements `providers.channel.Container`."""

    def __init__(self, client: docker.DockerClient, container_id: str, job_id: str) -> None:
        self._api: Any = client.api
        self._container_id = container_id
        self._job_id = job_id
        self._resumed = 0

    def check(self, attached: Attached) -> float | None:
        behind = cast("Attachment", attached).behind_s
        if behind is None:
            return None
        if behind >= BEHIND_S:
            raise self._log_not_whole()
        return BEHIND_S - behind

    def kill(self) -> None:
        with translated("killing the container"):
            self._api.kill(self._container_id)

    def _log_not_whole(self) -> ConnectionLost:
        return ConnectionLost(
            f"the connection to the container of job {self._job_id} was lost, and its log, out of which the"
            " output would be taken up again, lacks what it had printed before",
            hint="look for errors of the log in the engine's own log; a full disk of the engine is one",
        )

    def ask(self) -> None:
        with translated(f"asking the engine about job {self._job_id}, which has been silent"):
            retrying(lambda: self._api.get(f"{self._api.base_url}/_ping", timeout=ANSWER_S))

    def resume(self, attached: Attached, error: OSError | None, release: Callable[[], None]) -> None:
        state = self._state()
        if state.get("Running"):
            self._resumed += 1
            if self._resumed > RESUMED_AT_MOST:
                reason = explanation(error) if error else "it was closed"
                raise ConnectionLost(
                    f"the connection to the running container of job {self._job_id} is lost again and again: {reason}"
                )
            cast("Attachment", attached).resume()
            return
        release()
        self._tell(state)

    def _tell(self, state: dict[str, Any]) -> None:
        """Raise the reason for the end of the container."""
        code = int(state.get("ExitCode") or 0)
        if by := self._stopped_by_others():
            raise ConnectionLost(
                f"the container of job {self._job_id} was stopped from outside ({by}) while it ran, exit code {code}"
            )
        if code == driver.INPUT_LOST_CODE:
            raise ConnectionLost(
                f"the connection to the container of job {self._job_id} was lost, and the container ended itself",
                hint="run it again; if that happens often, see the network on the way to the engine",
            )
        if why := state.get("Error"):
            raise ConnectionLost(f"the container of job {self._job_id} ended while it ran: {why}")
        raise Died(code or 137, oom=bool(state.get("OOMKilled")))

    def _state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = retrying(lambda: self._api.inspect_container(self._container_id))["State"]
        except Exception as broken:
            converted = to_loom_error(broken, f"the engine was lost while job {self._job_id} ran")
            if converted is None:
                raise
            if getattr(broken, "status_code", None) == 404:
                raise ConnectionLost(
                    f"the container of job {self._job_id} was removed by someone else while it ran"
                ) from broken
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
