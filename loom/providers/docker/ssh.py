"""An engine that is reached by ssh, as the `docker` command does it: each connection is one `ssh`, which runs
`docker system dial-stdio` on the other side.

It is the user's own ssh that connects, so that `~/.ssh/config`, agents, jump hosts and `known_hosts` count. The SDK's two
ways to do this can't be used: one knows little of these and shares a single connection, which servers limit to ten
conversations; the other gives out no socket that could be waited for.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from docker.transport.basehttpadapter import BaseHTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from loom.util import processes

_AT_ONCE = 4
"""How many connections are made at the same time: servers drop some of those that are not authenticated yet."""
_CONNECT_S = 10
_ANSWER_S = 60.0
_OPTIONS = (
    "-T",
    # No questions: not for a password, not whether an unknown host may be trusted.
    *("-o", "BatchMode=yes"),
    *("-o", f"ConnectTimeout={_CONNECT_S}"),
    *("-o", "LogLevel=ERROR"),
    *("-o", "ClearAllForwardings=yes"),
    # A network that went away is noticed, also in a step that is silent for hours.
    *("-o", "ServerAliveInterval=20"),
    *("-o", "ServerAliveCountMax=3"),
)


class SshFailed(ConnectionError):
    """No connection was made; the text is the message of ssh or of the command on the other side."""


def command(url: str) -> list[str]:
    """The command whose standard input and output are a connection to the engine at `url`. ValueError for no such address."""
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError("there is a password in the engine's address, which ssh does not take from there")
    if not parts.hostname or parts.hostname.startswith("-"):
        raise ValueError(f"{url} is no address of an engine: expected ssh://USER@HOST:PORT")
    words = ["ssh", *_OPTIONS]
    if parts.username:
        words += ["-l", parts.username]
    if parts.port:
        words += ["-p", str(parts.port)]
    socket_there = parts.path.rstrip("/")
    host = ["--host", f"unix://{socket_there}"] if socket_there else []
    return [*words, "--", parts.hostname, "docker", *host, "system", "dial-stdio"]


class Dialler:
    """Makes connections, and ends the `ssh` of each that is still there when it is closed."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._command = command(url)
        self._environ = dict(environ)
        self._turn = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def dial(self, timeout_s: float) -> socket.socket:
        """A connection to the engine, which has just answered over it. SshFailed when none comes about."""
        with self._turn, tempfile.TemporaryFile() as said:
            ours, theirs = socket.socketpair()
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=said,
                    env=self._environ,
                    start_new_session=True,  # ^C on the terminal is for loom to deal with
                )
            except OSError as error:
                ours.close()
                raise SshFailed(f"the ssh command can't be run: {error.strerror}") from None
            finally:
                theirs.close()
            with self._lock:
                # Those that have ended are waited for here.
                self._processes = [other for other in self._processes if other.poll() is None] + [process]
            try:
                ours.settimeout(timeout_s)
                _ask(ours)
            except BaseException as error:
                ours.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # without a signal, so that it can tell why
                processes.end(process)
                said.seek(0)
                if isinstance(error, (OSError, http.client.HTTPException)):
                    # ssh's words are the cause; that the connection then ended is not.
                    raise SshFailed(_reason(said.read().decode(errors="replace"), error)) from None
                raise
            return ours

    def close(self) -> None:
        with self._lock:
            commands, self._processes = self._processes, []
        processes.end(*commands, grace_s=2)


def _ask(connection: socket.socket) -> None:
    """Ask whether an engine is at the other end: only its answer shows that ssh has connected."""
    connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")  # no limit: the caller has set it
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        response.read()
    finally:
        response.close()


def _reason(said: str, error: BaseException) -> str:
    """Return the line with the reason from the output of ssh and of the other side."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and not set(line.strip()) <= {"@"}]
    for line in lines:
        if "IDENTIFICATION HAS CHANGED" in line:
            return "the host's key is not the one that is known: somebody may be in between, or the host is a new one"
    if lines:
        return lines[-1]
    if isinstance(error, http.client.BadStatusLine) and (word := str(error).strip(" '\"\n")):
        return f"the other side said {word[:80]!r} instead of an engine's answer"
    return "timed out" if isinstance(error, TimeoutError) else "the connection was closed without a word"


class _Connection(HTTPConnection):
    def __init__(self, dialler: Dialler, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._dialler = dialler

    def connect(self) -> None:
        timeout = self.timeout  # none for what may be silent later: a log that is followed
        self.sock = self._dialler.dial(timeout if isinstance(timeout, (int, float)) else _ANSWER_S)


class _Pool(HTTPConnectionPool):
    def __init__(self, dialler: Dialler, *, timeout: float, maxsize: int) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=maxsize)
        self._dialler = dialler
        self._timeout_s = timeout

    def _new_conn(self) -> _Connection:
        return _Connection(self._dialler, self._timeout_s)


class SshAdapter(BaseHTTPAdapter):
    """What carries the SDK's requests, in place of its own for a local socket."""

    def __init__(self, dialler: Dialler, *, timeout: float, connections: int) -> None:
        self._dialler = dialler
        # One for all addresses, unlike the SDK's own: each new connection costs a greeting of the two ssh.
        self._pool = _Pool(dialler, timeout=timeout, maxsize=connections)
        super().__init__()

    def get_connection(self, url: str | bytes, proxies: Any = None) -> HTTPConnectionPool:
        return self._pool

    def request_url(self, request: Any, proxies: Any) -> str:
        return str(request.path_url)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):
            self._pool.close()
        self._dialler.close()
