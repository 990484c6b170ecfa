"""A proxy in front of an engine's socket: it counts requests, and disturbs the chosen ones."""

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.support.connections import serve_each

How = Literal["refused", "lost", "error"]
"""The connection ends before the request is sent, or before it is answered; or the engine answers with an error."""

_REQUEST = re.compile(rb"(GET|POST|PUT|DELETE|HEAD) (\S+) HTTP/1\.1\r\n")
_ERROR = b'{"message":"chaos: the engine failed"}'
_ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"


class EngineProxy:
    """Passes an engine's socket on.

    `disturb(number, request)` is asked about each request, which is numbered from 0; what it returns happens to it.
    """

    def __init__(self, path: Path, engine: str, disturb: Callable[[int, str], How | None] = lambda *_: None) -> None:
        self.url = f"unix://{path}"
        self.seen: list[str] = []
        self.unreachable = False
        """Whether new connections are refused."""
        self._engine = engine
        self._disturb = disturb
        self._lock = threading.Lock()
        self._reached = threading.Condition(self._lock)
        self._open: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(128)
        serve_each(self._listener, self._serve)

    def wait_for(self, number: int, limit_s: float) -> bool:
        """Wait until that many requests have come; False when they have not within the limit."""
        with self._reached:
            return self._reached.wait_for(lambda: len(self.seen) >= number, limit_s)

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _serve(self, client: socket.socket) -> None:
        if self.unreachable:
            client.close()
            return
        engine = socket.socket(socket.AF_UNIX)
        with client, engine:
            try:
                engine.connect(self._engine)
            except OSError:
                return
            with self._lock:
                self._open |= {client, engine}
            lost = threading.Event()
            back = threading.Thread(target=self._back, args=(engine, client, lost), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    how = self._of(data)
                    if how == "error":
                        client.sendall(_ANSWER % (len(_ERROR), _ERROR))
                        continue
                    if how == "refused":
                        break
                    if how == "lost":
                        lost.set()
                    engine.sendall(data)
            for end in (engine, client) if how == "refused" else (engine,):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR if how == "refused" else socket.SHUT_WR)
            back.join()
            with self._lock:
                self._open -= {client, engine}

    def _of(self, data: bytes) -> How | None:
        request = _REQUEST.match(data)
        if request is None:
            return None
        text = f"{request[1].decode()} {request[2].decode(errors='replace')}"
        with self._reached:
            number = len(self.seen)
            self.seen.append(text)
            self._reached.notify_all()
        return self._disturb(number, text)

    def _back(self, engine: socket.socket, client: socket.socket, lost: threading.Event) -> None:
        with suppress(OSError):
            while data := engine.recv(65536):
                if lost.is_set():
                    engine.shutdown(socket.SHUT_RDWR)
                    client.shutdown(socket.SHUT_RDWR)
                    break
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)


def shape(request: str) -> str:
    """The request without what differs each time: ids, names and parameters."""
    path = re.sub(r"[0-9a-f]{12,}|loom-[^/?\s]+", "*", request.partition("?")[0])
    return re.sub(r"/v1\.\d+", "", path)
