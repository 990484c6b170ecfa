"""Run the steps of a job through the driver of its container: the part of a session that every kind of container shares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError, RequestError
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.command import Command
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import Attachment, ConnectionLost, Died, Exchange
from loom.providers.driver.endings import reports_of
from loom.providers.driver.steps import AUTO, MOST_COMMANDS, SH, chosen, handed_on
from loom.status import Ended, Exit, OnOutput, Stream
from loom.values import Environ

ASK_ENGINE_S = 60.0
"""How often to check a silent engine."""
GREETING_S = 60.0
"""Time limit from the container's start to the driver's first answer, on a busy machine."""
AFTER_KILL_S = 10.0
"""Time limit of the driver's report after KILL; then the container is killed."""
LEAVE_S = 3.0
"""Time limit for the end of the container's processes after the driver is ordered to stop."""
ANSWER_S = 5.0
"""Time limit of the driver's answer when it is only asked whether it is there."""
_MOST_HEARD = 10_000
_HANDED_OVER_S = 600.0
"""Time limit of an end that was not ordered from here: a lot of output may come before it."""


class Greeting:
    """The driver's first answer: its user, and what the container has."""

    def __init__(self, answer: str) -> None:
        uid, gid, ooms, refused_forks, shell, member_of, root, self.path = answer.split(" ", 7)
        self.root = int(root)
        """The user of the machine that root is in the container."""
        self.auto_shell = AUTO.get(shell, SH)
        self.ooms, self.refused_forks = int(ooms), int(refused_forks)
        known = uid.isdigit() and gid.isdigit()
        self.uid = int(uid) if known else None
        self.gid = int(gid) if known else None
        self.further_groups = set(member_of.split(",")) - {"", "-", gid}


