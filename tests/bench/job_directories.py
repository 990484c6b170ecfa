#!/usr/bin/env python3
"""What it costs that each job has files of its own: jobs at once, by size of the repository and `mount_mode`.

    python tests/bench/job_directories.py [--rounds N] [--files N...] [--jobs N...] [--modes MODE...]

Each round runs the modes and, as the measure, as many `docker run` at once, one after the other, so that a busy machine is
busy for all. Workspaces stay until the end: some file systems are slow after large removals. Jobs read two files and write one of 100 kB. Prints a Markdown table of medians, ratios to `docker run`, and
what the jobs' own directories take on the disk.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

IMAGE = "debian:trixie-slim"
SCRIPT = "cat d0/f0 d0/f1 > both; head -c 100000 /dev/zero > made"
MODES = ("bind_mount", "auto", "copy", "ephemeral_volume")


def repository(base: Path, files: int, jobs: int) -> Path:
    directory = base / f"{files}-{jobs}"
    (directory / ".loom").mkdir(parents=True)
    workflow = f"version: v1\nstages: [test]\ndefault: {{image: {IMAGE}}}\n"
    workflow += "".join(f"job{number}: {{stage: test, script: ['{SCRIPT}']}}\n" for number in range(jobs))
    (directory / ".loom" / "workflow.yml").write_text(workflow)
    for number in range(files):
        path = directory / f"d{number // 50}" / f"f{number % 50}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number} a line of some forty bytes, or so\n" * (number % 97))
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org", "-c", "gc.auto=0"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"]):
        subprocess.run([*git, *arguments], cwd=directory, check=True)
    return directory


def took(call: Callable[[], None]) -> float:
    time.sleep(1)  # the engine still works for the command before
    started = time.monotonic()
    call()
    return time.monotonic() - started


def docker_runs(directory: Path, jobs: int) -> None:
    command = ["docker", "run", "--rm", "-v", f"{directory}:/workspace:ro", IMAGE, "sh", "-c", "cat /workspace/d0/f0"]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(jobs)]
    if any(process.wait() for process in running):
        raise SystemExit("docker run failed")


def loom(directory: Path, places: Path, mode: str, jobs: int) -> int:
    """One run; what its jobs' own directories take, in bytes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "TMPDIR": str(places),
        "LOOM_TMP_DIR": str(places),
        "HOME": str(places.parent),
        "LOOM_AUTO_CLEAN": "false",
    }
    command = [sys.executable, "-m", "loom", "run", "--local", "--mount-mode", mode, "-j", str(jobs)]
    subprocess.run(command, cwd=directory, env=environment, check=True, stdout=subprocess.DEVNULL)
    return sum(blocks(path) for path in places.glob("*/*.jobs"))


def blocks(directory: Path) -> int:
    found = (path.lstat().st_blocks for path in directory.rglob("*"))
    return 512 * sum(found)


def series(base: Path, files: int, jobs: int, modes: list[str], rounds: int) -> list[str]:
    directory = repository(base, files, jobs)
    times: dict[str, list[float]] = {name: [] for name in ("docker run", *modes)}
    sizes: dict[str, int] = {}
    for number in range(rounds):
        times["docker run"].append(took(lambda: docker_runs(directory, jobs)))
        for mode in modes:
            places = directory.with_name(f"{directory.name}-{mode}-{number}")
            places.mkdir()
            time.sleep(1)
            started = time.monotonic()
            sizes[mode] = loom(directory, places, mode, jobs)
            times[mode].append(time.monotonic() - started)
    measure = statistics.median(times["docker run"])
    return [
        f"| {files} | {jobs} | `{mode}` | {statistics.median(times[mode]):.2f} "
        f"| {statistics.median(times[mode]) / measure:.2f} | {sizes[mode] / 1e6:.1f} |"
        for mode in modes
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, nargs="+", default=[150, 5000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    arguments = parser.parse_args()
    print("| files | jobs at once | `mount_mode` | s | to as many `docker run` | MB of jobs' own |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as base:
        for files in arguments.files:
            for jobs in arguments.jobs:
                for line in series(Path(base), files, jobs, arguments.modes, arguments.rounds):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
