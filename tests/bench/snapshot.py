"""How long a snapshot takes, against the other ways to get a second checkout, each in turn, several times.

    python tests/bench/snapshot.py [--runs N] [--work DIR] [REPOSITORY...]

Without a repository, loom's own. Use checkouts with a real history; results of docs/benchmarks.md come from a journaled
ext4 on a loop device. Everything is made below --work, on one file system with the repositories if they lie there.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from loom.cancel import Cancel
from loom.snapshot import discover, take

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def loom(source: Path, target: Path) -> None:
    target.mkdir()
    take(discover(source, environ=os.environ), target, cancel=Cancel())


def loom_renewed(source: Path, target: Path) -> None:
    """In the workspace of the last time."""
    spare, known = spare_of(target), target.with_suffix(".known")
    if spare.exists():
        spare.rename(target)
    target.mkdir(exist_ok=True)
    take(discover(source, environ=os.environ), target, cancel=Cancel(), known=known)


def spare_of(target: Path) -> Path:
    return target.with_suffix(".spare")


def loom_started(source: Path, target: Path) -> None:
    """As a command of its own: Python and imports included."""
    program = (
        "import os, sys; from pathlib import Path; from loom.snapshot import discover, take; from loom.cancel import Cancel;"
        "Path(sys.argv[2]).mkdir(); take(discover(Path(sys.argv[1]), environ=os.environ), Path(sys.argv[2]), cancel=Cancel())"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(source), str(target)],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def cp(source: Path, target: Path) -> None:
    run("cp", "-r", str(source), str(target))


def clone(source: Path, target: Path) -> None:
    run("git", "clone", "-q", "--local", str(source), str(target))


def rsync(source: Path, target: Path) -> None:
    run("rsync", "-a", f"{source}/", str(target))


METHODS: dict[str, Callable[[Path, Path], None]] = {
    "cp -r": cp,
    "loom": loom,
    "loom, renewed": loom_renewed,
    "loom, with its start": loom_started,
    "git clone --local": clone,
    "rsync -a": rsync,
}


def measure(source: Path, work: Path, runs: int, methods: dict[str, Callable[[Path, Path], None]]) -> None:
    walls: dict[str, list[float]] = {name: [] for name in methods}
    cpus: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(runs + 1):
        for name, method in methods.items():
            target = work / f"target-{os.getpid()}"
            os.sync()
            began, used = time.perf_counter(), cpu()
            method(source, target)
            if number:  # the first round warms the page cache
                walls[name].append((time.perf_counter() - began) * 1000)
                cpus[name].append((cpu() - used) * 1000)
            if method is loom_renewed and number < runs:
                target.rename(spare_of(target))
            else:
                shutil.rmtree(target)
    base = statistics.median(walls["cp -r"])
    base_cpu = statistics.median(cpus["cp -r"])
    for name in methods:
        wall, used = statistics.median(walls[name]), statistics.median(cpus[name])
        print(
            f"| {name} | {wall:,.0f} ({min(walls[name]):,.0f}-{max(walls[name]):,.0f}) | {wall / base:.2f} "
            f"| {used:,.0f} | {used / base_cpu:.2f} |"
        )


def cpu() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repositories", nargs="*", type=Path, default=[ROOT])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--work", type=Path, default=None)
    arguments = parser.parse_args()
    methods = {name: method for name, method in METHODS.items() if name != "rsync -a" or shutil.which("rsync")}
    with tempfile.TemporaryDirectory(prefix="loom-bench-", dir=arguments.work) as directory:
        work = Path(directory)
        print(
            f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {arguments.runs} (range), ms"
        )
        for source in (path.resolve() for path in arguments.repositories):
            files = subprocess.run(["git", "-C", str(source), "ls-files", "-z"], check=True, capture_output=True).stdout
            tracked = os.fsdecode(files).split("\0")[:-1]
            print(f"\n{source.name}: {len(tracked):,} files\n\n| method | wall | ratio | CPU | ratio |")
            print("| --- | ---: | ---: | ---: | ---: |")
            measure(source, work, arguments.runs, methods)
            # One uncommitted edit, in a copy: the repository itself is not to be touched.
            edited = work / "edited"
            shutil.copytree(source, edited, symlinks=True)
            run("git", "status", cwd=edited)
            changed = next(
                edited / path for path in tracked if (edited / path).is_file() and not (edited / path).is_symlink()
            )
            changed.write_bytes(changed.read_bytes() + b"\n")
            print("\nwith one changed file\n")
            measure(edited, work, arguments.runs, {name: methods[name] for name in ("cp -r", "loom", "loom, renewed")})
            shutil.rmtree(edited)
        print(f"\nload after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
