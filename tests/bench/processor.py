#!/usr/bin/env python3
"""What runs cost in processor time: of the command, of the engine for it, and of the jobs; the machine's other users do not count.

    python tests/bench/processor.py [--rounds N] [--files N]

Root only: starts an engine of its own and counts by control groups. Each round runs every case once, one after the other.
Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from containers import HI, IMAGE, TEN, repository
from places import repository as repository_of_jobs

from tests.support.own_engine import OwnEngine

VERSION_1 = Path("/sys/fs/cgroup/cpuacct")
GROUPS = VERSION_1 if VERSION_1.is_dir() else Path("/sys/fs/cgroup")


class Group:
    """A control group, which counts what its processes compute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = GROUPS / name
        self._path.mkdir(exist_ok=True)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """What is started in the block belongs to the group."""
        before = next(
            line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if _counts(line)
        )
        try:
            (self._path / "cgroup.procs").write_text(str(os.getpid()))
            yield
        finally:
            (GROUPS / before.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def ms(self) -> float:
        if GROUPS == VERSION_1:
            return int((self._path / "cpuacct.usage").read_text()) / 1e6
        return int((self._path / "cpu.stat").read_text().split()[1]) / 1e3

    def remove(self) -> None:
        for directory in sorted(self._path.rglob("*"), reverse=True):
            if directory.is_dir():
                directory.rmdir()
        self._path.rmdir()


def _counts(line: str) -> bool:
    kinds = line.split(":")[1].split(",")
    return "cpuacct" in kinds if GROUPS == VERSION_1 else kinds == [""]


@dataclass(frozen=True)
class Case:
    name: str
    directory: Path
    commands: Sequence[Sequence[str]]


def cases(base: Path, files: int) -> list[Case]:
    hi, ten = repository(base, "hi", HI), repository(base, "ten", TEN)
    one, eight = repository_of_jobs(base, files, 1), repository_of_jobs(base, files, 8)
    loom = [sys.executable, "-m", "loom", "run", "--local", "--quiet"]
    docker = ["docker", "run", "--rm", IMAGE, "echo", "hi"]
    return [
        Case("`docker run --rm`", hi, [docker]),
        Case("loom, one job", hi, [loom]),
        Case("loom, ten steps", ten, [loom]),
        Case(f"loom, one job on {files} files", one, [loom]),
        Case("eight `docker run --rm` at once", eight, [docker] * 8),
        Case(f"loom, eight jobs on {files} files", eight, [[*loom, "-j", "8"]]),
    ]


def took(case: Case, url: str, groups: Sequence[Group]) -> list[float]:
    """Milliseconds of the groups, and of the clock."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"DOCKER_HOST": url, "LOOM_AUTO_CLEAN": "false"}
    before, began = [group.ms for group in groups], time.monotonic()
    with groups[0].entered():
        running = [
            subprocess.Popen(command, cwd=case.directory, env=environment, stdout=subprocess.DEVNULL)
            for command in case.commands
        ]
    if any(process.wait() for process in running):
        raise SystemExit(f"{case.name} failed")
    seconds = time.monotonic() - began
    time.sleep(0.3)  # the engine's own end of it
    return [*(group.ms - ms for group, ms in zip(groups, before, strict=True)), 1000 * seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=5000)
    given = parser.parse_args()
    _, engines, jobs = groups = [Group(f"loom-bench-{name}") for name in ("own", "engine", "jobs")]
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as directory:
        base = Path(directory)
        engine = OwnEngine(base / "engine", network=True)
        engine.directory.mkdir()
        try:
            with engines.entered():
                engine.start(f"--cgroup-parent /{jobs.name}").close()
            image = subprocess.run(["docker", "save", IMAGE], check=True, capture_output=True).stdout
            subprocess.run(["docker", "-H", engine.url, "load", "-q"], input=image, check=True)
            every = cases(base, given.files)
            found: dict[str, list[list[float]]] = {case.name: [] for case in every}
            for number in range(given.rounds + 1):
                for case in every:
                    measured = took(case, engine.url, groups)
                    if number:  # what is read for the first time is not what is measured
                        found[case.name].append(measured)
        finally:
            engine.stop()
            for group in groups:
                group.remove()
    print("| case | command | engine | jobs | together | clock |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rounds in found.items():
        own_ms, engine_ms, jobs_ms, clock = (statistics.median(values) for values in zip(*rounds, strict=True))
        together = own_ms + engine_ms + jobs_ms
        print(f"| {name} | {own_ms:.0f} | {engine_ms:.0f} | {jobs_ms:.0f} | {together:.0f} | {clock:.0f} |")
    print(
        f"\nMilliseconds. Load {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} processors; {given.rounds} rounds"
    )


if __name__ == "__main__":
    main()
