"""End a command in a container, with everything that it started, in any image with a shell."""

from __future__ import annotations

import contextlib
import queue
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.errors import ProviderError
from loom.providers.docker.attach import Hijacked
from loom.providers.docker.errors import translated

if TYPE_CHECKING:
    import docker

_SIGNAL_WITHIN_S = 10.0
"""Time limit for the last words to take effect."""
_OK = "ok"
# Writes its process id to a file, then becomes the command.
BECOME = 'f=$1; shift; { printf "%s\\n" "$$" >"$f"; } 2>/dev/null; exec "$@"'


@cache
def _program() -> str:
    lines = (Path(__file__).parent / "watch.sh").read_text().splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


class Watcher:
    """A second process beside a command in its container, connected to loom: it also ends the command when loom dies.

    It starts with the first signal, else after `after_s`, so that a short command costs nothing. A thread talks to it:
    the engine may not answer while the command's output blocks.
    """

    def __init__(
        self, client: docker.DockerClient, container_id: str, user: str, pid_file: str, *, after_s: float
    ) -> None:
        self._client = client
        self._container_id = container_id
        self._user = user
        self._pid_file = pid_file
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._talk, args=(after_s,), name="end of a command", daemon=True)
        self._thread.start()

    def signal(self, name: str) -> None:
        """Send a signal (`TERM`) to the command and everything that it started; KILL leaves none of them."""
        self._words.put(name)

    def look(self) -> None:
        """After a signal: kill what is left if the command itself has ended."""
        self._words.put("rest")

    def close(self) -> None:
        """Wait for the signals to take effect. Whatever still runs stays."""
        self._words.put(_OK)
        self._thread.join(2 * _SIGNAL_WITHIN_S)

    def _talk(self, after_s: float) -> None:
        try:
            word = self._words.get(timeout=after_s)
        except queue.Empty:
            word = ""
        if word == _OK:
            return
        # A command that has ended, or a container that is gone, needs no signal.
        with contextlib.suppress(ProviderError, OSError), translated("ending the command"):
            connection = self._connect()
            try:
                while True:
                    connection.socket.sendall(f"{word}\n".encode() if word else b"")  # no limit: the socket has one
                    if word == _OK:
                        break
                    word = self._words.get()  # no limit: as long as the command runs; `close` ends it
                connection.ends_within(_SIGNAL_WITHIN_S)
            finally:
                connection.close()

    def _connect(self) -> Hijacked:
        api: Any = self._client.api
        command = ["sh", "-c", _program(), "loom", self._pid_file]
        made = api.exec_create(self._container_id, command, stdin=True, user=self._user, workdir="/")
        connection = Hijacked.of_exec(self._client, made["Id"])
        connection.socket.settimeout(_SIGNAL_WITHIN_S)
        return connection
