"""One trial: a random workflow, one or more looms that run it, a moment, and what was found to be wrong afterwards."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.proxy import EngineProxy, How
from tests.chaos.workflows import Workflow, random_workflow
from tests.chaos.world import World, make_project
from tests.support.loom_process import run_loom

LIMIT_S = 150.0
"""Longer than loom waits for an engine that is silent, with what comes before and after."""
SECRET = "hunter2-correct-horse"


class Loom:
    """A process of loom, whose output goes to files."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err
        self.killed = False
        self.hangs = False

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def text(self) -> str:
        return "".join(path.read_text(errors="replace") for path in (self._out, self._err) if path.exists())

    def kill(self) -> None:
        if self.process.poll() is None:
            self.killed = True
            self.process.kill()
        self.process.wait()

    def wait(self, limit_s: float) -> None:
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.hangs = True
            self.process.send_signal(signal.SIGABRT)  # prints where each thread is
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.kill()


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


class Trial:
    def __init__(self, world: World, seed: int, number: int, *, long: bool) -> None:
        """`number` counts the trials of one kind; `long` allows what takes its time."""
        self.world, self.seed, self.number, self.long = world, seed, number, long
        self.random = Random(seed)
        self.directory = world.directory / f"t{seed}"
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("home", "work", "scratch", "state", "cache", "run", "output"):
            (self.directory / name).mkdir(parents=True, mode=0o700)
        self.checkout = self.directory / "checkout"
        self.findings: list[str] = []
        self.looms: list[Loom] = []
        self.notes: list[str] = []
        """What happened, for the reader of a finding."""
        self.workflow = random_workflow(self.random)
        self.proxy: EngineProxy | None = None
        self._made = False
        self.begun = time.monotonic()
        self.record_was_removed = False
        self.on_terminal = False
        self.mounts: list[str] = []
        """The mounts of the trial itself."""

    # -- what a fault uses --------------------------------------------------------------------------------------

    def choose(self, workflow: Workflow) -> None:
        """Run this workflow instead."""
        self.workflow = workflow

    def through_proxy(self, disturb: Callable[[int, str], How | None] = lambda *_: None) -> EngineProxy:
        """Have looms that start from now on reach the engine through a proxy."""
        self.proxy = EngineProxy(
            self.directory / "proxy.sock", str(self.world.engine.url).removeprefix("unix://"), disturb
        )
        return self.proxy

    def start(
        self,
        *more: str,
        environ: dict[str, str] | None = None,
        before: Callable[[], object] | None = None,
        **popen: Any,
    ) -> Loom:
        """Start a run. `before` is called in the new process."""
        if not self._made:
            make_project(self.checkout, self.workflow.text)
            self._made = True
        number = len(self.looms)
        out, err = (self.directory / "output" / f"{number}.{name}" for name in ("out", "err"))
        url = self.proxy.url if self.proxy is not None else self.world.engine.url
        command = [sys.executable, "-m", "loom", "run", "--local", *self.workflow.arguments, *more]
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=self.checkout,
                env={**self.environ, "DOCKER_HOST": url, "PYTHONFAULTHANDLER": "1", **(environ or {})},
                preexec_fn=before,
                **{"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr, **popen},
            )
        self.looms.append(Loom(process, out, err))
        return self.looms[-1]

    @property
    def environ(self) -> dict[str, str]:
        directory = self.directory
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HOME": str(directory / "home"),
            "TMPDIR": str(directory / "scratch"),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "LOOM_TMP_DIR": str(directory / "work"),
            "LOOM_STATE_DIR": str(directory / "state"),
            "LOOM_CACHE_DIR": str(directory / "cache"),
            "LOOM_AUTO_CLEAN": "no",
            "LOOM_CONTAINER": "0",
            "LOOM_TRUST": "1",
            "LOOM_GRACE": "2s",
            "DOCKER_HOST": str(self.world.engine.url),
            "CHAOS_SECRET": SECRET,
        }

    def moment(self, loom: Loom) -> None:
        """Wait until a random moment of a run, or its end."""
        if self.proxy is not None and self.random.random() < 0.7:
            number = self.random.randrange(40)
            self.notes.append(f"at request {number}")
            proxy = self.proxy
            number += len(proxy.seen)
            self._wait(loom, lambda: len(proxy.seen) >= number)
        pause = self.random.random() ** 2 * (3 if self.proxy is None else 0.3)
        self.notes.append(f"after {pause:.3f} s")
        deadline = time.monotonic() + pause
        self._wait(loom, lambda: time.monotonic() >= deadline)

    def _wait(self, loom: Loom, seen: Callable[[], object], limit_s: float = 30) -> bool:
        deadline = time.monotonic() + limit_s
        while loom.code is None and time.monotonic() < deadline:
            if seen():
                return True
            time.sleep(0.002)
        return False

    def has_begun(self, loom: Loom) -> bool:
        """Wait until loom answers to signals itself, no longer Python; False when the loom ends before."""

        def answers() -> bool:
            status = Path(f"/proc/{loom.process.pid}/status").read_text()
            caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
            return bool(caught >> (signal.SIGTERM - 1) & 1)

        return self._wait(loom, answers)

    def container(self, loom: Loom) -> str | None:
        """The id of a running container of a job or service, at a random moment of its life; None when the run ends before."""
        api = self.world.client.api
        found: list[str] = []

        def seen() -> bool:
            found.extend(one["Id"] for one in api.containers(filters={"label": "loom.run"}))
            return bool(found)

        if not self._wait(loom, seen):
            return None
        time.sleep(self.random.random() ** 2)
        found = [one["Id"] for one in api.containers(filters={"label": "loom.run"})] or found
        return self.random.choice(found)

    # -- looms that look or clean up -----------------------------------------------------------------------------

    def loom(self, *arguments: str, cwd: Path | None = None) -> Ran:
        try:
            done = run_loom(arguments, cwd=cwd or self.world.next, environ=self.environ, timeout=120)
        except subprocess.TimeoutExpired:
            self.found(f"`loom {' '.join(arguments)}` does not end")
            return Ran(-1, "", "")
        return Ran(done.returncode, done.stdout, done.stderr)

    def document(self, *arguments: str) -> Any:
        """What `loom ARGUMENTS --json` prints; None, and a finding, when it prints none."""
        ran = self.loom(*arguments, "--json")
        try:
            return json.loads(ran.out)
        except ValueError:
            self.found(f"`loom {' '.join(arguments)} --json`: exit code {ran.code}\n{ran.out[-500:]}{ran.err[-2000:]}")
            return None

    def found(self, text: str) -> None:
        self.findings.append(text)

    def end(self) -> None:
        for loom in self.looms:
            loom.wait(LIMIT_S)

    def remove(self) -> None:
        for loom in self.looms:
            loom.kill()
        if self.proxy is not None:
            self.proxy.close()
        for process in self.processes():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def processes(self) -> list[int]:
        """What has this trial's directory in its environment: looms, and all that they started."""
        mark = f"{self.directory}/".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(entry.name) != os.getpid() and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
        return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    except OSError:
        return "ended"


def commands_of(pids: Sequence[int]) -> str:
    return "; ".join(f"{pid}: {command_of(pid)}" for pid in pids)
