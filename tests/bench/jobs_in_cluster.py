"""Many jobs at once: in a cluster, and as many in local Docker.

    KUBECONFIG=... python tests/bench/jobs_in_cluster.py [--jobs N...] [--docker-up-to N]

Each job sleeps for a second, in a repository of 150 files. Prints a Markdown table: the run's time, loom's own processor time
and memory, and its requests to the API server. The load is the machine's at the end of the run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGE = os.environ.get("LOOM_TEST_KUBERNETES_IMAGE", "debian:trixie-slim")
GIT = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org"]
PROGRAM = """
import json, resource, sys, time
from loom.commands.run import run
from loom.record.request import Request
from loom.providers.kubernetes.cluster.client import ws_client
from urllib3 import PoolManager
place, jobs = sys.argv[1], int(sys.argv[2])
made = []
def counted(ask):
    return lambda *given, **more: made.append(1) or ask(*given, **more)
PoolManager.request = counted(PoolManager.request)
ws_client.create_websocket = counted(ws_client.create_websocket)
begun = time.monotonic()
code = run.run_with(Request(quiet=True, flags={"on": place, "jobs": jobs}))
used = resource.getrusage(resource.RUSAGE_SELF)
requests = len(made)
print(json.dumps([code, time.monotonic() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024, requests]), file=sys.stderr)
"""


def measured(place: str, jobs: int) -> str:
    """Return the table's line of one run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "repo")
        (root / ".loom").mkdir(parents=True)
        (root / ".loom/workflow.yml").write_text(
            f"version: v1\nstages: [a]\ndefault: {{image: '{IMAGE}'}}\n"
            + "".join(f"job{number}: {{stage: a, script: sleep 1}}\n" for number in range(jobs))
        )
        for number in range(150):
            (root / f"f{number}").write_text("a line of some forty bytes, or about so\n" * 100)
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            subprocess.run([*GIT, *command], cwd=root, check=True)
        environ = {**os.environ, "HOME": folder, "LOOM_TMP_DIR": folder, "LOOM_TRUST": "1", "LOOM_AUTO_CLEAN": "false"}
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, place, str(jobs)],
            cwd=root,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        code, seconds, processor, memory, requests = json.loads(ran.stderr.splitlines()[-1])
        if code:
            raise SystemExit(ran.stdout + ran.stderr)
    load = os.getloadavg()[0]
    return f"| {jobs} | {place} | {seconds:.1f} | {processor:.1f} | {memory} | {requests} | {load:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[50])
    parser.add_argument("--docker-up-to", type=int, default=50)
    options = parser.parse_args()
    print("| jobs | place | s | loom's processor s | MB | requests | load |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for jobs in options.jobs:
        for place in ("docker", "kubernetes") if jobs <= options.docker_up_to else ("kubernetes",):
            print(measured(place, jobs), flush=True)


if __name__ == "__main__":
    main()
