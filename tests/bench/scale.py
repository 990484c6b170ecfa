"""A run of thousands of jobs on a provider that does nothing: the scheduler's, the record's and the screen's cost per job.

The rows grow tenfold; a cost that grows with the run shows in the column per job.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROGRAM = f"""
import json, resource, sys
sys.path.insert(0, {str(HERE)!r})
from loom import providers
providers.MODULES["null"] = "_null_provider"
from loom.commands.run import run
from loom.record.request import Request
code = run.run_with(Request(quiet=True, flags={{"on": "null"}}))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024]), file=sys.stderr)
"""
SHAPES = {
    "stages": "job{n}: {{stage: s{stage}, script: 'true'}}\n",
    "needs": "job{n}: {{stage: s0, script: 'true', needs: [{need}]}}\n",
}


def workflow(shape: str, jobs: int) -> str:
    lines = [
        SHAPES[shape].format(n=number, stage=number * 5 // jobs, need=f"job{number // 2}" if number else "")
        for number in range(jobs)
    ]
    return "version: v1\nstages: [s0, s1, s2, s3, s4]\n" + "".join(lines)


def measured(shape: str, jobs: int) -> tuple[float, int]:
    """Return the run's processor time and its memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "repo")
        (root / ".loom").mkdir(parents=True)
        (root / ".loom/workflow.yml").write_text(workflow(shape, jobs))
        git = ["git", "-C", str(root), "-c", "user.name=b", "-c", "user.email=b@example.org"]
        for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "bench"]):
            subprocess.run([*git, *arguments], check=True)
        environ = {**os.environ, "HOME": folder, "LOOM_TMP_DIR": folder, "LOOM_AUTO_CLEAN": "false"}
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=root, env=environ, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise SystemExit(ran.stderr)
        code, seconds, memory = json.loads(ran.stderr.splitlines()[-1])
        if code:
            raise SystemExit(ran.stdout + ran.stderr)
        return seconds, memory


def main() -> None:
    sizes = [int(size) for size in sys.argv[1:]] or [50, 500, 5000]
    print(f"{'shape':<8}{'jobs':>6}{'s':>9}{'ms/job':>9}{'MB':>6}")
    for shape in SHAPES:
        for jobs in sizes:
            seconds, memory = measured(shape, jobs)
            print(f"{shape:<8}{jobs:>6}{seconds:>9.1f}{seconds / jobs * 1000:>9.1f}{memory:>6}", flush=True)


if __name__ == "__main__":
    main()
