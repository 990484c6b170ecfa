"""Run commands in a job's container beside its driver: with connected streams, or as a shell on a terminal.

Like `docker exec` (`-i`, `-it`), except that a signal, timeout or closed terminal also ends the command, which an engine
would leave running.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import queue
import secrets
import stat
import struct
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGPIPE
from typing import Protocol

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.providers import interactive
from loom.providers.driver import protocol as driver
from loom.providers.driver.steps import quoted
from loom.record.lines import STANDARD_OUTPUT
from loom.status import Ended, Exit, ExitCode, OnOutput, Stream
from loom.values import Environ, Immutable

_READ = 64 * 1024
_SIZE_EVERY_S = 0.25
"""Interval for checking the terminal's size: its signal reaches only the main thread."""
_LOOK_EVERY_S = 0.25
_AFTER_HANGUP_S = 2.0
_SIGNALS: Mapping[ExitCode | None, str] = {ExitCode.INTERRUPTED: "INT", ExitCode.HANGUP: "HUP"}

_SIGNAL_WITHIN_S = 10.0
"""Time limit for the last words to take effect."""
_OK = "ok"
# Writes its process id to a file, then becomes the command.
BECOME = 'f=$1; shift; { printf "%s\\n" "$$" >"$f"; } 2>/dev/null; exec "$@"'


Connect = Callable[[Sequence[str]], "RunningCommand"]
"""Starts a command in the container as the watched one's user. Each call of the connection takes a limited time."""


class Watcher:
    """A second process beside a command in its container, connected to loom: it also ends the command when loom dies.

    A thread talks to it: the engine may not answer while the command's output blocks.
    """

    def __init__(self, connect: Connect, pid_file: str) -> None:
        """Start the watcher, before the command starts, so that no death of loom leaves one."""
        self._connection = connect(["sh", "-c", driver.source(Path(__file__).with_name("watch.sh")), "loom", pid_file])
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="end of a command", daemon=True)
        self._thread.start()

    def signal(self, name: str) -> None:
        """Send a signal (`TERM`) to the command and everything that it started; KILL leaves none of them."""
        self._words.put(name)

    def pass_on(self, name: str) -> None:
        """Send a signal to the command alone."""
        self._words.put(f"only{name}")

    def look(self) -> None:
        """Kill what is left, after a signal, if the command itself has ended."""
        self._words.put("rest")

    def close(self) -> None:
        """Wait for the signals to take effect. Whatever still runs stays."""
        self._words.put(_OK)
        self._thread.join(2 * _SIGNAL_WITHIN_S)

    def _run(self) -> None:
        # A command that has ended, or a container that is gone, needs no signal.
        with contextlib.suppress(ProviderError, OSError):
            try:
                word = ""
                while word != _OK:
                    word = self._words.get()  # no limit: as long as the command runs; `close` ends it
                    self._connection.send(f"{word}\n".encode())
                ends_within(self._connection, _SIGNAL_WITHIN_S)
            finally:
                self._connection.close()


class RunningCommand(Protocol):
    """A command that an engine runs, connected to its streams. One thread reads; any may send."""

    def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    @property
    def ended(self) -> bool:
        """The command and its output have ended."""

    @property
    def code(self) -> int:
        """The exit code, after the end. ProviderError when the engine does not tell it: no guess stands for it."""

    def fileno(self) -> int: ...

    def ready(self, timeout_s: float, *others: int) -> list[int]:
        """Wait until there is something to read here or from the other descriptors; return those."""

    def read(self) -> tuple[Stream, bytes] | None:
        """Return the next piece of output, or None. Raises OSError when the connection breaks."""

    def end_input(self) -> None:
        """Close its standard input."""

    def resize(self, height: int, width: int) -> None: ...


