"""Run commands in a job's container beside its driver: with connected streams, or as a shell on a terminal.

Like `docker exec` (`-i`, `-it`), except that a signal, timeout or closed terminal also ends the command, which the
engine would leave running.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from signal import SIGPIPE
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.providers import interactive
from loom.providers.docker.engine.errors import explanation, translated
from loom.providers.docker.engine.retries import retrying
from loom.providers.docker.session.attach import Demultiplexer, Hijacked
from loom.providers.driver import protocol as driver
from loom.providers.terminal import kind, raw, size_of, to_streams, write_all
from loom.providers.watcher import BECOME, Watcher
from loom.status import Ended, Exit, ExitCode, OnOutput
from loom.util.within import readable, wait_until

if TYPE_CHECKING:
    import docker

_READ = 64 * 1024
_SIZE_EVERY_S = 0.25
"""Interval for checking the terminal's size: its signal reaches only the main thread."""
_AFTER_HANGUP_S = 2.0
_LOOK_EVERY_S = 0.25
_CODE_WITHIN_S = 60.0
_TYPED_WITHIN_S = 60.0
"""Time limit for the container to accept terminal input."""
_NEVER_TYPED = ",".join(["ctrl-@"] * 16)
"""Keys to detach with: nobody could attach again, and the engine would hold back each ^P until the next key."""
_SIGNALS: Mapping[ExitCode | None, str] = {ExitCode.INTERRUPTED: "INT", ExitCode.HANGUP: "HUP"}


