"""The connection to the driver of a pod: exact also where a connection is not.

The pod's helper keeps what the driver prints in numbered segments until they are taken; each stream has a position, a
segment and the bytes of it that arrived. After a loss, the next connection starts at these segments, and what was there
already is left out. Commands for the driver are numbered too, and sent again if they did not arrive.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.providers.driver import protocol as driver
from loom.providers.kubernetes.cluster.client import Cluster, is_transient
from loom.providers.kubernetes.pod.spec import sender
from loom.providers.kubernetes.session.exec import Broken, Exec
from loom.status import Stream
from loom.util.retrying import Policy, retrying
from loom.util.within import readable

Chunk = tuple[Stream, bytes]
Positions = Mapping[Stream, tuple[int, int]]
"""The position in each stream: a segment, and bytes of it."""

HEARTBEAT_S = 10.0
"""The interval at which loom tells the pod that it is there, and asks whether its lines arrived."""
SILENT_S = 45.0
"""A connection that carries no answer to that for so long is lost."""
_LOOK_S = 2.0
"""The interval at which a silent connection asks whether its pod is lost."""
_RECONNECT = Policy(
    when=lambda error: isinstance(error, OSError) or is_transient(error), limit_s=300.0, first_wait_s=0.2
)
"""The repetition of a connection that is lost, unless the pod is over."""
_MOST_HELD = 8 << 20
"""Bytes that wait for their reader; more stay in the pod."""


class _Position(Struct):
    """The position in one stream: a segment, the bytes of it that were taken, and those that come again and are left out."""

    segment: int = 1
    taken: int = 0
    again: int = 0
    ended: bool = False

    def take(self, data: bytes) -> bytes:
        left_out = min(self.again, len(data))
        self.again -= left_out
        self.taken += len(data) - left_out
        return data[left_out:]


class Link:
    """Implements `driver.channel.Attachment`. A thread reads, acknowledges, keeps the pod alive and connects again."""

    def __init__(
        self,
        cluster: Cluster,
        pod: str,
        *,
        lease_s: float,
        is_over: Callable[[], bool],
        adopt: bool,
        keeps: bool,
        taken: Positions | None,
        say: Callable[[str], object],
    ) -> None:
        """`is_over`: whether the pod can't be connected to any more. `adopt`: another loom told it something before; leave
        out what it printed, without `taken`.

        `keeps`: the pod keeps its output, so that it can be read again. `taken`: where to begin with it. `say` is told of a
        connection that stays lost.
        """
        self._cluster = cluster
        self._pod = pod
        self._is_over = is_over
        self._lease_s = lease_s
        self._token = driver.new_token()
        start = 0 if adopt else 1
        self._at: dict[Stream, _Position] = {"stdout": _Position(start), "stderr": _Position(start)}
        for stream, (segment, size) in (taken or {}).items():
            self._at[stream] = _Position(segment, size)
        self._keeps = keeps
        self._changed = threading.Condition()
        self._held: deque[Chunk] = deque()
        self._held_bytes = 0
        self._awake = False
        self.sent = self._received = -1 if adopt else 0
        """The number of the last line that was sent, and of the last that has arrived; negative: not known yet."""
        self._unconfirmed: deque[tuple[int, bytes]] = deque()
        self._waiting: list[bytes] = []
        """Lines to send before the number of the last one is known."""
        self._to_send: deque[bytes] = deque()
        self._rest = b""
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._say = say
        self._closing = Cancel()
        self.failed: LoomError | OSError | None = None
        self.connections = 0
        self.connection: Exec | None = None
        """The present one, or the last."""
        self._answered = False
        """Whether the last connection worked."""
        self._thread = threading.Thread(target=self._work, name=f"link to {pod}", daemon=True)
        self._thread.start()

    # For the session

    @property
    def at_end(self) -> bool:
        with self._changed:
            return not self._held and all(at.ended for at in self._at.values())

    def send(self, data: bytes) -> None:
        with self._changed:
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._enqueue(line)
        self._signal()

    def _enqueue(self, line: bytes) -> None:
        if self.sent < 0:
            self._waiting.append(line)
            return
        self.sent += 1
        numbered = b"c %d %b\n" % (self.sent, line)
        self._unconfirmed.append((self.sent, numbered))
        self._to_send.append(numbered)

    def wake(self) -> None:
        with self._changed:
            self._awake = True
            self._changed.notify_all()

    def read(self, timeout_s: float) -> Sequence[Chunk]:
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._held) or self._awake or self.failed is not None or self._ends(), max(0.0, timeout_s)
            )
            self._awake = False
            chunks = list(self._held)
            self._held.clear()
            self._held_bytes = 0
            failed = self.failed
        self._signal()
        if failed is not None and not chunks:
            raise failed if isinstance(failed, OSError) else Broken(failed.message)
        return chunks

    def _ends(self) -> bool:
        return all(at.ended for at in self._at.values())

    def close_input(self) -> None:
        """Do nothing: the driver is ordered to stop in other ways."""

    def lease(self, seconds: float) -> None:
        """Let the pod live on so long from now, or from its last sign of this loom."""
        self._lease_s = seconds
        self._beat()
        self._signal()

    def confirmed(self, limit_s: float, cancel: Cancel | None = None) -> bool:
        """Wait until everything that was sent has arrived; False where it can't any more, and after a cancel."""
        cancel = cancel or Cancel()
        self._beat()
        self._signal()
        forget = cancel.on_request(self.wake)
        try:
            with self._changed:
                self._changed.wait_for(lambda: self._arrived() or self.failed is not None or cancel.requested, limit_s)
                return self._arrived()
        finally:
            forget()

    def _arrived(self) -> bool:
        return not self._unconfirmed and not self._to_send

    def taken(self) -> Positions:
        """Return the position up to which each stream was read. Call when no output is in transit."""
        with self._changed:
            return {stream: (at.segment, at.taken) for stream, at in self._at.items()}

    def received(self, limit_s: float) -> int:
        """Return the number of the last line that the pod has received; negative if it does not say so in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._received >= 0 or self.failed is not None, limit_s)
            return self._received

    def close(self) -> None:
        if not self._closing.requested:
            self._closing.request()
            self._signal()
            self._thread.join(10.0)
            if not self._thread.is_alive():
                os.close(self._wake)

    # The thread

    def _beat(self) -> None:
        with self._changed:
            self._to_send.append(b"h %d\n" % self._lease_s)

    def _signal(self) -> None:
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)

    def _work(self) -> None:
        failed: LoomError | OSError | None = None
        try:
            retrying(
                self._one_connection,
                _RECONNECT,
                before=self._unless_over,
                tell=lambda why: self._say(
                    f"the connection to the pod {self._pod} was lost; loom tries to make it again: {why}"
                ),
                worked=lambda: self._answered,
                cancel=self._closing,
            )
        except (OSError, LoomError) as error:
            failed = error
        except Exception as bug:
            failed = Broken(repr(bug))
            raise
        finally:
            with self._changed:
                self.failed = failed
                self._changed.notify_all()

    def _unless_over(self, error: BaseException, *_: object) -> None:
        if self._over():
            raise error

    def _over(self) -> bool:
        try:
            return self._is_over()
        except LoomError as error:
            return not is_transient(error)

    def _one_connection(self) -> None:
        """Pass everything on until the output's end; OSError or LoomError when the connection is lost."""
        self._answered = False
        positions = tuple(at.segment for at in self._at.values())
        command = sender(self._token, (positions[0], positions[1]))
        connection = Exec(self._cluster, self._pod, "loom", command, stdin=True)
        self.connections += 1
        self.connection = connection
        try:
            with self._changed:
                for at in self._at.values():
                    at.again = at.taken
                self._to_send.clear()
                # The last message may be lost.
                for name, at in zip(("out", "err"), self._at.values(), strict=True):
                    if at.segment > 1 and not self._keeps:
                        self._to_send.append(f"a {name} {at.segment - 1}\n".encode())
                self._to_send.extend(line for _, line in self._unconfirmed)
                self._beat()
            self._pass_on(connection)
        finally:
            connection.close()

    def _pass_on(self, connection: Exec) -> None:
        cutters = {stream: driver.Cutter(self._token) for stream in self._at}
        heard = beat = time.monotonic()
        while not self._closing.requested:
            now = time.monotonic()
            # A node that is lost breaks no connection: the cluster says that the pod is.
            if now - heard > SILENT_S or (now - heard > HEARTBEAT_S * 1.5 and self._over()):
                raise Broken(f"silent for {now - heard:.0f} s")
            if now - beat > HEARTBEAT_S:
                beat = now
                self._beat()
            self._send_all(connection)
            with self._changed:
                full = self._held_bytes > _MOST_HELD
            if full:
                heard = now  # not read, so not known to be silent
                self._wait_for_wake(0.5)
                continue
            ready = connection.ready(min(_LOOK_S, beat + HEARTBEAT_S - now), self._wake)
            if self._wake in ready:
                os.eventfd_read(self._wake)
            if connection.fileno() in ready:
                heard = time.monotonic()
                if (piece := connection.read()) is not None:
                    self._receive(cutters, *piece)
            if connection.ended:
                if self._ends():
                    return
                raise Broken("the helper's command ended")
        self._send_all(connection)

    def _wait_for_wake(self, seconds: float) -> None:
        if readable((self._wake,), seconds):
            os.eventfd_read(self._wake)

    def _send_all(self, connection: Exec) -> None:
        with self._changed:
            data = b"".join(self._to_send)
            self._to_send.clear()
        if data:
            connection.send(data)

    def _receive(self, cutters: dict[Stream, driver.Cutter], stream: Stream, data: bytes) -> None:
        at = self._at[stream]
        for part in cutters[stream].feed(data):
            if not isinstance(part, bytes):
                self._mark(stream, at, part.text.decode("ascii", "replace").split())
            elif fresh := at.take(part):
                with self._changed:
                    self._held.append((stream, fresh))
                    self._held_bytes += len(fresh)
                    self._changed.notify_all()

    def _mark(self, stream: Stream, at: _Position, words: list[str]) -> None:
        self._answered = True
        with self._changed:
            match words:
                case ["from", segment, size]:
                    at.segment, at.taken, at.again = int(segment), int(size), int(size)
                case ["done", segment]:
                    at.segment, at.taken, at.again = int(segment) + 1, 0, 0
                    if not self._keeps:
                        name = "out" if stream == "stdout" else "err"
                        self._to_send.append(f"a {name} {segment}\n".encode())
                case ["got", number]:
                    self._confirm(int(number))
                case ["end"]:
                    at.ended = True
                case _:
                    pass
            self._changed.notify_all()

    def _confirm(self, number: int) -> None:
        self._received = number
        if self.sent < 0:
            self.sent = number
            for line in self._waiting:
                self._enqueue(line)
            self._waiting.clear()
        while self._unconfirmed and self._unconfirmed[0][0] <= number:
            self._unconfirmed.popleft()
