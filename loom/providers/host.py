"""Run jobs as plain processes of this machine, by the driver of containers but without isolation.

A mark in the environment identifies a job's processes, even outside their process group. The driver ends them when loom
itself is killed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers.base import Capabilities, Provider, Session, SessionFacts, SessionRequest, Setup
from loom.providers.driven import DrivenSession
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import Died, Exchange
from loom.providers.inside import CommandsInside, print_output
from loom.status import Ended, Exit, ExitCode, OnOutput, Stream
from loom.util.within import readable
from loom.values import Environ

PASSED_ON = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""The variables that a job inherits from the caller: most tools need them."""
MARK = "LOOM_SESSION_MARK"
_READ = 256 * 1024
_LOOK_EVERY_S = 0.2
"""Interval for checking a cancel while another process has the terminal."""
_AFTER_HANGUP_S = 2.0
_SIGNALS: Mapping[ExitCode | None, signal.Signals] = {
    ExitCode.INTERRUPTED: signal.SIGINT,
    ExitCode.HANGUP: signal.SIGHUP,
}


class HostProvider(Provider):
    """Implements `providers.base.Provider`; `environ` is the caller's environment, of which jobs get only `PASSED_ON`."""

    name = "host"
    capabilities = Capabilities(mounts=frozenset({MountMode.BIND}), isolated=False)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def project_dir(self, workspace: Path) -> str:
        return str(workspace)

    @contextlib.contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[HostSession]:
        session = HostSession(self._environ, request, on_output)
        try:
            session.start(cancel)
            yield session
        finally:
            session.leave()

    def host_address(self, request: SessionRequest, session: Session) -> str:
        return "127.0.0.1/8"


def provider(setup: Setup) -> Provider:
    return HostProvider(setup.environ)


class _Pipes:
    """Implements `driver.channel.Attachment` for a driver that is a process of this machine."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._input = process.stdin
        self._files = (process.stdout, process.stderr)
        self._open: dict[int, Stream] = {process.stdout.fileno(): "stdout", process.stderr.fileno(): "stderr"}
        for descriptor in self._open:
            with contextlib.suppress(OSError):
                fcntl.fcntl(
                    descriptor, fcntl.F_SETPIPE_SZ, 1 << 20
                )  # fewer, larger reads; the user's limit may forbid it
        self._process = os.pidfd_open(process.pid)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.at_end = self._closed = False

    def send(self, data: bytes) -> None:
        self._input.write(data)
        self._input.flush()

    def wake(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def read(self, timeout_s: float) -> list[tuple[Stream, bytes]]:
        ready = readable((self._wake, self._process, *self._open), timeout_s)
        if self._wake in ready:
            os.eventfd_read(self._wake)
        chunks: list[tuple[Stream, bytes]] = []
        for descriptor in [descriptor for descriptor in self._open if descriptor in ready]:
            if data := os.read(descriptor, _READ):
                chunks.append((self._open[descriptor], data))
            else:
                del self._open[descriptor]
        # A process that the driver left may hold the pipes.
        self.at_end = not chunks and (not self._open or self._process in ready)
        return chunks

    def close_input(self) -> None:
        with contextlib.suppress(OSError):
            self._input.close()

    def close(self) -> None:
        self.close_input()
        self._closed = True
        for file in self._files:
            file.close()
        os.close(self._process)
        os.close(self._wake)


class HostSession(DrivenSession):
    """Implements `providers.base.Session`; its driver is a process of this machine."""

    def __init__(self, environ: Environ, request: SessionRequest, on_output: OnOutput) -> None:
        self._request = request
        self._terminal = environ.get("TERM", "dumb")
        self._mark = secrets.token_hex(16)
        try:
            self._private = Path(tempfile.mkdtemp(prefix="loom-host-", dir=_memory_directory(environ)))
        except OSError as error:
            raise ProviderError(f"no private directory for job {request.job_id}: {error}") from error
        self._whole = {
            **{name: environ[name] for name in PASSED_ON if name in environ},
            **request.environment,
            "LOOM_ENV": str(self._private / "env"),
            "LOOM_MASK": str(self._private / "mask"),
        }
        self._process = self._started()
        super().__init__(
            _Pipes(self._process),
            request,
            SessionFacts(details={"mount_mode": "none", "network": "host"}),
            on_output,
            environment={MARK: self._mark},
            directory=str(self._private),
        )

    def _started(self) -> subprocess.Popen[bytes]:
        """Start the driver. Its environment is not marked, so that it outlives what it kills."""
        program = self._private / "driver"
        program.write_bytes(driver.program_here(str(self._private), f"{MARK}={self._mark}"))
        try:
            return subprocess.Popen(
                ["/bin/sh", str(program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._request.workspace,
                env=self._whole,
                start_new_session=True,
            )
        except OSError as error:
            shutil.rmtree(self._private, ignore_errors=True)
            raise ProviderError(f"no shell in the workspace {self._request.workspace}: {error}") from error

    def start(self, cancel: Cancel) -> None:
        """Wait for the driver's greeting."""
        exchange = Exchange()
        self.send(driver.greeting(exchange.token))
        self.greet(
            exchange, cancel, lambda output, reason: ProviderError(f"the driver did not start: {reason}: {output}")
        )

    def prepare_step(self) -> None:
        if not self._request.workspace.is_dir():
            raise ProviderError(f"the workspace {self._request.workspace} is gone")

    # The driver's container

    def resume(self, error: OSError | None) -> None:
        self.kill()
        raise Died(_code_of(self._process), oom=False)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()  # no limit: it was killed
        self.kill_everything()

    def kill_everything(self) -> None:
        """Send KILL until no process is left: the next round finds concurrent forks."""
        for _ in range(50):
            found = self._processes()
            for pid in found:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not found:
                return
            time.sleep(0.005)

    def _processes(self) -> list[int]:
        """Return all living processes with the session's mark."""
        mark = f"{MARK}={self._mark}".encode()
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    with open(f"/proc/{entry.name}/environ", "rb", buffering=0) as file:  # noqa: PTH123  of hundreds
                        environ = file.readall()
                except OSError:
                    continue  # gone, or another user's
                if mark in environ and mark in environ.split(b"\0"):
                    found.append(int(entry.name))
        return found

    def still_running(self) -> Sequence[str]:
        commands = []
        for pid in self._processes():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                commands.append(line.decode("utf-8", "replace"))
        return commands

    def files(self) -> Path:
        return self._request.workspace

    def inside(self, environment: Environ, *, as_root: bool = False) -> HostInside:
        return HostInside(
            workspace=self._request.workspace,
            environment={**self._whole, MARK: self._mark, **environment},
            directory=str(self._private),
            terminal_type=self._terminal,
            kill_everything=self.kill_everything,
        )

    def keep(self, expires_at: float) -> None:
        """Do nothing: the workspace stays anyway, and a new process can start in it at any time."""

    def leave(self) -> None:
        try:
            self.end()
        finally:  # its output may have nowhere to go
            self.kill()
            self.attachment.close()
            shutil.rmtree(self._private, ignore_errors=True)


