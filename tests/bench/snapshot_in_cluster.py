"""The snapshot's way into a cluster's pods: a registry that gets it once, against a stream into each pod.

    python tests/bench/snapshot_in_cluster.py REGISTRY [--files N...] [--jobs N...]

`KUBECONFIG` names the cluster; REGISTRY is one that its nodes pull from (`http://HOST:PORT`). Prints a Markdown table: the
time of a run whose jobs only read a file, and the bytes that left this machine. `second`: the same run after one file changed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.support.oci import push_busybox

IMAGE = "debian:trixie-slim"
GIT = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org"]


def repository(base: Path, files: int, jobs: int) -> Path:
    root = base / "repo"
    (root / ".loom").mkdir(parents=True)
    text = "".join(f"job{number}: {{stage: a, script: cat d0/f0}}\n" for number in range(jobs))
    (root / ".loom/workflow.yml").write_text(f"version: v1\nstages: [a]\ndefault: {{image: '{IMAGE}'}}\n{text}")
    for number in range(files):
        path = root / f"d{number // 50}" / f"f{number % 50}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(1500) + b"text " * 1500)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*GIT, *command], cwd=root, check=True)
    return root


def run(root: Path, base: Path, pool: str, jobs: int) -> tuple[float, str]:
    """Return the seconds of a run, and what was sent."""
    home = base / "home"
    (home / ".config/loom").mkdir(parents=True, exist_ok=True)
    (home / ".config/loom/config.yml").write_text(f"pools: {{cluster: {pool}}}\n")
    environ = {**os.environ, "HOME": str(home), "LOOM_TMP_DIR": str(base), "LOOM_AUTO_CLEAN": "false"}
    environ |= {"XDG_STATE_HOME": f"{home}/.local/state", "XDG_CACHE_HOME": f"{home}/.cache"}
    started = time.monotonic()
    command = [sys.executable, "-m", "loom", "run", "--quiet", "--on", "cluster"]
    ran = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    if ran.returncode:
        raise SystemExit(ran.stdout + ran.stderr)
    newest = max((home / ".local/state/loom/runs").iterdir())
    record = "".join(path.read_text() for path in newest.rglob("*.jsonl"))
    sent = re.findall(r"the snapshot is \S+ \(([^)]+) sent\)", record)
    workspace = min(base.glob(f"*/loom-run-local-{newest.name}-*"), key=lambda path: len(path.name))
    size = sum(path.lstat().st_size + 1024 for path in workspace.rglob("*") if path.is_file())
    return took, sent[0] if sent else f"{size * jobs / 1e6:.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("registry")
    parser.add_argument("--files", type=int, nargs="+", default=[5000])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    base_image = push_busybox(f"{options.registry}/loom-bench")
    print("| files | jobs | way | run | s | sent |\n| --- | --- | --- | --- | --- | --- |")
    for files in options.files:
        for jobs in options.jobs:
            with tempfile.TemporaryDirectory() as folder:
                root = repository(Path(folder), files, jobs)
                name = f"{options.registry}/loom-bench-{os.getpid()}-{files}-{jobs}"
                ways = {
                    "stream": "{provider: kubernetes}",
                    "registry": f"{{provider: kubernetes, registry: '{name}', registry_base: '{base_image}'}}",
                }
                for turn in ("first", "second"):
                    for way, pool in ways.items():
                        seconds, sent = run(root, Path(folder), pool, jobs)
                        print(f"| {files} | {jobs} | {way} | {turn} | {seconds:.1f} | {sent} |", flush=True)
                    (root / "d3/f3").write_text("changed\n")


if __name__ == "__main__":
    main()