def ends_within(ran: RunningCommand, limit_s: float) -> bool:
    """Drain the output of a command; return whether it ended in time."""
    deadline = time.monotonic() + limit_s
    with contextlib.suppress(OSError):
        while not ran.ended and (left := deadline - time.monotonic()) > 0:
            if ran.ready(left):
                ran.read()
    return ran.ended


class CommandsInside(Immutable):
    """Access to a session for a person, between steps or after them, by what an engine can do: `begin`, `script`, `lost`."""

    environment: Environ
    directory: str = driver.DIRECTORY
    """The driver's."""

    def begin(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> tuple[RunningCommand, Watcher]:
        """Start a command in the project's directory."""
        raise NotImplementedError

    def script(self, program: bytes) -> tuple[int, str]:
        """Run a small program with `sh`; return its exit code and output."""
        raise NotImplementedError

    def lost(self, error: OSError) -> LoomError | None:
        """Return the error for a broken connection; None for another one."""
        return None

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
        """Run a command in the project's directory with the caller's standard input; an empty one without `stdin`.

        Without `on_output`, output goes to the caller's own streams. A cancel or timeout sends a signal, then KILL
        after the grace period.
        """
        given = stdin and not _has_no_input()
        ran, watcher = self.begin(command, stdin=given)
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        unregister = cancel.on_request(lambda: os.eventfd_write(wake, 1))
        cancel.pass_on = watcher.pass_on
        try:
            if given:
                threading.Thread(target=_feed, args=(ran,), daemon=True).start()
            ended = _follow(ran, on_output or print_output, cancel, watcher, wake, timeout_s, grace_s)
            if ended is not Ended.EXITED:
                watcher.signal("KILL")
        except OSError as error:
            # First, because an engine may not answer while the command's output blocks.
            ran.close()
            watcher.signal("PIPE")
            if isinstance(error, BrokenPipeError):
                return Exit(code=128 + SIGPIPE, ended=Ended.EXITED)
            if (lost := self.lost(error)) is not None:
                raise lost from error
            raise
        finally:
            unregister()
            ran.close()
            watcher.close()
            os.close(wake)
        return Exit(code=ran.code, ended=ended)

    def terminal(self, command: Sequence[str], cancel: Cancel, *, timeout_s: float | None = None) -> Exit:
        """Run a command on the caller's terminal, which is restored afterwards.

        A cancel, a timeout or a closed terminal also ends everything that the command started.
        """
        command = interactive.terminal_command(command, kind(self.environment))
        ran, watcher = self.begin(command, stdin=True, tty=True)
        cancel.pass_on = watcher.pass_on
        try:
            with raw(0):
                ended = _pass_through(ran, cancel, timeout_s)
                if ended is not Ended.EXITED:
                    watcher.signal("HUP" if ended is Ended.CANCELED else "TERM")
                    ends_within(ran, _AFTER_HANGUP_S)
                    watcher.signal("KILL")
        except OSError as error:
            if (lost := self.lost(error)) is not None:
                raise lost from error
            raise
        finally:
            ran.close()
            watcher.close()
        return Exit(code=ran.code if ended is Ended.EXITED or ran.ended else 137, ended=ended)

    def continued(self, command: Sequence[str]) -> Sequence[str]:
        """Return a command that runs `command` in the state of the steps' shared shell."""
        return interactive.continued(command, f"{self.directory}/state")

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        """Open an interactive shell on the caller's terminal (see `interactive.prepared`); return its exit code."""
        files, command = interactive.prepared(
            shell,
            script=script,
            name=name,
            state=f"{self.directory}/state",
            new_path=lambda what: new_path(what, self.directory),
        )
        self.write(files)
        return self.terminal(command, cancel).code

    def write(self, files: Mapping[str, bytes]) -> None:
        """Create small private files. Their content is in no request's address, which an engine may log."""
        lines = [b"umask 077\n"]
        for path, content in files.items():
            # Any bytes: quoted for the shell and `%b`; only NUL needs an escape.
            escaped = content.replace(b"\\", b"\\\\").replace(b"\0", b"\\0000").replace(b"'", b"'\\''")
            lines.append(b"printf %b '" + escaped + b"' >" + quoted(path) + b" || exit 1\n")
        code, output = self.script(b"".join([*lines, b"exit 0\n"]))
        if code != 0:
            raise ProviderError(f"files could not be put into the container: {output or f'exit code {code}'}")


def new_path(what: str, directory: str = driver.DIRECTORY) -> str:
    """Return a new path in the driver's directory."""
    return f"{directory}/{what}.{secrets.token_hex(6)}"


def _follow(
    ran: RunningCommand,
    on_output: OnOutput,
    cancel: Cancel,
    watcher: Watcher,
    wake: int,
    timeout_s: float | None,
    grace_s: float,
) -> Ended:
    ended = Ended.EXITED
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    kill_at: float | None = None
    while not ran.ended:
        now = time.monotonic()
        if kill_at is not None and (now >= kill_at or cancel.now):
            watcher.signal("KILL")
            kill_at = None if cancel.now else now + grace_s
        elif ended is not Ended.EXITED:
            watcher.look()
        elif cancel.requested or now >= deadline:
            ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
            kill_at = now + grace_s
            watcher.signal(_SIGNALS.get(cancel.exit_code, "TERM") if cancel.requested else "TERM")
        until = deadline if ended is Ended.EXITED else now + _LOOK_EVERY_S
        ready = ran.ready(min(3600.0, until - now), wake)
        if wake in ready:
            os.eventfd_read(wake)
        if ran.fileno() in ready and (piece := ran.read()) is not None:
            on_output(*piece)
    return ended


def _pass_through(ran: RunningCommand, cancel: Cancel, timeout_s: float | None) -> Ended:
    """Connect the terminal until the output ends, the terminal closes, a cancel arrives or the time is over."""
    size: tuple[int, int] | None = None
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    while not cancel.requested:
        left = min(_SIZE_EVERY_S, deadline - time.monotonic())
        if left <= 0:
            return Ended.TIMED_OUT
        if (now := size_of(1)) != size:
            size = now
            ran.resize(*now)
        ready = ran.ready(left, 0)
        try:
            if 0 in ready:
                typed = os.read(0, _READ)
                if not typed:
                    return Ended.CANCELED
                ran.send(typed)
            if ran.fileno() in ready and (piece := ran.read()) is not None:
                write_all(1, piece[1])
        except TimeoutError as error:
            raise ProviderError("the container has taken no input for a minute") from error
        except OSError as error:
            if error.errno in (errno.EIO, errno.EBADF, errno.ENXIO):
                return Ended.CANCELED
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                return Ended.EXITED
            raise
        if ran.ended:
            return Ended.EXITED
    return Ended.CANCELED


def _feed(ran: RunningCommand) -> None:
    """Send standard input until its end or the command's."""
    with contextlib.suppress(OSError):
        while data := os.read(0, _READ):
            ran.send(data)
        ran.end_input()


def _has_no_input() -> bool:
    """Return whether standard input is closed, or the null device."""
    try:
        found = os.fstat(0)
    except OSError:
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == Path(os.devnull).stat().st_rdev


# The caller's terminal and streams


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Put the terminal in raw mode (also ^C and ^Z reach the shell) and restore it."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def kind(environment: Environ) -> str:
    """Return the caller's TERM, for a session whose commands have none of their own in `environment`; empty to leave it."""
    return "" if "TERM" in environment else os.environ.get("TERM", "")


def size_of(descriptor: int) -> tuple[int, int]:
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return (rows or 24), (columns or 80)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def print_output(stream: Stream, data: bytes) -> None:
    """Write output of a command to this process's own standard output or error."""
    descriptor, name = (1, STANDARD_OUTPUT) if stream == "stdout" else (2, "standard error")
    try:
        write_all(descriptor, data)
    except OSError as error:
        error.filename = name
        raise