class DrivenSession:
    """The part of `providers.base.Session` that the driver of a container does, told over a connection that may break and be
    resumed. `facts` grow with what the driver says.
    """

    kept_until: float | None = None

    def __init__(
        self,
        attachment: Attachment,
        request: SessionRequest,
        facts: SessionFacts,
        on_output: OnOutput,
        *,
        environment: Environ,
        directory: str = driver.DIRECTORY,
    ) -> None:
        """`environment`: what each step's extends. `directory`: the driver's own."""
        self.attachment = attachment
        self.facts = facts
        self.on_output = on_output
        """The session's own."""
        self._request = request
        self._environment = environment
        self._directory = directory
        self._handed_on: dict[str, str] = {}
        self._reported: Mapping[str, Sequence[bytes]] = {}
        self._later: list[tuple[Stream, bytes]] = []
        """Output of commands that nobody listens to yet (`Exchange`)."""
        self._number = 0
        self._ooms = self._refused_forks = 0
        self._unfinished = False
        self._shared: tuple[bytes, Command] | None = None
        """The shell that steps share: its token, and the command that it was last given."""
        self._handed_over: Mapping[str, bytes] = {}
        """The tokens of the commands that the driver does by itself, by their names; empty when it waits for orders."""
        self.died = False

    # The engine's knowledge of the driver's container

    def ask_engine(self) -> None:
        """Check the engine during a silent step: steps may be silent for hours, engines may not. EngineUnavailable."""

    def resume(self, error: OSError | None) -> None:
        """Continue after an early end of the output, if the container runs.

        Else raise the reason: Died if the job itself ended the container, ConnectionLost, EngineUnavailable.
        """
        raise NotImplementedError

    def end_error(self, where: str, code: int, *, oom: bool) -> Died | ConnectionLost:
        """Return the error for the driver's end with this exit code; `where` names its container."""
        if code == driver.INPUT_LOST_CODE:
            return ConnectionLost(
                f"the connection to {where} of job {self._request.job_id} was lost, and it ended itself",
                hint="run it again; if that happens often, see the network on the way to it",
            )
        return Died(code or 137, oom=oom)

    def kill(self) -> None:
        raise NotImplementedError

    # The connection to the driver: one command at a time

    def send(self, line: bytes) -> None:
        try:
            self.attachment.send(line)
        except OSError:
            pass  # the end of the output has the reason

    def listen(
        self,
        exchange: Exchange,
        on_output: OnOutput,
        *,
        deadline: float | None,
        cancel: Cancel | None = None,
        only_now: bool = False,
    ) -> bool:
        """Pass output on until the answer arrives; False at the deadline or on a cancel.

        `only_now`: only the second cancel request counts. After False, it can be called again. Died, ConnectionLost and
        EngineUnavailable mean that no answer will come.
        """
        arrived, self._later[:] = [*self._later], []
        for stream, data in arrived:
            exchange.feed(stream, data, on_output)
        while not exchange.is_over():
            if cancel is not None and (cancel.now if only_now else cancel.requested):
                return False
            left = ASK_ENGINE_S if deadline is None else min(ASK_ENGINE_S, deadline - time.monotonic())
            if left <= 0:
                return False
            asked = time.monotonic()
            try:
                chunks = self.attachment.read(left)
            except OSError as error:
                self.resume(error)
                continue
            for stream, data in chunks:
                exchange.feed(stream, data, on_output)
            if self.attachment.at_end and not exchange.is_over():
                try:
                    self.resume(None)
                except (Died, LoomError):
                    exchange.release(on_output)
                    raise
            if not chunks and time.monotonic() - asked >= ASK_ENGINE_S:
                self.ask_engine()
        return True

    def order(self, line: Callable[[bytes], bytes], limit_s: float = GREETING_S) -> str | None:
        """Return the driver's answer to a command, which `line` builds with a token; None on timeout. ConnectionLost when the
        container has ended. Its output belongs to the session.
        """
        self.end_shared()
        exchange = Exchange()
        self.send(line(exchange.token))
        try:
            answered = self.listen(exchange, self.on_output, deadline=time.monotonic() + limit_s)
        except Died as died:
            job_id = self._request.job_id
            raise ConnectionLost(f"the container of job {job_id} has ended, exit code {died.code}") from died
        return exchange.answer if answered else None

    # Steps

    def prepare_step(self) -> None:
        """Prepare for the next step."""

    def still_running(self) -> Sequence[str]:
        """Return the command lines of what a step has running; nothing if the engine can't tell."""
        raise NotImplementedError

    def greet(
        self, exchange: Exchange, cancel: Cancel, ended_at_once: Callable[[str, str], LoomError]
    ) -> Greeting | None:
        """Wait for the answer to `exchange`, a greeting that was sent; None on a cancel. ImageError when the image can't run it.

        `ended_at_once` makes the error for a container that ended, from its output and its end.
        """
        heard: list[bytes] = []

        def listen(stream: Stream, data: bytes) -> None:
            if sum(map(len, heard)) < _MOST_HEARD:
                heard.append(data)
            self.on_output(stream, data)

        unregister = cancel.on_request(self.attachment.wake)
        try:
            answered = self.listen(exchange, listen, deadline=time.monotonic() + GREETING_S, cancel=cancel)
        except (ConnectionLost, Died) as lost:
            reason = lost.message if isinstance(lost, ConnectionLost) else f"it ended with exit code {lost.code}"
            output = b"".join(heard).decode("utf-8", "replace").strip()
            if isinstance(lost, ConnectionLost) and not output:
                raise
            raise ended_at_once(output, reason) from lost
        finally:
            unregister()
        if answered:
            found = Greeting(str(exchange.answer))
            self.facts = replace(self.facts, auto_shell=found.auto_shell, path=found.path)
            if found.uid is not None:
                self.facts = replace(self.facts, user=f"{found.uid}:{found.gid}")
            self._ooms, self._refused_forks = found.ooms, found.refused_forks
            return found
        if cancel.requested:
            self.on_output = lambda *_: None  # the greeting is still to come, and nobody waits for it
            return None
        raise ProviderError(
            f"the container of job {self._request.job_id} started, but nothing in it answered within {GREETING_S:.0f} s",
            hint='an image\'s own `entrypoint` must end by running the command that it is given: exec "$@"',
        )

    def lines_of(
        self, steps: Sequence[Command], after: Mapping[bool, Sequence[Command]], tokens: Mapping[str, bytes]
    ) -> bytes:
        """Return the lines that let the driver run these commands itself, all but the order to begin (`Detachable.hand_over`)."""
        lines = [driver.handing_over()]
        for when, commands in (("m", steps), ("0", after[True]), ("1", after[False])):
            for number, command in enumerate(map(self._completed, commands)):
                token = tokens[command.name]
                if command.share is None:
                    lines.append(driver.later(when, driver.step(token, command, len(lines), handed_over=True)))
                    continue
                if number == 0:
                    after_script = [] if when == "m" else [b"loom_after=1"]
                    lines.append(driver.later(when, *after_script, driver.GO_INSIDE, driver.share(token, command)))
                following = driver.next_step(
                    tokens[commands[0].name], command, command.share, len(lines), handed_over=True
                )
                lines.append(driver.later("s0" if when == "m" else f"s{when}", following))
        return b"".join(lines)

    def _completed(self, command: Command) -> Command:
        """Return a command with all its variables and its actual shell."""
        shell = tuple(chosen(command.shell or self._request.shell, self.facts.auto_shell))
        return replace(command, shell=shell, environment={**self._environment, **command.environment})

    def _tell(self, line: bytes) -> None:
        """Order what the driver does not do by itself."""
        if not self._handed_over:
            self.send(line)

    def _take_over(self) -> None:
        """Let the driver do only what loom sends from now on."""
        if self._handed_over:
            self._handed_over = {}
            self.send(driver.STAY)

    @property
    def lost(self) -> bool:
        """Return whether the container was lost during a command, and may still be there."""
        return self._unfinished and not self.died

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        if cancel.wait(0):
            return Exit(code=130, ended=Ended.CANCELED)
        if self.kept_until is not None:
            raise ProviderError("the session is kept for inspection and runs no further steps")
        self.prepare_step()
        if self.died:
            raise ConnectionLost(f"a step of job {self._request.job_id} has ended its session; no other can run in it")
        self._reported = {}
        if command.share is None or command.share.first:
            self.end_shared()
        self._number += 1
        exchange, order = self._order(command)
        exchange.began = command.began
        deadline = None if command.timeout_s is None else time.monotonic() + command.timeout_s
        ended = Ended.EXITED
        still_ran: tuple[str, ...] = ()
        unregister = cancel.on_request(self.attachment.wake)
        self._unfinished = True
        try:
            self._tell(order)
            if not self.listen(exchange, on_output, deadline=deadline, cancel=cancel):
                ended = Ended.CANCELED if cancel.requested else Ended.TIMED_OUT
                still_ran = self._commands() if ended is Ended.TIMED_OUT else ()
                self._end_step(exchange, on_output, cancel)
            # Whether the shared shell takes another command.
            goes_on = str(exchange.answer).endswith("goes_on") and ended is Ended.EXITED
            if not goes_on:
                self._release(exchange, on_output)
            self._unfinished = False
        except Died as died:
            self.died = True
            if ended is Ended.EXITED and died.oom:
                ended = Ended.OOM_KILLED
            return Exit(code=died.code, ended=ended, still_ran=still_ran, ended_session=True)
        finally:
            unregister()
            exchange.release(on_output)
        self._reported = exchange.reported
        self._handed_on.update(handed_on(exchange.reported.get("env", ())))
        found = replace(self._exit(str(exchange.answer), ended), still_ran=still_ran, goes_on=goes_on)
        return replace(found, reports=reports_of(exchange.reported.get("ended", ())))

    def _order(self, command: Command) -> tuple[Exchange, bytes]:
        """Return the command for the driver, and the exchange for its answer."""
        command = self._completed(command)
        share, environment = command.share, command.environment
        token = self._handed_over.get(command.name, b"")
        later = self._later if self._handed_over else None
        if share is None:
            exchange = Exchange(token, later)
            return exchange, driver.step(exchange.token, command, self._number, self._directory)
        if self._shared is None:
            exchange, restore = Exchange(token, later), not share.first
            start, given = driver.share(exchange.token, command), environment if restore else {}
        else:
            token, before = self._shared
            exchange, restore, start = Exchange(token, later), False, b""
            given = {name: value for name, value in environment.items() if before.environment.get(name) != value}
        self._shared = exchange.token, command
        told = replace(command, environment=given)
        step = driver.next_step(exchange.token, told, share, self._number, self._directory, restore=restore)
        return exchange, start + step

    def _release(self, exchange: Exchange, on_output: OnOutput) -> None:
        """Let the driver take another command: the step is over, and with it a shell that it shared."""
        self._tell(driver.OK)
        if self._shared is not None:
            self._shared = None
            exchange.to_the_end = True
            limit_s = _HANDED_OVER_S if self._handed_over else AFTER_KILL_S
            if not self.listen(exchange, on_output, deadline=time.monotonic() + limit_s):
                self.kill()
                raise Died(137, oom=False)

    def end_shared(self) -> None:
        """End the shell that steps shared, if there is one: it gets no further command."""
        if self._shared is None or self.died:
            return
        exchange = Exchange(self._shared[0], self._later if self._handed_over else None)
        try:
            self._tell(driver.CLOSE)
            limit_s = _HANDED_OVER_S if self._handed_over else LEAVE_S
            if not self.listen(exchange, self.on_output, deadline=time.monotonic() + limit_s):
                self._end_step(exchange, self.on_output, Cancel())
            self._release(exchange, self.on_output)
        except Died:
            self.died = True
        finally:
            exchange.release(self.on_output)

    def _commands(self) -> tuple[str, ...]:
        """Return the commands that a timed-out step was running. The step's own shell, which names its script, and a shared one
        are left out if there are others.
        """
        listed = [command for command in self.still_running() if command]
        script, own = f"{self._directory}/step.", " ".join(self._shared[1].shell) if self._shared is not None else None
        others = [command for command in listed if script not in command and command != own]
        return tuple((others or listed)[:MOST_COMMANDS])

    def _exit(self, answer: str, ended: Ended) -> Exit:
        words = answer.split()
        code, ooms, refused_forks = map(int, words[:3])
        began, end = map(float, words[3:5]) if len(words) > 4 else (0.0, None)
        if code < 0:
            raise ProviderError(
                f"the step of job {self._request.job_id} could not be begun: {self._directory},"
                " where steps, $LOOM_ENV and secrets are, takes no more files",
                hint="an earlier step has filled it, or made it read-only, or put something else in the place of"
                " $LOOM_ENV or $LOOM_MASK",
            )
        killed, self._ooms = ooms - self._ooms, ooms
        refused, self._refused_forks = refused_forks - self._refused_forks, refused_forks
        if ended is Ended.EXITED and code == 137 and killed > 0:  # else another process was killed
            ended = Ended.OOM_KILLED
        took_s = None if end is None else end - began
        return Exit(code=code, ended=ended, oom_kills=killed, refused_forks=refused, took_s=took_s)

    def _end_step(self, exchange: Exchange, on_output: OnOutput, cancel: Cancel) -> None:
        """Send TERM to all processes of the job, KILL after the grace period, and finally kill the container.

        After KILL, nothing but the driver itself can report the end of a shared shell.
        """
        self._take_over()
        if not cancel.now:
            self.send(driver.TERM)
            grace = time.monotonic() + self._request.grace_s
            if self.listen(exchange, on_output, deadline=grace, cancel=cancel, only_now=True):
                self.send(driver.KILL)  # the step ended in time; end its background processes too
                return
        self.send(driver.KILL)
        exchange.to_the_end = self._shared is not None
        if self.listen(exchange, on_output, deadline=time.monotonic() + AFTER_KILL_S):
            return
        self.kill()
        raise Died(137, oom=False)

    def handed_on(self) -> Mapping[str, str]:
        return dict(self._handed_on)

    def reported(self) -> Mapping[str, Sequence[bytes]]:
        return self._reported

    def answers(self) -> bool:
        if self.kept_until is not None or self.died:
            return False
        try:
            return self.order(driver.ping, ANSWER_S) is not None
        except LoomError:
            return False

    def put_secret(self, name: str, content: bytes) -> str:
        if not name or "/" in name or name in (".", ".."):
            raise RequestError(f"{name!r} can't be the name of a secret's file")
        path = f"{self._directory}/secret.{name}"
        if self.order(lambda token: driver.put(token, path, content)) != "0":
            raise ProviderError(f"the secret {name} could not be handed to job {self._request.job_id}")
        return path

    def end(self) -> None:
        """End everything in the container; its last output is the session's."""
        if self.attachment.at_end or self.died:
            return
        exchange = Exchange()
        try:
            if self._unfinished:
                # For example, its output could not be recorded: drop the rest.
                self.on_output = lambda *_: None
                self._take_over()
                self.send(driver.KILL + driver.OK)
                self._shared = None
            self.end_shared()
            self.send(driver.end(exchange.token))
            self.listen(exchange, self.on_output, deadline=time.monotonic() + LEAVE_S)
            exchange.release(self.on_output)
        except (Died, LoomError):
            pass  # it already ended, or is removed by force next

    def settle(self) -> None:
        """Implement `Session.settle`; the caller may read all files anyway."""

    def size(self) -> int:
        return 0
