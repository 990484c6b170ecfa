#!/usr/bin/env python3
"""What a run costs in a large tree beside the same run in one of 150 files: cost has to follow the change, not the tree.

    python tests/bench/large_tree.py [--files N] [--rounds N] [--work DIR]

A first run, beside `git worktree add` of the same tree, which is never removed: a file system searches past what was
removed lately. Then rounds of runs with one changed file, with one job and with eight. `watch.py --files N` has the same
for `loom watch`. Prints rows of a Markdown table.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from watch import IMAGE, environment, repository

from loom.util.units import counted

FEW = 150
EIGHT = f"version: v1\nstages: [test]\nhi: {{stage: test, image: {IMAGE}, parallel: 8, script: [cat a.txt]}}\n"


class Tree:
    """A checkout with state of its own. `took`: the seconds of each run, of processor time too, by the number of jobs."""

    def __init__(self, base: Path, files: int) -> None:
        base.mkdir()
        self.root, self.files = repository(base, files), files
        (base / "eight.yml").write_text(EIGHT)
        self.environ = environment(base) | {"LOOM_AUTO_CLEAN": "true"}  # which sets workspaces aside
        self.workflows = {1: ".loom/workflow.yml", 8: str(base / "eight.yml")}
        self.took: dict[int, list[tuple[float, float]]] = {jobs: [] for jobs in self.workflows}

    def run(self, jobs: int) -> None:
        (self.root / "a.txt").write_text(f"{time.time_ns()}\n")
        time.sleep(1 + self.files / 25_000)  # the run before is cleared away in the background
        loom = [sys.executable, "-m", "loom", "run", "--quiet", "--keep", "never", "-f", self.workflows[jobs]]
        began, used = time.perf_counter(), processor_time()
        subprocess.run(loom, cwd=self.root, env=self.environ, check=True, stdout=subprocess.DEVNULL)
        self.took[jobs].append((time.perf_counter() - began, processor_time() - used))

    def worktree(self) -> float:
        began = time.perf_counter()
        added = ["git", "worktree", "add", "-q", "--detach", str(self.root.with_name("worktree"))]
        subprocess.run(added, cwd=self.root, check=True)
        return time.perf_counter() - began


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(what: str, loom: float, beside: str, other: float) -> None:
    print(f"| {what} | {loom:.2f} s | {beside} {other:.2f} s | {loom / other:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--work", type=Path, default=None)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-", dir=arguments.work))
    try:
        few, many = Tree(base / "few", FEW), Tree(base / "many", arguments.files)
        added = many.worktree()
        for jobs in few.took:
            for _ in range(arguments.rounds):
                few.run(jobs)
                many.run(jobs)
        row(f"first run, {arguments.files:,} files", many.took[1][0][0], "`git worktree add`", added)
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        print(
            f"| its second run | {many.took[1][1][1]:.2f} s of processor time | most memory of a process {memory} MB | |"
        )
        for jobs in few.took:
            # The first round makes the workspace that later ones renew.
            walls = [statistics.median(wall for wall, _ in tree.took[jobs][-5:]) for tree in (many, few)]
            row(
                f"{counted(jobs, 'job')}, round {arguments.rounds}, one changed file",
                walls[0],
                f"on {FEW} files",
                walls[1],
            )
            print(f"| | {walls[0] - walls[1]:.2f} s more | `git worktree add` | {(walls[0] - walls[1]) / added:.2f} |")
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
