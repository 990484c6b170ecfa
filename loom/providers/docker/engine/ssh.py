"""Reach an engine by ssh like the `docker` command: each connection is one `ssh` that runs `docker system dial-stdio`.

This uses the user's own ssh, with `~/.ssh/config`, agents, jump hosts and `known_hosts`. The SDK's own ways do not
work: one mostly ignores these and shares one connection, which servers limit to ten channels; the other provides no
pollable socket.
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
"""Maximum number of concurrent connection attempts: servers drop some unauthenticated ones."""
_CONNECT_S = 10
_ANSWER_S = 60.0
_OPTIONS = (
    "-T",
    # No prompts, neither for passwords nor for unknown hosts.
    *("-o", "BatchMode=yes"),
    *("-o", f"ConnectTimeout={_CONNECT_S}"),
    *("-o", "LogLevel=ERROR"),
    *("-o", "ClearAllForwardings=yes"),
    # Detect a lost network, even during a step that is silent for hours.
    *("-o", "ServerAliveInterval=20"),
    *("-o", "ServerAliveCountMax=3"),
)


class SshFailed(ConnectionError):
    """The connection failed; the message is from ssh or the remote command."""


def command(url: str) -> list[str]:
    """Return the command that connects to the engine at `url`. ValueError for an invalid address."""
    parts = urlsplit(url)
    if parts.password is not None:
        raise ValueError("there is a password in the engine's address, which ssh does not take from there")
    if not parts.hostname or parts.hostname.startswith("-"):
        raise ValueError(f"{url} is not the address of an engine: expected ssh://USER@HOST:PORT")
    words = ["ssh", *_OPTIONS]
    if parts.username:
        words += ["-l", parts.username]
    if parts.port:
        words += ["-p", str(parts.port)]
    socket_there = parts.path.rstrip("/")
    host = ["--host", f"unix://{socket_there}"] if socket_there else []
    return [*words, "--", parts.hostname, "docker", *host, "system", "dial-stdio"]


class Dialler:
    """Makes connections, and ends their `ssh` processes when closed."""

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self._command = command(url)
        self._environ = dict(environ)
        self._turn = threading.Semaphore(_AT_ONCE)
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[bytes]] = []

    def dial(self, timeout_s: float) -> socket.socket:
        """Return a connection to the engine after its first answer. SshFailed on failure."""
        with self._turn, tempfile.TemporaryFile() as stderr:
            ours, theirs = socket.socketpair()
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=stderr,
                    env=self._environ,
                    start_new_session=True,  # loom handles ^C on the terminal
                )
            except OSError as error:
                ours.close()
                raise SshFailed(f"the ssh command can't be run: {error.strerror}") from None
            finally:
                theirs.close()
            with self._lock:
                # Reap ended processes here.
                self._processes = [other for other in self._processes if other.poll() is None] + [process]
            try:
                ours.settimeout(timeout_s)
                _ask(ours)
            except BaseException as error:
                ours.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # without a signal, so that it can report the reason
                processes.end(process)
                stderr.seek(0)
                if isinstance(error, (OSError, http.client.HTTPException)):
                    # ssh's message is the cause, not the end of the connection.
                    raise SshFailed(_reason(stderr.read().decode(errors="replace"), error)) from None
                raise
            return ours

    def close(self) -> None:
        with self._lock:
            commands, self._processes = self._processes, []
        processes.end(*commands, grace_s=2)


def _ask(connection: socket.socket) -> None:
    """Check for an engine at the other end: only its answer proves that ssh has connected."""
    connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")  # no limit: the caller has set it
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        response.read()
    finally:
        response.close()


def _reason(stderr: str, error: BaseException) -> str:
    """Return the line with the reason from the output of ssh and of the other side."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not set(line.strip()) <= {"@"}]
    for line in lines:
        if "IDENTIFICATION HAS CHANGED" in line:
            return "the host's key is not the one that is known: somebody may be in between, or the host is a new one"
    if lines:
        return lines[-1]
    if isinstance(error, http.client.BadStatusLine) and (word := str(error).strip(" '\"\n")):
        return f"the other side sent {word[:80]!r} instead of an engine's answer"
    return "timed out" if isinstance(error, TimeoutError) else "the connection was closed without a word"


class _Connection(HTTPConnection):
    def __init__(self, dialler: Dialler, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._dialler = dialler

    def connect(self) -> None:
        timeout = self.timeout  # none for calls that may be silent later (a followed log)
        self.sock = self._dialler.dial(timeout if isinstance(timeout, (int, float)) else _ANSWER_S)


class _Pool(HTTPConnectionPool):
    def __init__(self, dialler: Dialler, *, timeout: float, maxsize: int) -> None:
        super().__init__("localhost", timeout=timeout, maxsize=maxsize)
        self._dialler = dialler
        self._timeout_s = timeout

    def _new_conn(self) -> _Connection:
        return _Connection(self._dialler, self._timeout_s)


class SshAdapter(BaseHTTPAdapter):
    """Carries the SDK's requests, replacing its transport for a local socket."""

    def __init__(self, dialler: Dialler, *, timeout: float, connections: int) -> None:
        self._dialler = dialler
        # One for all addresses, unlike the SDK's: each new connection costs an ssh handshake.
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
