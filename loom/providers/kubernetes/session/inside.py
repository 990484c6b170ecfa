"""Commands in a job's container beside its driver: with connected streams, or on a terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGPIPE
from typing import TYPE_CHECKING

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, LoomError, ProviderError
from loom.providers import interactive
from loom.providers.driver import protocol as driver
from loom.providers.driver.steps import still_running
from loom.providers.kubernetes.pod.spec import JOB
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.exec import Exec
from loom.providers.terminal import kind, raw, size_of, to_streams, write_all
from loom.providers.watcher import BECOME, Watcher
from loom.status import Ended, Exit, ExitCode, OnOutput

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster

_READ = 64 * 1024
_SIZE_EVERY_S = 0.25
_LOOK_EVERY_S = 0.25
_AFTER_HANGUP_S = 2.0
_SIGNALS: Mapping[ExitCode | None, str] = {ExitCode.INTERRUPTED: "INT", ExitCode.HANGUP: "HUP"}
# $1: the directory, $2: a file with `export` lines, which goes; then the command.
_ENTER = 'cd "$1" || exit 126; [ -z "$2" ] || { . "$2"; rm -f "$2"; }; shift 2; exec "$@"'
_LIST = "for p in /proc/[0-9]*; do tr '\\0\\n' '  ' <\"$p/cmdline\" && echo; done 2>/dev/null"


def commands_in(cluster: Cluster, pod: str) -> tuple[str, ...]:
    """The command lines of what the job's container runs; nothing where it can't tell."""
    try:
        _, out, _ = execs.run(cluster, pod, JOB, ["sh", "-c", _LIST], silent_s=10.0, doing="listing processes")
    except (LoomError, OSError):
        return ()
    lines = [line.strip() for line in out.decode("utf-8", "replace").splitlines()]
    own = [line for line in lines if line and driver.MARK not in line and "/proc/[0-9]*" not in line]
    return still_running(own, f"{driver.DIRECTORY}/step.")


class PodInside(Struct, frozen=True, kw_only=True):
    """Implements `providers.base.Inside` for the job's container of a running pod."""

    cluster: Cluster
    pod: str
    workdir: str
    environment: Mapping[str, str]

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
        given = stdin and not _is_empty(0)
        ran, watcher = self._start(command, stdin=given)
        wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        unregister = cancel.on_request(lambda: os.eventfd_write(wake, 1))
        cancel.pass_on = watcher.pass_on
        try:
            if given:
                threading.Thread(target=_feed, args=(ran,), daemon=True).start()
            ended = self._follow(ran, on_output or to_streams(1, 2), cancel, watcher, wake, timeout_s, grace_s)
            if ended is not Ended.EXITED:
                watcher.signal("KILL")
        except BrokenPipeError:
            ran.close()
            watcher.signal("PIPE")
            return Exit(code=128 + SIGPIPE, ended=Ended.EXITED)
        except execs.Broken as error:
            raise self._lost(error) from error
        finally:
            unregister()
            ran.close()
            watcher.close()
            os.close(wake)
        return Exit(code=ran.code if ended is Ended.EXITED or ran.ended else 137, ended=ended)

    def _follow(
        self,
        ran: Exec,
        on_output: OnOutput,
        cancel: Cancel,
        watcher: Watcher,
        wake: int,
        timeout_s: float | None,
        grace_s: float,
    ) -> Ended:
        ended = Ended.EXITED
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        kill_at: float | None = None
        while not ran.ended:
            now = time.monotonic()
            if kill_at is not None and (now >= kill_at or cancel.now):
                watcher.signal("KILL")
                kill_at = None if cancel.now else now + grace_s
            elif ended is not Ended.EXITED:
                watcher.look()
            elif cancel.requested or (deadline is not None and now >= deadline):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                kill_at = now + grace_s
                watcher.signal(_SIGNALS.get(cancel.exit_code, "TERM") if cancel.requested else "TERM")
            until = deadline if ended is Ended.EXITED else now + _LOOK_EVERY_S
            ready = ran.ready(3600.0 if until is None else until - now, wake)
            if wake in ready:
                os.eventfd_read(wake)
            if ran.fileno() in ready and (piece := ran.read()) is not None:
                on_output(*piece)
        return ended

    def terminal(self, command: Sequence[str], cancel: Cancel, *, timeout_s: float | None = None) -> Exit:
        command = interactive.on_terminal(command, kind(self.environment))
        ran, watcher = self._start(command, stdin=True, tty=True)
        cancel.pass_on = watcher.pass_on
        try:
            with raw(0):
                ended = self._pass_through(ran, cancel, timeout_s)
                if ended is not Ended.EXITED:
                    watcher.signal("HUP" if ended is Ended.CANCELED else "TERM")
                    ran.ends_within(_AFTER_HANGUP_S)
                    watcher.signal("KILL")
        except execs.Broken as error:
            raise self._lost(error) from error
        finally:
            ran.close()
            watcher.close()
        return Exit(code=ran.code if ran.ended else 137, ended=ended)

    def _pass_through(self, ran: Exec, cancel: Cancel, timeout_s: float | None) -> Ended:
        """Connect the terminal until the output ends, the terminal closes, a cancel arrives or the time is over."""
        size: tuple[int, int] | None = None
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not cancel.requested:
            left = _SIZE_EVERY_S if deadline is None else min(_SIZE_EVERY_S, deadline - time.monotonic())
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
            except OSError as error:
                if error.errno in (errno.EIO, errno.EBADF, errno.ENXIO):
                    return Ended.CANCELED
                raise
            if ran.ended:
                return Ended.EXITED
        return Ended.CANCELED

    def continued(self, command: Sequence[str]) -> Sequence[str]:
        return interactive.continued(command, driver.STATE_FILE)

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        prepared = interactive.prepared(shell, script=script, name=name, state=driver.STATE_FILE, new_path=_new_path)
        self.write(prepared.files)
        return self.terminal(prepared.command, cancel).code

    def write(self, files: Mapping[str, bytes]) -> None:
        """Create small private files. Their content is never in a request's address, which the cluster may log."""
        lines = [b"umask 077\n"]
        for path, content in files.items():
            # Any bytes: quoted for the shell and `%b`; only NUL needs an escape.
            escaped = content.replace(b"\\", b"\\\\").replace(b"\0", b"\\0000").replace(b"'", b"'\\''")
            lines.append(b"printf %b '" + escaped + b"' >" + path.encode() + b" || exit 1\n")
        lines.append(b"exit 0\n")
        code, _, err = execs.run(
            self.cluster, self.pod, JOB, ["sh"], stdin=lambda: lines, doing="putting files into the pod"
        )
        if code:
            reason = err.decode("utf-8", "replace").strip()
            raise ProviderError(f"files could not be put into the pod: {reason or f'exit code {code}'}")

    def _start(self, command: Sequence[str], *, stdin: bool, tty: bool = False) -> tuple[Exec, Watcher]:
        pid_file, variables = _new_path("exec"), ""
        if self.environment:
            variables = _new_path("variables")
            self.write({variables: _exports(self.environment)})
        entered = driver.entering(command, dict.fromkeys(self.environment, ""))
        words = ["sh", "-c", BECOME, "loom", pid_file, "sh", "-c", _ENTER, "loom", self.workdir, variables, *entered]
        watcher = Watcher(self._watch, pid_file, at_once=True)
        return Exec(self.cluster, self.pod, JOB, words, stdin=stdin, tty=tty), watcher

    def _watch(self, program: Sequence[str], limit_s: float) -> Exec:
        return Exec(self.cluster, self.pod, JOB, program, stdin=True)

    def _lost(self, error: OSError) -> LoomError:
        return EngineUnavailable(
            f"the connection to the pod {self.pod} was lost: {error}",
            hint="the command may still run there",
            code="CLUSTER_UNAVAILABLE",
        )


def _exports(environment: Mapping[str, str]) -> bytes:
    lines = [
        b"export " + name.encode() + b"='" + value.encode("utf-8", "surrogateescape").replace(b"'", b"'\\''") + b"'\n"
        for name, value in environment.items()
        if name.isidentifier() and name.isascii()
    ]
    return b"".join(lines)


def _new_path(what: str) -> str:
    return f"{driver.DIRECTORY}/{what}.{secrets.token_hex(6)}"


def _feed(ran: Exec) -> None:
    """Send standard input until its end or the command's."""
    with contextlib.suppress(OSError):
        while data := os.read(0, _READ):
            ran.send(data)
        ran.end_input()


def _is_empty(file: int) -> bool:
    """Whether it is closed, or the null device."""
    try:
        found = os.fstat(file)
    except OSError:
        return True
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == Path(os.devnull).stat().st_rdev
