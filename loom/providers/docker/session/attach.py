"""A container's standard input and output as two connections to the engine, read without loss or much copying.

They are separate: the end of input orders the container to stop, while lost output can be resumed from the container's
log.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import LoomError, ProviderError
from loom.providers.docker.engine.client import ANSWER_S, EngineClient, EngineSocket
from loom.providers.docker.engine.errors import to_loom_error, translated
from loom.providers.docker.engine.retries import start_failed
from loom.providers.driver.channel import ConnectionLost
from loom.status import OnOutput, Stream

Chunk = tuple[Stream, bytes]

_READ = 256 * 1024
_SOON_S = 0.001
_FLOOD_FROM = 20
_GATHER_S = 0.0004
BEHIND_S = 15.0
"""The time that a log may be silent before it reaches the point of the loss: an engine with a full disk could not write it."""
_HEADER = struct.Struct(">BxxxL")
_STREAMS: dict[int, Stream] = {1: "stdout", 2: "stderr"}


class Demultiplexer:
    """Remove the engine's eight-byte frame headers from a byte stream; merge adjacent frames of one stream.

    ProviderError at a frame that is the engine's own message, after all output that stands before it: from the next
    `feed`, or from `end`.
    """

    def __init__(self) -> None:
        self._header = b""
        """An incomplete header."""
        self._kind = 1
        self._left = 0

    def feed(self, data: bytes) -> list[Chunk]:
        if self._header:
            data, self._header = self._header + data, b""
        chunks: list[Chunk] = []
        pieces: list[bytes] = []
        take, header = pieces.append, _HEADER.unpack_from
        current, left = self._kind, self._left
        size = len(data)
        at = min(left, size)
        if at:
            take(data[:at])
            left -= at
        # One iteration per frame, often a single line: this is the hot path.
        last_header = size - _HEADER.size
        while at <= last_header:
            kind, left = header(data, at)
            at += _HEADER.size
            if kind != current:
                if kind not in _STREAMS:
                    if chunks or pieces:
                        at, left = at - _HEADER.size, 0
                        break
                    text = data[at:].decode("utf-8", "replace").strip()
                    raise ProviderError(
                        f"the engine could not continue the container's output: {text or f'frame {kind}'}"
                    )
                if pieces:
                    chunks.append((_STREAMS[current], b"".join(pieces)))
                    pieces.clear()
                current = kind
            end = at + left
            take(data[at:end])
            if end > size:
                left = end - size
                at = size
                break
            at, left = end, 0
        if at < size:
            self._header = data[at:]
        self._kind, self._left = current, left
        if pieces:
            chunks.append((_STREAMS[current], b"".join(pieces)))
        return chunks

    def end(self) -> None:
        """Note the end of the stream."""
        self.feed(b"")


def follow(connection: EngineSocket, on_output: OnOutput) -> None:
    """Pass everything on up to the end. ProviderError for a message of the engine's own."""
    frames = Demultiplexer()
    while data := connection.recv(_READ):  # no limit: a program may be silent; the caller closes the connection
        for stream, chunk in frames.feed(data):
            on_output(stream, chunk)
    frames.end()


def attached(client: EngineClient, container_id: str, *what: Literal["stdin", "stdout", "stderr"]) -> EngineSocket:
    """Connect to streams of a container."""
    doing = "attaching to the container"
    try:
        connection: EngineSocket = client.api.attach_socket(container_id, {"stream": 1} | dict.fromkeys(what, 1))
    except Exception as error:
        # Never retried: once the engine loses an input, it is closed for good.
        raise start_failed(error, doing) or to_loom_error(error, doing) or error from error
    connection.settimeout(None)
    return connection


class _Position(Struct):
    """A position in one stream: whole lines, and bytes after the last one. The log has the same lines."""

    lines: int = 0
    partial: int = 0

    def advance(self, data: bytes) -> None:
        lines = data.count(b"\n")
        if lines:
            self.lines += lines
            self.partial = len(data) - data.rfind(b"\n") - 1
        else:
            self.partial += len(data)

    def skip(self, data: bytes) -> bytes:
        """Go back by what the stream has again; return what follows the position that it had."""
        at = 0
        while self.lines:
            end = data.find(b"\n", at)
            if end < 0:
                return b""
            at = end + 1
            self.lines -= 1
        take = min(self.partial, len(data) - at)
        self.partial -= take
        return data[at + take :]


