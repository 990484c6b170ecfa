#!/usr/bin/env python3
"""How long after a file is written its run shows something, under `loom watch`, beside plain `docker run`.

    python tests/bench/watch.py [--rounds N] [--files N]

Each round writes a file, waits for the step's first byte on the terminal and for the end of the run (its receipt is on disk),
and then times `docker run --rm`. Prints rows of a Markdown table. Needs pexpect.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pexpect

IMAGE = "debian:trixie-slim"
WORKFLOW = f"version: v1\nstages: [test]\nhi: {{stage: test, image: {IMAGE}, script: [cat a.txt]}}\n"


def repository(base: Path, files: int) -> Path:
    root = base / "repo"
    (root / ".loom").mkdir(parents=True)
    (root / ".loom/workflow.yml").write_text(WORKFLOW)
    (root / "a.txt").write_text("first\n")
    for number in range(files):
        file = root / f"d{number // 40}" / f"{number}.txt"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{number}\n" * 60)
    # Without git's own clean-up in the background, which the explicit one would meet in a large tree.
    by = ("user.name=b", "user.email=b@example.org", "gc.auto=0", "maintenance.auto=false")
    git = ["git", *(word for setting in by for word in ("-c", setting))]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "bench"], ["gc", "-q"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    return root


def environment(base: Path) -> dict[str, str]:
    """Loom as it is installed, with its bytecode and with everything that it makes in `base`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "LOOM_STATE_DIR": str(base / "state"),
        "LOOM_TMP_DIR": str(base),
        "LOOM_AUTO_CLEAN": "false",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--files", type=int, default=150)
    arguments = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="loom-bench-"))
    environ = environment(base)
    first, end, docker = [], [], []
    try:
        root = repository(base, arguments.files)
        watch = ["-m", "loom", "watch", "--stream", "--color", "never", "--keep", "never"]
        terminal = pexpect.spawn(sys.executable, watch, cwd=str(root), env=environ, encoding="utf-8", timeout=60)
        terminal.expect("waiting for changes")
        for number in range(arguments.rounds):
            time.sleep(2 + arguments.files / 5000)  # a person thinks; the next run is prepared
            began = time.perf_counter()
            (root / "a.txt").write_text(f"value {number}\n")
            terminal.expect(f"[|│] value {number}\r")
            first.append(time.perf_counter() - began)
            terminal.expect("passed in .*waiting for changes")
            end.append(time.perf_counter() - began)
            time.sleep(2)
            began = time.perf_counter()
            subprocess.run(["docker", "run", "--rm", IMAGE, "true"], check=True)
            docker.append(time.perf_counter() - began)
        terminal.send("q")
        terminal.expect(pexpect.EOF)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    plain = statistics.median(docker)
    for what, took in (("first output", first), ("end of the run", end), ("`docker run --rm`", docker)):
        ms = [round(seconds * 1000) for seconds in took]
        median = statistics.median(took)
        print(f"| {arguments.files} | {what} | {median * 1000:.0f} | {min(ms)}-{max(ms)} | {median / plain:.2f} |")


if __name__ == "__main__":
    main()
