"""A person at a run's gate: `--stop-at` opens a shell in the job's container, on loom's terminal."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from loom.cancel import Cancel
from loom.commands.terminal import attended
from loom.errors import LoomError, RequestError
from loom.plan.model import Plan
from loom.record.past_run import step_named
from loom.record.request import FAILURE, PAUSE
from loom.runner import AtStep, Verdict
from loom.status import Exit
from loom.util.units import meant

_VERDICTS = {"r": Verdict.RETRY, "n": Verdict.NEXT, "f": Verdict.FAIL, "": Verdict.FAIL}


class PausableLines:
    """Writes lines, but for the time that somebody has the terminal: then they wait."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._held: list[str] | None = None

    def __call__(self, line: str) -> None:
        with self._lock:
            if self._held is not None:
                self._held.append(line)
            else:
                self._write(line)

    def hold(self) -> None:
        with self._lock:
            self._held = self._held or []

    def release(self) -> None:
        with self._lock:
            held, self._held = self._held or [], None
            with suppress(OSError):  # the terminal is gone; the run goes on to its record
                for line in held:
                    self._write(line)


class TerminalGate:
    """Implements `runner.Gate` on standard input and output, for one job at a time; others wait or continue."""

    def __init__(self, screen: PausableLines, stop_at: Sequence[str], plan: Plan | None) -> None:
        """Raise RequestError for a step that is not in the plan."""
        self._screen = screen
        self._on_failure = FAILURE in stop_at
        self._before = {_step_of(plan, when) for when in stop_at if plan is not None and when != FAILURE}
        self._terminal = threading.Lock()

    def before(self, at: AtStep, cancel: Cancel) -> None:
        if (at.job.id, at.step.id) in self._before and self._take(cancel):
            try:
                with suppress(OSError):  # the terminal is gone: its end is a signal, which ends the run
                    self._stand(at, f"before step {at.step.id} of {at.job.id}; leave the shell to go on", cancel)
            finally:
                self._give_back()

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
        if not self._on_failure or not self._take(cancel):
            return Verdict.FAIL
        try:
            about = f"step {at.step.id} of {at.job.id} failed with exit code {exit_.code}"
            if not self._stand(at, about, cancel):
                return Verdict.FAIL
            return self._verdict(cancel)
        except OSError:  # the terminal is gone, and nobody can answer
            return Verdict.FAIL
        finally:
            self._give_back()

    def _take(self, cancel: Cancel) -> bool:
        while not self._terminal.acquire(timeout=0.2):
            if cancel.requested:
                return False
        self._screen.hold()
        return True

    def _give_back(self) -> None:
        self._screen.release()
        self._terminal.release()

    def _stand(self, at: AtStep, about: str, cancel: Cancel) -> bool:
        print("\n".join(banner(about, (), at.job.id, at.step.id, at.step.script)))
        sys.stdout.flush()
        try:
            at.inside().shell(at.job.shell, script=at.step.script, name=at.job.id, cancel=cancel)
        except LoomError as error:
            print(f"loom: no shell could be opened: {error.message}")
            return False
        return True

    def _verdict(self, cancel: Cancel) -> Verdict:
        """Ask until an answer is typed; FAIL after a cancel or the input's end."""
        while True:
            print("[r]etry the step, go on to the [n]ext, or [f]ail the job? ", end="", flush=True)
            while not select.select([0], [], [], 0.2)[0]:
                if cancel.requested:
                    return Verdict.FAIL
            typed = os.read(0, 1024)
            answer = typed.decode("utf-8", "replace").strip().lower()[:1]
            if not typed or answer in _VERDICTS:
                return _VERDICTS.get(answer, Verdict.FAIL)


class PauseGate:
    """Implements `runner.Gate` where nobody is asked: a failed job waits at its failing step for `loom resume`."""

    def before(self, at: AtStep, cancel: Cancel) -> None:
        """Let every step start at once."""

    def failed(self, at: AtStep, exit_: Exit, cancel: Cancel) -> Verdict:
        return Verdict.PAUSE


def _step_of(plan: Plan, wanted: str) -> tuple[str, str]:
    """Return the ids of job and step that `JOB[:STEP]` means; the job's first step when none is named."""
    job_id, _, step = wanted.partition(":")
    found = [job for job in plan.jobs if job_id in (job.id, job.name)]
    if len(found) != 1:
        raise RequestError(
            f"--stop-at: no job of this run is {job_id!r}{meant(job_id, (FAILURE, PAUSE))}",
            hint=f"{FAILURE}, {PAUSE}, or one of its jobs: {', '.join(job.id for job in plan.jobs)}",
        )
    job = found[0]
    return job.id, step_named(job, step).id if step else job.steps[0].id


def needs_terminal(flag: str, hint: str = "loom exec without -t works without one") -> None:
    if not attended():
        raise RequestError(f"{flag} requires an interactive terminal", hint=hint)


def banner(about: str, notes: Sequence[str], job_id: str, step_id: str, script: str) -> list[str]:
    lines = script.strip().splitlines() or [""]
    more = f"  (and {len(lines) - 1} more lines)" if len(lines) > 1 else ""
    return [
        about,
        *(f"  {note}" for note in notes),
        f"  at step {step_id} of {job_id}: {lines[0]}{more}",
        "  `again` runs the step as the job did",
    ]
