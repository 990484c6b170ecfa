#!/usr/bin/env python3
"""What a job in a container costs beside plain `docker run`: interleaved rounds, medians, ratios.

    python tests/bench/containers.py [--rounds N] [CASE...]

Each round runs loom and its comparison one after the other, so that a busy machine is busy for both. With `act` in the
path, its time for one job is shown too. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

IMAGE = "debian:trixie-slim"
HEAD = f"version: v1\nstages: [test]\ndefault: {{image: {IMAGE}}}\n"
HI = HEAD + "hi: {stage: test, script: [echo hi]}\n"
TEN = HEAD + "hi: {stage: test, script: [" + ", ".join(f"echo {number}" for number in range(10)) + "]}\n"
LINE = "x" * 92
MILLION = f"i=0; while [ $i -lt 1000000 ]; do echo $i {LINE}; i=$((i+1)); done"
LINES = HEAD + f"lines: {{stage: test, script: ['{MILLION}']}}\n"
EIGHT = HEAD + "".join(f"job{number}: {{stage: test, script: [sleep 1]}}\n" for number in range(8))


def run(command: Sequence[str], directory: Path, output: Path | None = None) -> float:
    started = time.monotonic()
    with (output or Path(os.devnull)).open("wb") as out:
        subprocess.run(command, cwd=directory, stdout=out, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def repository(base: Path, name: str, workflow: str) -> Path:
    directory = base / name
    (directory / ".loom").mkdir(parents=True)
    (directory / ".loom" / "workflow.yml").write_text(workflow)
    (directory / ".github" / "workflows").mkdir(parents=True)
    (directory / ".github" / "workflows" / "ci.yml").write_text(
        "on: push\njobs:\n  hi:\n    runs-on: slim\n    steps: [{uses: actions/checkout@v4}, {run: echo hi}]\n"
    )
    for number in range(150):
        (directory / f"file{number}.txt").write_text(f"{number}\n" * 50)
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"]):
        subprocess.run([*git, *arguments], cwd=directory, check=True)
    return directory


def loom(directory: Path, *more: str) -> Callable[[], float]:
    return lambda: run([sys.executable, "-m", "loom", "run", "--local", *more], directory)


def docker(directory: Path, script: str, output: Path | None = None) -> Callable[[], float]:
    return lambda: run(["docker", "run", "--rm", IMAGE, "sh", "-c", script], directory, output)


def eight_containers(directory: Path) -> float:
    started = time.monotonic()
    command = ["docker", "run", "--rm", IMAGE, "sleep", "1"]
    for process in [subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) for _ in range(8)]:
        process.wait()
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("cases", nargs="*", help="hi, ten, lines, eight (all when none is named)")
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    try:
        hi, ten, lines, eight = (
            repository(base, name, text)
            for name, text in (("hi", HI), ("ten", TEN), ("lines", LINES), ("eight", EIGHT))
        )
        cases: dict[str, dict[str, Callable[[], float]]] = {
            "hi": {"loom": loom(hi), "docker run": docker(hi, "echo hi")},
            "ten": {"loom, ten steps": loom(ten), "loom, one step": loom(hi)},
            "lines": {"loom": loom(lines), "docker run > file": docker(lines, MILLION, base / "lines.out")},
            "eight": {"loom -j 8": loom(eight, "-j", "8"), "eight docker run": lambda: eight_containers(eight)},
        }
        if shutil.which("act"):
            act = ["act", "-q", "--pull=false", "-P", f"slim={IMAGE}"]
            cases["hi"]["act"] = lambda: run(act, hi)
        print("| case | what | median s | lowest | highest | ratio |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name in arguments.cases or cases:
            table(name, cases[name], arguments.rounds)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(
            f"\nHighest memory of any process started: {peak:.0f} MB; load {os.getloadavg()[0]:.1f}; {os.cpu_count()} processors"
        )
    finally:
        shutil.rmtree(base, ignore_errors=True)


def table(case: str, ways: dict[str, Callable[[], float]], rounds: int) -> None:
    times: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way()  # what is read for the first time is not what is measured
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(way())
    medians = {name: statistics.median(values) for name, values in times.items()}
    reference = medians[list(ways)[1]]
    for name, values in times.items():
        print(
            f"| {case} | {name} | {medians[name]:.3f} | {min(values):.3f} | {max(values):.3f} | {medians[name] / reference:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
