#!/usr/bin/env python3
"""Where the time of one run goes: interleaved rounds of `docker run --rm` and `loom run --profile`, medians.

    python tests/bench/profile.py [--rounds N] [--files N] [--jobs N] [--steps N]

Prints a Markdown table of the run's parts one after the other, from the start of the process to its end, then the slowest
imports. The recording itself costs some 10 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from containers import HEAD, IMAGE, repository, run

Spans = list[dict[str, Any]]


def parts(spans: Spans, seconds: float) -> dict[str, float]:
    """Milliseconds between the run's milestones, in their order."""
    began = min(span["ts"] for span in spans)

    def named(test: str, kind: str) -> list[tuple[float, float]]:
        found = [(s["ts"] - began, s["ts"] - began + s["dur"]) for s in spans if s["cat"] == kind and test in s["name"]]
        return sorted(found) or [(0.0, 0.0)]

    prepare = named("prepare", "part")[0]
    engine, start = named("", "engine")[0], named("/start", "engine")[0]
    steps = named("script/", "phase")
    milestones = {
        "Python": named("Python", "start")[0][1],
        "imports of the command": prepare[0],
        "repository, configuration, plan": prepare[1],
        "tools, record, until the first request": engine[0],
        "image, container, connections": start[0],
        "the engine starts the container": start[1],
        "until the first step": steps[0][0],
        "steps": max(end for _, end in steps),
        "removal, receipt, end": seconds * 1e6,
    }
    before, found = 0.0, {}
    for name, at in milestones.items():
        found[name], before = (at - before) / 1000, at
    return found


def imports(command: Sequence[str], directory: Path) -> dict[str, float]:
    """Milliseconds of each outermost package by its own modules, in one more run."""
    timed = [sys.executable, "-X", "importtime", *command[1:]]
    ran = subprocess.run(timed, cwd=directory, capture_output=True, text=True, check=True)
    own: dict[str, float] = defaultdict(float)
    for us, name in re.findall(r"^import time:\s*(\d+) \|[^|]*\|\s*(\S+)$", ran.stderr, re.MULTILINE):
        words = name.split(".")
        own[".".join(words[:2]) if words[0] == "loom" else words[0]] += int(us) / 1000
    return own


def medians(found: Iterable[dict[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for one in found:
        for name, value in one.items():
            values[name].append(value)
    return {name: statistics.median(numbers) for name, numbers in values.items()}


def workflow(jobs: int, steps: int) -> str:
    script = ", ".join(f"echo {number}" for number in range(steps))
    return HEAD + "".join(f"job{number}: {{stage: test, script: [{script}]}}\n" for number in range(jobs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=150)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1)
    given = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    try:
        directory = repository(base, "profile", workflow(given.jobs, given.steps), files=given.files)
        target = base / "profile.json"
        loom = [sys.executable, "-m", "loom", "run", "--local", "-j", str(given.jobs), "--profile", str(target)]
        seconds, cpu, runs, docker = [], [], [], []
        for number in range(given.rounds + 1):
            beside = docker_runs(given.jobs)
            took = run(loom, directory)
            if number:  # what is read for the first time is not what is measured
                docker.append(beside)
                seconds.append(took.seconds)
                cpu.append(took.cpu)
                runs.append([e for e in json.loads(target.read_bytes())["traceEvents"] if e["ph"] == "X"])
        packages = imports(loom, directory)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    report(runs, seconds, cpu, docker)
    print("| package | ms to import |\n| --- | ---: |")
    for name, ms in sorted(packages.items(), key=lambda item: -item[1])[:15]:
        print(f"| {name} | {ms:.1f} |")


def docker_runs(jobs: int) -> float:
    began = time.monotonic()
    command = ["docker", "run", "--rm", IMAGE, "echo", "hi"]
    for process in [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(jobs)]:
        process.wait()
    return time.monotonic() - began


def report(runs: list[Spans], seconds: list[float], cpu: list[float], docker: list[float]) -> None:
    print("| part of the run | ms |\n| --- | ---: |")
    for name, ms in medians(map(parts, runs, seconds)).items():
        print(f"| {name} | {ms:.0f} |")
    loom, beside = statistics.median(seconds), statistics.median(docker)
    print(f"| the whole run ({1000 * statistics.median(cpu):.0f} ms of processor time) | {1000 * loom:.0f} |")
    print(f"| `docker run --rm` (ratio {loom / beside:.2f}) | {1000 * beside:.0f} |\n")
    requests = statistics.median(sum(span["cat"] == "engine" for span in spans) for spans in runs)
    processes = statistics.median(sum(span["cat"] == "process" for span in spans) for spans in runs)
    print(f"{requests:.0f} requests to the engine, {processes:.0f} git processes\n")
    print(f"Load {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} processors; {len(runs)} rounds\n")


if __name__ == "__main__":
    main()
