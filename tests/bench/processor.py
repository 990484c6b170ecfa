#!/usr/bin/env python3
"""What runs cost in processor time: of the command, of the engine for it, and of the jobs; the machine's other users do not count.

    python tests/bench/processor.py [--rounds N] [--files N] [--beside PYTHON] [CASE...]

Root only: starts an engine of its own and counts by control groups, which also go before the machine's other work, so that
the clock says more than elsewhere. Each round runs every case once, one after the other. `--beside` is the Python of another
loom to compare with, CASE a part of a case's name. Prints a Markdown table of medians.
"""

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


def go_before_others(name: str) -> Path:
    """Make a group whose processes, and those of groups in it, get a processor before the machine's others."""
    path = (GROUPS.with_name("cpu") if GROUPS == VERSION_1 else GROUPS) / name
    path.mkdir(exist_ok=True)
    if GROUPS == VERSION_1:
        (path / "cpu.shares").write_text("262144")
    else:
        (path / "cpu.weight").write_text("10000")
    return path


class Group:
    """A control group, which counts what its processes compute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = GROUPS / name
        self._path.mkdir(exist_ok=True)
        self.before = go_before_others(name)

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
        for path in {self._path, self.before}:
            for directory in sorted((found for found in path.rglob("*") if found.is_dir()), reverse=True):
                directory.rmdir()
            path.rmdir()


def _counts(line: str) -> bool:
    kinds = line.split(":")[1].split(",")
    return "cpuacct" in kinds if GROUPS == VERSION_1 else kinds == [""]


@dataclass(frozen=True)
class Case:
    name: str
    directory: Path
    commands: Sequence[Sequence[str]]


def cases(base: Path, files: int, pythons: Sequence[str]) -> list[Case]:
    hi, ten = repository(base, "hi", HI), repository(base, "ten", TEN)
    one, eight = repository_of_jobs(base, files, 1), repository_of_jobs(base, files, 8)
    docker = ["docker", "run", "--rm", IMAGE, "echo", "hi"]

    def loom(name: str, directory: Path, *more: str) -> list[Case]:
        names = [f"loom{beside}, {name}" for beside in ("", " beside")]
        commands = [[python, "-m", "loom", "run", "--local", "--quiet", *more] for python in pythons]
        return [Case(name, directory, [command]) for name, command in zip(names, commands, strict=False)]

    return [
        Case("`docker run --rm`", hi, [docker]),
        *loom("one job", hi),
        *loom("ten steps", ten),
        *loom(f"one job on {files} files", one),
        Case("eight `docker run --rm` at once", eight, [docker] * 8),
        *loom(f"eight jobs on {files} files", eight, "-j", "8"),
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
    parser.add_argument("--beside")
    parser.add_argument("cases", nargs="*", default=[""])
    given = parser.parse_args()
    own, engines, jobs = groups = [Group(f"loom-bench-{name}") for name in ("own", "engine", "jobs")]
    if GROUPS == VERSION_1:  # there, what counts and what goes before others are different trees
        (own.before / "cgroup.procs").write_text(str(os.getpid()))
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as directory:
        base = Path(directory)
        engine = OwnEngine(base / "engine", network=True)
        engine.directory.mkdir()
        try:
            with engines.entered():
                engine.start(f"--cgroup-parent /{jobs.name}").close()
            image = subprocess.run(["docker", "save", IMAGE], check=True, capture_output=True).stdout
            subprocess.run(["docker", "-H", engine.url, "load", "-q"], input=image, check=True)
            every = cases(base, given.files, [python for python in (sys.executable, given.beside) if python])
            every = [case for case in every if any(word in case.name for word in given.cases)]
            found: dict[str, list[list[float]]] = {case.name: [] for case in every}
            for number in range(given.rounds + 1):
                for case in every:
                    measured = took(case, engine.url, groups)
                    if number:  # what is read for the first time is not what is measured
                        found[case.name].append(measured)
        finally:
            engine.stop()
            if GROUPS == VERSION_1:
                (own.before.parent / "cgroup.procs").write_text(str(os.getpid()))
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
