"""Commands in a container, over a WebSocket: its streams are channels, the end of each is known, and so is its exit code.

Small ones of loom (`run`), and those of a person beside the job's driver (`PodInside`).
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from websocket import WebSocketException

from loom.errors import EngineUnavailable, LoomError, ProviderError
from loom.providers.driver import protocol as driver
from loom.providers.driver.steps import exports
from loom.providers.inside import BECOME, CommandsInside, Watcher, new_path
from loom.providers.kubernetes.cluster.client import CHANNELS, Cluster, Json
from loom.providers.kubernetes.pod.spec import JOB
from loom.status import Stream
from loom.util.within import readable

_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _END_OF = b"\x00", 1, 2, 3, b"\x04", b"\xff"
_PIECE = 128 * 1024
_BINARY, _CLOSE, _PING = 0x2, 0x8, 0x9
_LOOK_S = 2.0
# $1: the directory, $2: a file with `export` lines, which goes; then the command.
_ENTER = 'cd "$1" || exit 126; [ -z "$2" ] || { . "$2"; rm -f "$2"; }; shift 2; exec "$@"'
SILENT_S = 60.0
"""The time that a transfer may stand still."""


class Broken(OSError):
    """The connection ended before the command did."""


class Exec:
    """A command in a container. One thread reads; any may send."""

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        container: str,
        command: Sequence[str],
        *,
        stdin: bool = False,
        tty: bool = False,
    ) -> None:
        self._socket: Any = cluster.websocket(pod, container, command, stdin=stdin, tty=tty)
        self._socket.settimeout(SILENT_S)
        self._sending = threading.Lock()
        self._status: Json | None = None
        self.ended = False
        """The command and its output have ended."""

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def pending(self) -> bool:
        """Return whether data was received that a poll of the descriptor does not show."""
        pending = getattr(self._socket.sock, "pending", None)
        return bool(self._socket.frame_buffer.recv_buffer) or bool(pending and pending())

    def ready(self, timeout_s: float, *others: int) -> list[int]:
        """Wait until there is something to read here or from the other descriptors; return those."""
        if self.pending():
            return [self.fileno()]
        return readable((self.fileno(), *others), timeout_s)

    def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output; None for a message without one. Raises Broken and TimeoutError."""
        try:
            opcode, frame = self._socket.recv_data_frame(True)
        except WebSocketException as error:
            raise Broken(str(error)) from error
        data = bytes(frame.data)
        if opcode == _CLOSE:
            if self._status is None:
                raise Broken("it was closed")
            self.ended = True
        if opcode in (_CLOSE, _PING) or not data:
            return None
        channel = data[0]
        if channel == _STATUS:
            self._status = json.loads(data[1:])
        elif channel in (_STDOUT, _STDERR) and len(data) > 1:
            return ("stdout" if channel == _STDOUT else "stderr"), data[1:]
        return None

    @property
    def code(self) -> int:
        """The exit code, after the end. ProviderError when the command could not be started."""
        status = self._status or {}
        if status.get("status") == "Success":
            return 0
        for cause in (status.get("details") or {}).get("causes") or ():
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        raise ProviderError(f"the command could not be run: {status.get('message') or 'the connection was lost'}")

    def send(self, data: bytes) -> None:
        """Send to its standard input. OSError when the connection is broken."""
        self._frame(_STDIN, data)

    def end_input(self) -> None:
        """Close its standard input. Clusters before 1.30 have no message for that: the command sees no end."""
        if self._socket.subprotocol == CHANNELS[0]:
            self._frame(_END_OF, _STDIN)

    def resize(self, height: int, width: int) -> None:
        self._frame(_RESIZE, json.dumps({"Height": height, "Width": width}).encode())

    def _frame(self, channel: bytes, data: bytes) -> None:
        view = memoryview(data)
        with self._sending:
            try:
                while view:
                    self._socket.send(channel + view[:_PIECE], opcode=_BINARY)
                    view = view[_PIECE:]
            except WebSocketException as error:
                raise Broken(str(error)) from error

    def feed(self, content: Iterable[bytes]) -> threading.Thread:
        """Send from a thread, so that the output is read meanwhile. A command that ends early takes no more."""

        def send() -> None:
            with contextlib.suppress(OSError):
                for piece in content:
                    self.send(piece)

        thread = threading.Thread(target=send, name="input of a command", daemon=True)
        thread.start()
        return thread

    def output(
        self, *, silent_s: float = SILENT_S, is_vain: Callable[[float], bool] = lambda silent_s: False
    ) -> Iterator[tuple[Stream, bytes]]:
        """Yield everything up to the command's end. Broken when the connection is, TimeoutError after so long a silence.

        `is_vain` is asked in a silence, with its seconds: whether to wait no longer.
        """
        heard = time.monotonic()
        while not self.ended:
            if self.ready(_LOOK_S):
                heard = time.monotonic()
                if (piece := self.read()) is not None:
                    yield piece
            elif (silent := time.monotonic() - heard) > silent_s or is_vain(silent):
                raise TimeoutError(f"silent for {silent:.0f} s")

    def abort(self) -> None:
        """Break the connection, from any thread: a concurrent `read` returns."""
        with contextlib.suppress(OSError, AttributeError, TypeError):  # closed before
            # Not the TLS socket's own method, which pulls its state away from under the reader.
            socket.socket.shutdown(self._socket.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        self.abort()
        with contextlib.suppress(OSError, WebSocketException):
            self._socket.shutdown()


def run(
    cluster: Cluster,
    pod: str,
    container: str,
    command: Sequence[str],
    *,
    stdin: Callable[[], Iterable[bytes]] | None = None,
    silent_s: float = SILENT_S,
    is_vain: Callable[[float], bool] = lambda silent_s: False,
    doing: str,
) -> tuple[int, bytes, bytes]:
    """Run a small command; return its exit code and output. Repeats nothing. EngineUnavailable when the connection breaks."""
    out: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
    try:
        ran = Exec(cluster, pod, container, command, stdin=stdin is not None)
        try:
            if stdin is not None:
                ran.feed(stdin())
            for stream, data in ran.output(silent_s=silent_s, is_vain=is_vain):
                out[stream] += data
        finally:
            ran.close()
    except OSError as error:
        raise EngineUnavailable(
            f"{doing}: the connection to the pod was lost: {error}", code="CLUSTER_UNAVAILABLE"
        ) from error
    return ran.code, out["stdout"], out["stderr"]


class PodInside(CommandsInside):
    """Commands in the job's container of a running pod."""

    cluster: Cluster
    pod: str
    workdir: str

    def script(self, program: bytes) -> tuple[int, str]:
        code, out, err = run(
            self.cluster, self.pod, JOB, ["sh"], stdin=lambda: [program], doing="running a script in the pod"
        )
        return code, (out + err).decode("utf-8", "replace").strip()

    def begin(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> tuple[Exec, Watcher]:
        pid_file, variables = new_path("exec"), ""
        if self.environment:
            variables = new_path("variables")
            named = {name: value for name, value in self.environment.items() if name.isidentifier() and name.isascii()}
            self.write({variables: exports(named)})
        entered = driver.entering(command, dict.fromkeys(self.environment, ""))
        # A busy kubelet and its containerd sometimes lose the end of an empty input.
        enter = _ENTER if stdin else f"{_ENTER} </dev/null"
        words = ["sh", "-c", BECOME, "loom", pid_file, "sh", "-c", enter, "loom", self.workdir, variables, *entered]
        watcher = Watcher(lambda program: Exec(self.cluster, self.pod, JOB, program, stdin=True), pid_file)
        return Exec(self.cluster, self.pod, JOB, words, stdin=stdin, tty=tty), watcher

    def lost(self, error: OSError) -> LoomError | None:
        if not isinstance(error, Broken):
            return None
        return EngineUnavailable(
            f"the connection to the pod {self.pod} was lost: {error}",
            hint="the command may still run there",
            code="CLUSTER_UNAVAILABLE",
        )
