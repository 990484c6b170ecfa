"""Run jobs as plain processes of this machine, with a container's step semantics but without isolation.

A mark in the environment identifies a job's processes, even outside their process group. A small shell beside the
session ends them when loom itself is killed.
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
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import ProviderError, RequestError
from loom.plan.model import Job, MountMode
from loom.providers import interactive
from loom.providers.base import (
    Capabilities,
    Command,
    KeptPlace,
    OpenedServices,
    Provider,
    SessionFacts,
    SessionRequest,
    Setup,
    ViewChange,
)
from loom.providers.driver import shared_shell
from loom.providers.driver.steps import (
    AUTO,
    KNOWS_PIPEFAIL,
    SH,
    arguments_of,
    checked,
    chosen,
    handed_on,
    still_running,
)
from loom.providers.files import archive_of, unnoticed, unpack
from loom.status import Ended, Exit, ExitCode, OnOutput, Stream
from loom.util.untrusted_files import read_regular
from loom.util.within import readable

if TYPE_CHECKING:
    from loom.storage.workspace import OnSkipped

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
_PIPE = 1024 * 1024
_KILL_ROUNDS = 50
_WATCHER_S = 10.0
_LOOK_EVERY_S = 0.2
"""Interval for checking a cancel while another process has the terminal."""
_AFTER_HANGUP_S = 2.0
_SIGNALS: Mapping[ExitCode | None, signal.Signals] = {
    ExitCode.INTERRUPTED: signal.SIGINT,
    ExitCode.HANGUP: signal.SIGHUP,
}

# Its input ends with loom. $1: the mark, $2: the session's private directory.
_WATCHER = """
while IFS= read -r line; do [ "$line" = done ] && exit 0; done
for round in 1 2 3 4 5; do
  for file in $(grep -ls -e "$1" /proc/[0-9]*/environ 2>/dev/null); do
    pid=${file#/proc/}
    kill -KILL "${pid%/environ}" 2>/dev/null
  done
done
rm -rf "$2"
"""


class HostProvider:
    """Implements `providers.base.Provider`; `environ` is the caller's environment, of which jobs get only `PASSED_ON`."""

    name = "host"
    capabilities = Capabilities(mounts=frozenset({MountMode.BIND}), isolated=False)
    images = None

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def described(self) -> str:
        return ""

    def check(self) -> None:
        """This machine is always available."""

    def project_dir(self, workspace: Path) -> str:
        return str(workspace)

    def overlays(self, workspace: Path) -> bool:
        return False

    @contextlib.contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[HostSession]:
        session = HostSession(self._environ, request, on_output)
        try:
            yield session
        finally:
            session.leave()

    def services(self, job: Job, **_: Any) -> AbstractContextManager[OpenedServices]:
        raise ProviderError(f"the services of job {job.id} need a provider of containers")

    def find(self, run_id: str, job_id: str, place_id: str = "", *, user: str = "") -> KeptPlace | None:
        return None

    def remove_run(self, run_id: str, jobs: Sequence[Job]) -> Sequence[str]:
        return ()

    def has_image(self, image_id: str) -> bool:
        return False

    def lay_out(self, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
        raise ProviderError("jobs on this machine have no overlays")

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        return ()


def provider(setup: Setup) -> Provider:
    return HostProvider(setup.environ)


# $0: the descriptor for the shell's reports; then the shell and its arguments. `>&` takes one digit in some shells.
_WITH_REPORTS = f'exec "$@" {shared_shell.REPORTS}>"/proc/self/fd/$0"'


class _Shared(Struct, kw_only=True):
    """The shell that steps share."""

    process: subprocess.Popen[bytes]
    reports: int
    environment: Mapping[str, str]
    """What the last step was given."""
    code: int = 0
    """Of the last step that it has reported."""

    def reported(self) -> bool:
        """Whether a report has come: one line, which arrives as a whole."""
        try:
            report = os.read(self.reports, _READ)
        except BlockingIOError:
            return False
        if report:
            self.code = int(report.split()[-1])
        return bool(report)


class HostSession:
    """Implements `providers.base.Session`."""

    def __init__(self, environ: Mapping[str, str], request: SessionRequest, on_output: OnOutput) -> None:
        self._request = request
        self._on_session_output = on_output
        self._mark = f"{MARK}={secrets.token_hex(16)}"
        try:
            self._private = Path(tempfile.mkdtemp(prefix="loom-host-", dir=_memory_directory(environ)))
        except OSError as error:
            raise ProviderError(f"no private directory for job {request.job_id}: {error}") from error
        name, _, value = self._mark.partition("=")
        self._environment = {
            **{name: environ[name] for name in PASSED_ON if name in environ},
            **request.environment,
            "LOOM_ENV": str(self._private / "env"),
            "LOOM_MASK": str(self._private / "mask"),
            name: value,
        }
        self._auto_shell = _auto_shell(self._environment.get("PATH"))
        self._terminal = environ.get("TERM", "dumb")
        self._handed_on: dict[str, str] = {}
        self._still_ran: tuple[str, ...] = ()
        self._to_mask: list[bytes] = []
        self._number = 0
        self._shared: _Shared | None = None
        # Pipes of earlier steps that a background process still holds.
        self._lingering: dict[int, Stream] = {}
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "loom", self._mark, str(self._private)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    @property
    def facts(self) -> SessionFacts:
        return SessionFacts(
            provider="host",
            user=f"{os.getuid()}:{os.getgid()}",
            auto_shell=self._auto_shell,
            details={"mount_mode": "none", "network": "host"},
        )

    def answers(self) -> bool:
        return self._watcher.poll() is None

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        if cancel.wait(0):
            return Exit(code=130, ended=Ended.CANCELED)
        checked(command.script, command.environment)
        if command.share is None or command.share.first:
            self._end_shared()
        self._number += 1
        file = self._private / f"step.{self._number}"
        script = command.script if command.share is None else shared_shell.file_of(command.script, command.share)
        try:
            file.write_bytes(script.encode("utf-8", "surrogateescape"))
            _write_private(self._private / "env", b"")
            _write_private(self._private / "mask", b"")
        except OSError as error:
            raise ProviderError(
                f"no place for the step of job {self._request.job_id}: {error}",
                hint="an earlier step has put something else in the place of $LOOM_ENV or $LOOM_MASK, or the disk is full",
            ) from error
        deadline = None if command.timeout_s is None else time.monotonic() + command.timeout_s
        shell = chosen(command.shell or self._request.shell, self._auto_shell)
        arguments = arguments_of(shell, str(file)) if command.share is None else list(shell)
        shared = self._shared
        try:
            process = self._process(arguments, command) if shared is None else shared.process
        except OSError as error:
            if not self._request.workspace.is_dir():
                raise ProviderError(f"the workspace {self._request.workspace} is gone") from error
            reason = "not found" if error.errno == errno.ENOENT else os.strerror(error.errno or 0)
            on_output("stderr", f"loom: {arguments[0]}: {reason}\n".encode())
            return Exit(code=127 if error.errno == errno.ENOENT else 126)
        if command.share is not None:
            self._give(str(file), command, restore=shared is None and not command.share.first)
        unregister = cancel.on_request(self._awake)
        goes_on = False
        try:
            ended = self._follow(process, on_output, deadline, cancel)
            goes_on = ended is Ended.EXITED and process.poll() is None
        finally:
            unregister()
            if not goes_on:
                self._close(process)
        self._handed_on.update(handed_on(self._appended("env")))
        self._to_mask += [line for line in self._appended("mask") if line.strip()]
        code = self._shared.code if goes_on and self._shared is not None else _code_of(process)
        return Exit(code=code, ended=ended, still_ran=self._still_ran, goes_on=goes_on)

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        """Make sure that a step's shell has ended."""
        if process.poll() is None:
            self.kill_everything()
            process.wait()  # no limit: it was killed
        if self._shared is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            os.close(self._shared.reports)
            self._shared = None

    def _process(self, arguments: list[str], command: Command) -> subprocess.Popen[bytes]:
        """Start a step's shell, also one that further steps share."""
        if command.share is None:
            return self._start(arguments, command.environment, merge_output=command.merge_output)
        (self._private / "state").touch(mode=0o600)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        wrapped = ["/bin/sh", "-c", _WITH_REPORTS, str(writing), *arguments]
        try:
            process = self._start(wrapped, command.environment, merge_output=command.merge_output, reports=writing)
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._shared = _Shared(process=process, reports=reading, environment=command.environment)
        return process

    def _give(self, file: str, command: Command, *, restore: bool) -> None:
        """Let the shared shell run the next step."""
        shared, share = self._shared, command.share
        assert shared is not None
        assert share is not None
        assert shared.process.stdin is not None
        before = {} if restore else shared.environment
        given = {name: value for name, value in command.environment.items() if before.get(name) != value}
        shared.environment = command.environment
        program = shared_shell.program(file, str(self._private / "state"), given, share, restore=restore)
        with contextlib.suppress(BrokenPipeError):  # its end says why
            shared.process.stdin.write(program)
            shared.process.stdin.flush()

    def _end_shared(self) -> None:
        """End the shell that steps shared: it gets no further command."""
        if self._shared is None:
            return
        process = self._shared.process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            self._follow(process, self._on_session_output, time.monotonic() + _WATCHER_S, Cancel())
        finally:
            self._close(process)

    def _appended(self, name: str) -> list[bytes]:
        """Read the lines of the step's file; empty if the step replaced it."""
        try:
            return _lines(read_regular(self._private / name))
        except OSError:
            return []

    def _start(
        self, arguments: list[str], environment: Mapping[str, str], *, merge_output: bool, reports: int | None = None
    ) -> subprocess.Popen[bytes]:
        """`reports`: a descriptor for a shell that reads its program from its standard input."""
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL if reports is None else subprocess.PIPE,
                pass_fds=() if reports is None else (reports,),
                stdout=pipes[0][1],
                stderr=pipes[0][1] if merge_output else pipes[1][1],
                cwd=self._request.workspace,
                env={**self._environment, **environment},
                start_new_session=True,
            )
        except BaseException:
            for reading, _ in pipes:
                os.close(reading)
            raise
        finally:
            for _, writing in pipes:
                os.close(writing)
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        for (reading, _), stream in zip(pipes, streams, strict=True):
            os.set_blocking(reading, False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE)  # fewer, larger reads; the user's limit may forbid it
            self._lingering[reading] = stream
        return process

    def _follow(
        self, process: subprocess.Popen[bytes], on_output: OnOutput, deadline: float | None, cancel: Cancel
    ) -> Ended:
        ended = Ended.EXITED
        kill_at: float | None = None
        pidfd = os.pidfd_open(process.pid)
        try:
            while True:
                now = time.monotonic()
                if ended is Ended.EXITED and (cancel.requested or (deadline is not None and now >= deadline)):
                    ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                    if ended is Ended.TIMED_OUT:
                        self._still_ran = self._commands()
                    kill_at = now + self._request.grace_s
                    self._signal_everything(signal.SIGTERM)
                if kill_at is not None and (cancel.now or now >= kill_at):
                    self.kill_everything()
                    kill_at = None
                until = kill_at if ended is not Ended.EXITED else deadline
                reports = self._shared.reports if self._shared is not None else -1
                ready = readable(
                    (pidfd, self._wake, *((reports,) if reports >= 0 else ()), *self._lingering),
                    None if until is None else until - now,
                )
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                for descriptor in ready:
                    if descriptor in self._lingering:
                        self._read(descriptor, _READ, on_output)
                reported = self._shared is not None and reports in ready and self._shared.reported()
                if pidfd in ready or reported:
                    if ended is not Ended.EXITED:
                        self.kill_everything()
                    if not reported:
                        process.wait()  # no limit: it has ended
                    # The pipes now hold all of the step's output; later output is from background processes.
                    for descriptor in list(self._lingering):
                        self._read(descriptor, _waiting(descriptor), on_output)
                    return ended
        finally:
            os.close(pidfd)

    def _read(self, descriptor: int, size: int, on_output: OnOutput) -> None:
        while size > 0:
            try:
                data = os.read(descriptor, min(size, _READ))
            except BlockingIOError:
                return
            if not data:
                del self._lingering[descriptor]
                os.close(descriptor)
                return
            on_output(self._lingering[descriptor], data)
            size -= len(data)

    def _awake(self) -> None:
        if not self._closed:
            os.eventfd_write(self._wake, 1)

    def _signal_everything(self, number: signal.Signals) -> int:
        found = self._processes()
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return len(found)

    def kill_everything(self) -> None:
        """KILL until none is left: the next round finds concurrent forks."""
        for _ in range(_KILL_ROUNDS):
            if self._signal_everything(signal.SIGKILL) == 0:
                return
            time.sleep(0.005)

    def _processes(self) -> list[int]:
        """Return all living processes with the session's mark."""
        mark = self._mark.encode()
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    environ = Path(f"/proc/{entry.name}/environ").read_bytes()
                except OSError:
                    continue  # gone, or another user's
                if mark in environ.split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _commands(self) -> tuple[str, ...]:
        """Return the command lines of what the step runs."""
        commands = []
        own = self._shared.process.pid if self._shared is not None else None
        for pid in self._processes():
            if pid == own:
                continue
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                commands.append(line.decode("utf-8", "replace"))
        return still_running(commands, str(self._private / "step."))

    def handed_on(self) -> Mapping[str, str]:
        return dict(self._handed_on)

    def to_mask(self) -> list[bytes]:
        found, self._to_mask = self._to_mask, []
        return found

    def put_secret(self, name: str, content: bytes) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise RequestError(f"{name!r} can't be the name of a secret's file")
        path = self._private / f"secret.{name}"
        _write_private(path, content)
        return str(path)

    def settle(self) -> None:
        """They already belong to the caller."""

    def workspace_view(self) -> Path | None:
        return self._request.workspace

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        return archive_of(self._request.workspace, paths, on_skipped)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        unpack(archive, self._request.workspace)

    def changes(self) -> Sequence[ViewChange] | None:
        return None

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> HostInside:
        return HostInside(
            workspace=self._request.workspace,
            environment={**self._environment, **environment},
            private=self._private,
            terminal_type=self._terminal,
            kill_everything=self.kill_everything,
        )

    def size(self) -> int:
        return 0

    def keep(self, expires_at: float) -> None:
        """The workspace stays anyway, and a new process can start in it at any time."""

    def leave(self) -> None:
        self._end_shared()
        self.kill_everything()
        for descriptor in list(self._lingering):
            self._read(descriptor, _waiting(descriptor), self._on_session_output)
        for descriptor in self._lingering:
            os.close(descriptor)
        self._lingering.clear()
        self._closed = True
        os.close(self._wake)
        shutil.rmtree(self._private, ignore_errors=True)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # it ends by itself
            self._watcher.communicate(b"done\n", timeout=_WATCHER_S)


class HostInside(Struct, frozen=True, kw_only=True):
    """Implements `providers.base.Inside`."""

    workspace: Path
    environment: Mapping[str, str]
    private: Path
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
            process = self._on_terminal(command, self.environment, pipe, stdin=None if stdin else subprocess.DEVNULL)
        except OSError as error:
            text = f"loom: {command[0]}: {error.strerror}\n"
            if on_output is None:
                sys.stderr.write(text)
            else:
                on_output("stderr", text.encode())
            return Exit(code=127 if error.errno == errno.ENOENT else 126)

        def pass_on(name: str) -> None:
            if not (name == "QUIT" and _is_foreground()):  # the terminal sent it
                process.send_signal(signal.Signals[f"SIG{name}"])

        cancel.pass_on = pass_on
        ended = Ended.EXITED
        kill_at: float | None = None
        out, err = None, None
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                out, err = process.communicate(timeout=_LOOK_EVERY_S)  # asking again is harmless
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
            if kill_at is not None and (now >= kill_at or cancel.now or process.poll() is not None):
                self.kill_everything()  # also what a command that has ended left
            elif kill_at is None and (cancel.requested or (deadline is not None and now >= deadline)):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                kill_at = now + grace_s
                if not (cancel.exit_code is ExitCode.INTERRUPTED and _is_foreground()):  # the terminal sent it
                    process.send_signal(_SIGNALS.get(cancel.exit_code, signal.SIGTERM))
        if ended is not Ended.EXITED:
            self.kill_everything()
        if on_output is not None:
            on_output("stdout", out or b"")
            on_output("stderr", err or b"")
        return Exit(code=_code_of(process), ended=ended)

    def continued(self, command: Sequence[str]) -> Sequence[str]:
        return interactive.continued(command, str(self.private / "state"))

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        prepared = interactive.prepared(
            shell,
            script=script,
            name=name,
            state=str(self.private / "state"),
            new_path=lambda what: str(self.private / f"{what}.{secrets.token_hex(6)}"),
        )
        for path, content in prepared.files.items():
            _write_private(Path(path), content)
        return self.terminal(prepared.command, cancel).code

    def terminal(self, command: Sequence[str], cancel: Cancel, *, timeout_s: float | None = None) -> Exit:
        settings = termios.tcgetattr(0)
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        try:
            process = self._on_terminal(command, {"TERM": self.terminal_type, **self.environment}, None)
        except OSError as error:
            raise ProviderError(f"{command[0]} could not be started: {error}") from error
        ended, kill_at = Ended.EXITED, math.inf
        try:
            while True:
                try:
                    process.wait(_LOOK_EVERY_S)
                    break
                except subprocess.TimeoutExpired:
                    now = time.monotonic()
                if now >= kill_at:
                    process.kill()
                elif ended is Ended.EXITED and (cancel.requested or now >= deadline):
                    ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                    kill_at = now + _AFTER_HANGUP_S
                    # A shell passes it on to its children.
                    process.send_signal(signal.SIGHUP if cancel.requested else signal.SIGTERM)
        finally:
            if ended is not Ended.EXITED:
                self.kill_everything()
            _take_terminal(settings)
        return Exit(code=_code_of(process), ended=ended)

    def _on_terminal(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        pipe: int | None,
        *,
        stdin: int | None = None,
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                list(arguments), cwd=self.workspace, env=dict(environment), stdin=stdin, stdout=pipe, stderr=pipe
            )
        except OSError as error:
            if not self.workspace.is_dir():
                raise ProviderError(f"the workspace {self.workspace} is gone") from error
            raise


def _auto_shell(path: str | None) -> tuple[str, ...]:
    """Return the shell of jobs that name none, among the programs of `path`."""
    if shutil.which("bash", path=path) is not None:
        return AUTO["bash"]
    sh = shutil.which("sh", path=path) or "/bin/sh"
    asked = subprocess.run(
        [sh, "-c", KNOWS_PIPEFAIL], check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    return AUTO["pipefail"] if asked.returncode == 0 else SH


def _code_of(process: subprocess.Popen[bytes]) -> int:
    code = process.returncode
    return code if code >= 0 else 128 - code


def _waiting(descriptor: int) -> int:
    """Return the number of bytes in a pipe, at least one so that its end is noticed."""
    size: int = struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"))[0]
    return max(size, 1)


def _write_private(path: Path, content: bytes) -> None:
    """Open a file; OSError also for a link or a FIFO, which would not be private or would block."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _is_foreground() -> bool:
    """Whether ^C on the caller's terminal reaches its child processes."""
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


def _lines(content: bytes) -> list[bytes]:
    return content.replace(b"\0", b"").removesuffix(b"\n").split(b"\n") if content else []


def _memory_directory(environ: Mapping[str, str]) -> str | None:
    """Return a directory in memory for secrets; None if only the usual temporary directory exists."""
    for candidate in (environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):
        if candidate and os.access(candidate, os.W_OK | os.X_OK):
            return candidate
    return None
