"""Run commands in a job's container beside its driver."""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from loom.errors import ProviderError
from loom.providers.docker.engine.client import EngineClient, EngineSocket
from loom.providers.docker.engine.errors import explanation, translated
from loom.providers.docker.engine.retries import asked, retrying
from loom.providers.docker.session.attach import Chunk, Demultiplexer
from loom.providers.driver import protocol as driver
from loom.providers.inside import BECOME, CommandsInside, Watcher, new_path
from loom.util.within import readable, wait_until

_READ = 64 * 1024
_LOOK_S = 0.25
_CODE_WITHIN_S = 60.0
_NEVER_TYPED = ",".join(["ctrl-@"] * 16)
"""Keys to detach with: nobody could attach again, and the engine would hold back each ^P until the next key."""


class EngineCommand:
    """Implements `inside.RunningCommand`: a command in a running container."""

    def __init__(
        self,
        client: EngineClient,
        container_id: str,
        command: Sequence[str],
        *,
        user: str | None = None,
        workdir: str = "/",
        environment: Sequence[str] = (),
        stdin: bool = False,
        tty: bool = False,
    ) -> None:
        self._api = client.api
        given = {"user": user or "", "workdir": workdir, "environment": list(environment), "stdin": stdin, "tty": tty}
        with translated("starting a command in the container"):
            made = retrying(
                lambda: self._api.exec_create(container_id, list(command), detach_keys=_NEVER_TYPED, **given)
            )
            self._exec_id = str(made["Id"])
            self._connection: EngineSocket = self._api.exec_start(self._exec_id, tty=tty, socket=True)
        self._connection.settimeout(60.0)
        self._frames = None if tty else Demultiplexer()
        self._pieces: deque[Chunk] = deque()
        self._silent = False
        """Its output has ended; a command may close it and go on."""
        self._pause_s = 0.005

    def fileno(self) -> int:
        return self._connection.fileno()

    def ready(self, timeout_s: float, *others: int) -> list[int]:
        if self._pieces or self._connection.pending():
            return [self.fileno()]
        if self._silent:
            self._pause_s = min(2 * self._pause_s, _LOOK_S)
            return readable(others, min(timeout_s, self._pause_s))
        return readable((self.fileno(), *others), timeout_s)

    def read(self) -> Chunk | None:
        if not self._pieces and not self._silent:
            data = self._connection.recv(_READ)  # no limit: the data is there
            if self._frames is None:
                self._pieces.extend([("stdout", data)] if data else ())
            elif data:
                self._pieces.extend(self._frames.feed(data))
            else:
                self._frames.end()
            self._silent = not data
        return self._pieces.popleft() if self._pieces else None

    @property
    def ended(self) -> bool:
        return self._silent and not self._pieces and not self._inspect()["Running"]

    @property
    def code(self) -> int:
        told = wait_until(self._codes, limit_s=_CODE_WITHIN_S, every_s=0.05)
        if not told:
            raise ProviderError(f"the engine has not told the command's exit code within {_CODE_WITHIN_S:.0f} s")
        return told[0]

    def _codes(self) -> Sequence[int]:
        """Return the exit code; nothing as long as the engine does not know it."""
        found = self._inspect()
        return () if found["Running"] or found["ExitCode"] is None else (int(found["ExitCode"]),)

    def _inspect(self) -> Mapping[str, Any]:
        return asked("asking how the command ended", lambda: self._api.exec_inspect(self._exec_id))

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)  # no limit: the connection has one

    def end_input(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)

    def resize(self, height: int, width: int) -> None:
        try:
            self._api.exec_resize(self._exec_id, height=height, width=width)
        except Exception as error:
            # Not started yet, or finished: both harmless.
            if getattr(error, "status_code", None) is None:
                raise ProviderError(f"the terminal's size could not be set: {explanation(error)}") from error

    def close(self) -> None:
        self._connection.close()

    def result(self, limit_s: float = math.inf) -> tuple[int, str]:
        """Read to the end, and close; return the exit code and the output. TimeoutError after so long."""
        output, deadline = b"", time.monotonic() + limit_s
        try:
            while not self.ended:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError
                if self.ready(min(_CODE_WITHIN_S, left)) and (piece := self.read()) is not None:
                    output += piece[1]
            return self.code, output.decode("utf-8", "replace").strip()
        finally:
            self.close()


class ContainerInside(CommandsInside):
    """Commands in a running container."""

    client: EngineClient
    container_id: str
    workdir: str
    user: str | None = None
    """None: the container's own, which the steps' is where no entrypoint of the workflow changes it."""

    def begin(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> tuple[EngineCommand, Watcher]:
        pid_file = new_path("exec")
        plain = partial(EngineCommand, self.client, self.container_id, user=self.user)
        watcher = Watcher(lambda program: plain(program, stdin=True), pid_file)
        return self._run(["sh", "-c", BECOME, "loom", pid_file, *command], stdin=stdin, tty=tty), watcher

    def script(self, program: bytes) -> tuple[int, str]:
        ran = self._run(["sh"], stdin=True)
        ran.send(program)
        ran.end_input()
        return ran.result()

    def _run(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> EngineCommand:
        return EngineCommand(
            self.client,
            self.container_id,
            driver.entering(command, self.environment),
            user=self.user,
            workdir=self.workdir,
            environment=[f"{name}={value}" for name, value in self.environment.items() if driver.is_text(value)],
            stdin=stdin,
            tty=tty,
        )