class ContainerInside(Struct, frozen=True, kw_only=True):
    """Implements `providers.base.Inside` for a running container."""

    client: docker.DockerClient
    container_id: str
    workdir: str
    environment: Mapping[str, str]
    user: str | None = None
    """None: the container's own, which the steps' is where no entrypoint of the workflow changes it."""

    def exec(
        self,
        command: Sequence[str],
        on_output: OnOutput | None,
        cancel: Cancel,
        *,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
        stdin: bool = True,
    ) -> Exit:
        given = 0 if stdin else None
        return self.run(
            command, on_output or to_streams(1, 2), cancel, stdin=given, timeout_s=timeout_s, grace_s=grace_s
        )

    def run(
        self,
        command: Sequence[str],
        on_output: OnOutput,
        cancel: Cancel,
        *,
        stdin: int | bytes | None = None,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
    ) -> Exit:
        """Run `command`; return its exit code. `stdin` is a file descriptor or the input itself.

        A cancel or timeout sends TERM, and KILL after the grace period; a BrokenPipeError of `on_output` sends PIPE and
        returns the shell's exit code for it.
        """
        exec_id, watcher = self._start(command, stdin=stdin is not None, at_once=not isinstance(stdin, bytes))
        connection = Hijacked.of_exec(self.client, exec_id)
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def wake() -> None:
            with contextlib.suppress(OSError):
                os.write(wake_write, b"x")

        unregister = cancel.on_request(wake)
        cancel.pass_on = watcher.pass_on
        try:
            if stdin is not None:
                threading.Thread(target=_feed, args=(stdin, connection.socket), daemon=True).start()
            deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
            ended = self._follow(connection, on_output, cancel, watcher, wake_read, timeout_s, grace_s)
            if ended is Ended.EXITED and not self._ends(exec_id, cancel, deadline):  # it had closed its output
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                watcher.signal(_signal_of(cancel))
                self._wait(exec_id, grace_s)
            if ended is not Ended.EXITED:
                watcher.signal("KILL")
        except OSError as error:
            # First, because the engine does not answer while the command's output blocks.
            connection.close()
            watcher.signal("PIPE")
            if not isinstance(error, BrokenPipeError):
                raise
            return Exit(code=128 + SIGPIPE, ended=Ended.EXITED)
        finally:
            unregister()
            connection.close()
            watcher.close()
            os.close(wake_read)
            os.close(wake_write)
        return Exit(code=self._code(exec_id), ended=ended)

    def _follow(
        self,
        connection: Hijacked,
        on_output: OnOutput,
        cancel: Cancel,
        watcher: Watcher,
        wake: int,
        timeout_s: float | None,
        grace_s: float,
    ) -> Ended:
        frames, ended = Demultiplexer(), Ended.EXITED
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        kill_at: float | None = None
        while True:
            now = time.monotonic()
            if kill_at is not None and (now >= kill_at or cancel.now):
                watcher.signal("KILL")
                kill_at = None if cancel.now else now + grace_s
            elif ended is not Ended.EXITED:
                watcher.look()
            elif cancel.requested or (deadline is not None and now >= deadline):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                kill_at = now + grace_s
                watcher.signal(_signal_of(cancel))
            until = deadline if ended is Ended.EXITED else now + _LOOK_EVERY_S
            ready = readable((connection.fileno(), wake), None if until is None else until - now)
            if wake in ready:
                os.read(wake, 100)
            if connection.fileno() in ready:
                data = connection.socket.recv(_READ)  # no limit: the data is there
                if not data:
                    frames.end()
                    return ended
                for stream, chunk in frames.feed(data):
                    on_output(stream, chunk)

    def _start(
        self, command: Sequence[str], *, stdin: bool, tty: bool = False, at_once: bool = True
    ) -> tuple[str, Watcher]:
        pid_file = _name("exec")
        exec_id = self._create(["sh", "-c", BECOME, "loom", pid_file, *command], stdin=stdin, tty=tty)
        return exec_id, Watcher(self._watch, pid_file, at_once=at_once)

    def _watch(self, program: Sequence[str], limit_s: float) -> Hijacked:
        api: Any = self.client.api
        with translated("ending the command"):
            made = api.exec_create(self.container_id, list(program), stdin=True, user=self.user or "", workdir="/")
            connection = Hijacked.of_exec(self.client, made["Id"])
        connection.socket.settimeout(limit_s)
        return connection

    def write(self, files: Mapping[str, bytes]) -> None:
        """Create small private files."""
        lines = [b"umask 077\n"]
        for path, content in files.items():
            # Any bytes: quoted for the shell and `%b`; only NUL needs an escape.
            escaped = content.replace(b"\\", b"\\\\").replace(b"\0", b"\\0000").replace(b"'", b"'\\''")
            lines.append(b"printf %b '" + escaped + b"' >" + path.encode() + b" || exit 1\n")
        output: list[bytes] = []
        ended = self.run(["sh"], lambda _, data: output.append(data), Cancel(), stdin=b"".join(lines))
        if ended.code != 0:
            reason = b"".join(output).decode("utf-8", "replace").strip()
            raise ProviderError(f"files could not be put into the container: {reason or f'exit code {ended.code}'}")

    def continued(self, command: Sequence[str]) -> Sequence[str]:
        return interactive.continued(command, driver.STATE_FILE)

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        prepared = interactive.prepared(shell, script=script, name=name, state=driver.STATE_FILE, new_path=_name)
        self.write(prepared.files)
        return self.terminal(prepared.command, cancel).code

    def terminal(self, command: Sequence[str], cancel: Cancel, *, timeout_s: float | None = None) -> Exit:
        command = interactive.on_terminal(command, kind(self.environment))
        exec_id, watcher = self._start(command, stdin=True, tty=True)
        cancel.pass_on = watcher.pass_on
        with raw(0):
            connection = Hijacked.of_exec(self.client, exec_id, tty=True)
            try:
                ended = self._pass_through(connection, exec_id, cancel, timeout_s)
                if ended is not Ended.EXITED:
                    watcher.signal("HUP" if ended is Ended.CANCELED else "TERM")
                    self._wait(exec_id, _AFTER_HANGUP_S)
                    watcher.signal("KILL")
            finally:
                connection.close()
                watcher.close()
        return Exit(code=self._code(exec_id), ended=ended)

    def _pass_through(self, connection: Hijacked, exec_id: str, cancel: Cancel, timeout_s: float | None) -> Ended:
        """Connect the terminal until the output ends, the terminal closes, a cancel arrives or the time is over."""
        size: tuple[int, int] | None = None
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        connection.socket.settimeout(_TYPED_WITHIN_S)
        while not cancel.requested:
            left = deadline - time.monotonic()
            if left <= 0:
                return Ended.TIMED_OUT
            if (now := size_of(1)) != size:
                size = now
                self._resize(exec_id, *now)
            ready = readable((connection.fileno(), 0), min(left, _SIZE_EVERY_S))
            try:
                if 0 in ready:
                    typed = os.read(0, _READ)
                    if not typed:
                        return Ended.CANCELED
                    connection.socket.sendall(typed)  # no limit: the socket has one
                if connection.fileno() in ready:
                    data = connection.socket.recv(_READ)  # no limit: the data is there
                    if not data:
                        return Ended.EXITED
                    write_all(1, data)
            except TimeoutError as error:
                raise ProviderError(f"the container has taken no input for {_TYPED_WITHIN_S:.0f} s") from error
            except OSError as error:
                if error.errno in (errno.EIO, errno.EBADF, errno.ENXIO):
                    return Ended.CANCELED
                if error.errno in (errno.EPIPE, errno.ECONNRESET):
                    return Ended.EXITED
                raise
        return Ended.CANCELED

    def _create(self, command: Sequence[str], *, stdin: bool = False, tty: bool = False) -> str:
        api: Any = self.client.api
        environment = [f"{name}={value}" for name, value in self.environment.items() if driver.is_text(value)]
        with translated("starting a command in the container"):
            made = retrying(
                lambda: api.exec_create(
                    self.container_id,
                    driver.entering(command, self.environment),
                    stdin=stdin,
                    tty=tty,
                    environment=environment,
                    workdir=self.workdir,
                    user=self.user or "",
                    detach_keys=_NEVER_TYPED,
                )
            )
        return str(made["Id"])

    def _resize(self, exec_id: str, height: int, width: int) -> None:
        api: Any = self.client.api
        try:
            api.exec_resize(exec_id, height=height, width=width)
        except Exception as error:
            # Not started yet, or finished: both harmless.
            if getattr(error, "status_code", None) is None:
                raise ProviderError(f"the terminal's size could not be set: {explanation(error)}") from error

    def _wait(self, exec_id: str, seconds: float) -> None:
        wait_until(lambda: not self._inspect(exec_id)["Running"], limit_s=seconds, every_s=0.05)

    def _inspect(self, exec_id: str) -> Mapping[str, Any]:
        api: Any = self.client.api
        with translated("asking how the command ended"):
            found: Mapping[str, Any] = retrying(lambda: api.exec_inspect(exec_id))
        return found

    def _ends(self, exec_id: str, cancel: Cancel, deadline: float) -> bool:
        """Wait for the command's end, which may follow that of its output; False when it was canceled or out of time."""
        pause_s = 0.005
        while self._inspect(exec_id)["Running"]:  # no limit: as long as the command runs
            if cancel.wait(min(pause_s, _LOOK_EVERY_S)) or time.monotonic() >= deadline:
                return False
            pause_s *= 2
        return True

    def _code(self, exec_id: str) -> int:
        """Return the command's exit code. ProviderError when the engine does not tell it: no guess stands for it."""
        self._wait(exec_id, _CODE_WITHIN_S)
        code = self._inspect(exec_id)["ExitCode"]
        if code is None:
            raise ProviderError(f"the engine has not told the command's exit code within {_CODE_WITHIN_S:.0f} s")
        return int(code)


def _signal_of(cancel: Cancel) -> str:
    return _SIGNALS.get(cancel.exit_code, "TERM") if cancel.requested else "TERM"


def _name(what: str) -> str:
    return f"{driver.DIRECTORY}/{what}.{secrets.token_hex(6)}"


def _feed(source: int | bytes, target: socket.socket) -> None:
    """Send the input until its end or the command's."""
    try:
        if isinstance(source, bytes):
            target.sendall(source)  # no limit: as long as the command does not read; the thread ends with it
        else:
            while data := os.read(source, _READ):
                target.sendall(data)  # no limit: for the same reason
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # no reader any more