class HostInside(CommandsInside):
    """Commands as processes that have the caller's own streams and terminal."""

    workspace: Path
    terminal_type: str
    kill_everything: Callable[[], None]

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
        pipe = subprocess.PIPE if on_output is not None else None
        try:
            process = self._start_on_terminal(
                command, self.environment, pipe, stdin=None if stdin else subprocess.DEVNULL
            )
        except OSError as error:
            (on_output or print_output)("stderr", f"loom: {command[0]}: {error.strerror}\n".encode())
            return Exit(code=127 if error.errno == errno.ENOENT else 126)

        def pass_on(name: str) -> None:
            if not (name == "QUIT" and _is_foreground()):  # the terminal sent it
                process.send_signal(signal.Signals[f"SIG{name}"])

        cancel.pass_on = pass_on
        ended, out, err = self._wait_for_end(process, cancel, timeout_s, grace_s)
        if on_output is not None:
            on_output("stdout", out or b"")
            on_output("stderr", err or b"")
        return Exit(code=_code_of(process), ended=ended)

    def _wait_for_end(
        self,
        process: subprocess.Popen[bytes],
        cancel: Cancel,
        timeout_s: float | None,
        grace_s: float,
        *,
        hang_up: bool = False,
    ) -> tuple[Ended, bytes | None, bytes | None]:
        """Return a command's exit code and output. After a cancel or its timeout it gets a signal, and KILL `grace_s` later."""
        ended, kill_at = Ended.EXITED, math.inf
        out: bytes | None = None
        err: bytes | None = None
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                out, err = process.communicate(timeout=_LOOK_EVERY_S)  # asking again is harmless
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if ended is not Ended.EXITED:
                if now >= kill_at or cancel.now or process.poll() is not None:
                    self.kill_everything()  # also what a command that has ended left
            elif cancel.requested or now >= deadline:
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                kill_at = now + grace_s
                if hang_up and cancel.requested:
                    process.send_signal(signal.SIGHUP)  # a shell passes it on to its children
                elif not (cancel.exit_code is ExitCode.INTERRUPTED and _is_foreground()):  # the terminal sent it
                    process.send_signal(_SIGNALS.get(cancel.exit_code, signal.SIGTERM))
        if ended is not Ended.EXITED:
            self.kill_everything()
        return ended, out, err

    def write(self, files: Mapping[str, bytes]) -> None:
        for path, content in files.items():
            # OSError also for a link or a FIFO, which would not be private or would block.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
            with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                file.write(content)

    def terminal(self, command: Sequence[str], cancel: Cancel, *, timeout_s: float | None = None) -> Exit:
        settings = termios.tcgetattr(0)
        try:
            process = self._start_on_terminal(command, {"TERM": self.terminal_type, **self.environment}, None)
        except OSError as error:
            raise ProviderError(f"{command[0]} could not be started: {error}") from error
        try:
            ended, _, _ = self._wait_for_end(process, cancel, timeout_s, _AFTER_HANGUP_S, hang_up=True)
        finally:
            _take_terminal(settings)
        return Exit(code=_code_of(process), ended=ended)

    def _start_on_terminal(
        self, arguments: Sequence[str], environment: Environ, pipe: int | None, *, stdin: int | None = None
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                list(arguments), cwd=self.workspace, env=dict(environment), stdin=stdin, stdout=pipe, stderr=pipe
            )
        except OSError as error:
            if not self.workspace.is_dir():
                raise ProviderError(f"the workspace {self.workspace} is gone") from error
            raise


def _code_of(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _is_foreground() -> bool:
    """Return whether ^C on the caller's terminal reaches its child processes."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _take_terminal(settings: list[Any]) -> None:
    """Take the terminal back from a shell and restore its settings."""
    # This would stop a background process unless it ignores the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            os.tcsetpgrp(0, os.getpgrp())
            termios.tcsetattr(0, termios.TCSADRAIN, settings)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _memory_directory(environ: Environ) -> str | None:
    """Return a directory in memory for secrets; None if only the usual temporary directory exists."""
    for candidate in (environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return None