class LogFollower:
    """Follow a container's log from its beginning, as a pollable socket: the engine offers no raw connection for logs."""

    def __init__(self, client: EngineClient, container_id: str) -> None:
        self._api = client.api
        self._url = f"{self._api.base_url}/v{self._api.api_version}/containers/{container_id}/logs"
        self._response: Any = None
        self.refused: LoomError | None = None
        """The reason why the engine has no log."""
        self._reader, self._writer = socket.socketpair()
        self._thread = threading.Thread(target=self._pump, name=f"log of {container_id[:12]}", daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        params = {"stdout": 1, "stderr": 1, "follow": 1, "tail": "all"}
        try:
            # Not in the reader's thread: the engine answers only once the log has content.
            self._response = self._api.get(self._url, params=params, stream=True, timeout=(ANSWER_S, None))
            if not self._response.ok:
                self.refused = ProviderError(f"the container's log can't be read again: {self._response.text.strip()}")
            for chunk in () if self.refused else self._response.iter_content(chunk_size=None):
                self._writer.sendall(chunk)  # no limit: nobody may read; the reader closes it
        except Exception:  # noqa: BLE001  its end is all that the reader has to see; it asks the engine for the reason
            pass
        finally:
            self._writer.close()

    def fileno(self) -> int:
        return self._reader.fileno()

    def recv(self, size: int) -> bytes:
        return self._reader.recv(size)  # no limit: the data is there

    def pending(self) -> bool:
        return False

    def close(self) -> None:
        self._reader.close()
        if self._response is not None:
            self._response.close()


class ContainerAttachment:
    """Implements `driver.channel.Attachment`."""

    def __init__(
        self, client: EngineClient, container_id: str, input_: EngineSocket, output: EngineSocket | LogFollower
    ) -> None:
        self._input: EngineSocket | None = input_
        self._output = output
        self.client = client
        self.container_id = container_id
        self._frames = Demultiplexer()
        self._read: dict[Stream, _Position] = {"stdout": _Position(), "stderr": _Position()}
        self._again: dict[Stream, _Position] = {}
        """The rest of each stream's part, in the log, that was read before the loss."""
        self._behind_since: float | None = None
        """The time of the log's last output, until it has reached the point of the loss."""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._output.fileno(), select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._read_at, self._small_reads = 0.0, 0
        self.at_end = False
        self._closed = False

    def send(self, data: bytes) -> None:
        if self._input is None:
            raise BrokenPipeError("the container's input is closed")
        self._input.settimeout(60.0)
        try:
            self._input.sendall(data)  # no limit: set in the previous line
        finally:
            self._input.settimeout(None)

    def wake(self) -> None:
        if not self._closed:
            try:
                os.eventfd_write(self._wake, 1)
            except OSError:
                pass  # closed concurrently

    def read(self, timeout_s: float) -> list[Chunk]:
        if self.at_end:
            return []
        if self._behind_since is not None:
            timeout_s = min(timeout_s, self._behind_since + BEHIND_S - time.monotonic())
            if timeout_s <= 0:
                raise ConnectionLost(
                    "the connection was lost, and the container's log does not contain the output so far; the output can't"
                    " be resumed",
                    hint="look for errors of the log in the engine's own log; a full disk of the engine is one",
                )
        if not self._output.pending():
            ready = dict(self._poll.poll(max(0.0, timeout_s) * 1000))
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if self._output.fileno() not in ready:
                return []
        if self._is_flooded():
            time.sleep(_GATHER_S)
        data = self._output.recv(_READ)  # no limit: the data is there
        self._count(len(data))
        if not data:
            self.at_end = True
            if isinstance(self._output, LogFollower) and self._output.refused is not None:
                raise self._output.refused
            self._frames.end()
            return []
        chunks = self._frames.feed(data)
        if self._again:
            chunks = [(stream, rest) for stream, piece in chunks if (rest := self._again[stream].skip(piece))]
            if self._behind_since is not None:
                self._behind_since = self._now_if_behind()
        for stream, piece in chunks:
            self._read[stream].advance(piece)
        return chunks

    def _count(self, size: int) -> None:
        """Count consecutive small reads without a pause."""
        now = time.monotonic()
        small_and_soon = size < _READ // 4 and now - self._read_at < _SOON_S + _GATHER_S
        self._small_reads = self._small_reads + 1 if small_and_soon else 0
        self._read_at = now

    def _is_flooded(self) -> bool:
        """Return whether output comes without a pause: a read then costs the same for one line as for many."""
        return self._small_reads >= _FLOOD_FROM and time.monotonic() - self._read_at < _SOON_S

    def resume(self) -> None:
        """Resume lost output from the log. `read` raises ProviderError when the engine keeps no log."""
        follower = LogFollower(self.client, self.container_id)
        self._poll.unregister(self._output.fileno())
        self._output.close()
        self._output = follower
        self._poll.register(follower.fileno(), select.POLLIN)
        self._frames = Demultiplexer()
        self._again = {stream: replace(position) for stream, position in self._read.items()}
        self._behind_since = self._now_if_behind()
        self.at_end = False

    def _now_if_behind(self) -> float | None:
        return time.monotonic() if any(left.lines or left.partial for left in self._again.values()) else None

    def close_input(self) -> None:
        if self._input is None:
            return
        if self._input is self._output:
            try:
                self._input.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the engine closed it first
        else:
            self._input.close()
        self._input = None

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.close_input()
            self._output.close()
            os.close(self._wake)


def attach(client: EngineClient, container_id: str, *, apart: bool) -> ContainerAttachment:
    """Attach before the container starts, because earlier output is lost.

    `apart=False`: one connection for input and output. Podman sends output to every connection, even for input only, and
    stalls when nobody reads it.
    """
    if not apart:
        both = attached(client, container_id, "stdin", "stdout", "stderr")
        return ContainerAttachment(client, container_id, both, both)
    input_ = attached(client, container_id, "stdin")
    try:
        return ContainerAttachment(client, container_id, input_, attached(client, container_id, "stdout", "stderr"))
    except BaseException:
        input_.close()
        raise


class ExecAttachment(ContainerAttachment):
    """An attachment to a driver that an exec started in a kept container."""

    def __init__(
        self, client: EngineClient, container_id: str, command: Sequence[str], workdir: str, user: str
    ) -> None:
        with translated("starting a driver in the kept container"):
            made = client.api.exec_create(container_id, list(command), stdin=True, workdir=workdir, user=user)
            both = client.api.exec_start(made["Id"], socket=True)
        both.settimeout(None)
        super().__init__(client, container_id, both, both)

    def resume(self) -> None:
        raise ProviderError("the connection to a kept container was lost, and no log has its output")
