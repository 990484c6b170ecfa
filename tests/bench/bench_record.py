"""How long the readers take on a run with millions of lines, and on hundreds of runs.

    python tests/bench/bench_record.py [LINES] [RUNS]

Runs a real workflow once, then lengthens the failing step's file as the journal would have written it, and copies the record.
Times are those of whole commands, Python's start included, medians of 7.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORKFLOW = "version: v1\nstages: [s]\ntest:\n  stage: s\n  script: ['echo one; cat missing.txt']\n"
ROOT = Path(__file__).parents[2]


def main(lines: int, runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as base:
        root = Path(base) / "project"
        (root / ".loom").mkdir(parents=True)
        (root / ".loom" / "workflow.yml").write_text(WORKFLOW)
        git = ["git", "-c", "user.name=b", "-c", "user.email=b@example.org"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "b"]):
            subprocess.run([*git, *command], cwd=root, check=True)
        environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LOOM_STATE_DIR": f"{base}/state",
            "LOOM_TMP_DIR": f"{base}/w",
        }

        def loom(*arguments: str) -> float:
            begun = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "loom", *arguments],
                cwd=root,
                env=environ,
                check=False,
                stdout=subprocess.DEVNULL,
            )
            return (time.perf_counter() - begun) * 1000

        loom("run", "--local")
        record = next(Path(base, "state", "runs").iterdir())
        lengthen(next(record.rglob("script/01/events.jsonl")), lines)
        floor = statistics.median(start(environ) for _ in range(7))
        print(f"python -c pass: {floor:.0f} ms")
        for arguments in (["version"], ["diagnose"], ["diagnose", "--format", "agent"], ["show"], ["logs", "-n", "20"]):
            print(
                f"loom {' '.join(arguments)}, {lines:,} lines: {statistics.median(loom(*arguments) for _ in range(7)):.0f} ms"
            )
        next(record.rglob("script/01/events.jsonl")).write_text("")
        for number in range(1, runs):
            copy(record, int(record.name) + number)
        for arguments in (["runs"], ["runs", "-n", str(runs)], ["runs", "--all", "-n", str(runs), "--json"]):
            print(
                f"loom {' '.join(arguments)}, {runs} runs: {statistics.median(loom(*arguments) for _ in range(7)):.0f} ms"
            )


def start(environ: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], env=environ, check=True)
    return (time.perf_counter() - begun) * 1000


def lengthen(path: Path, count: int) -> None:
    """Put `count` lines before the ones that are there; the numbers of the last ones no longer fit, which no reader minds."""
    own = path.read_bytes().splitlines(keepends=True)
    with path.open("wb") as file:
        file.write(own[0])
        template = (
            b'{"seq":%d,"ts":"2026-11-25T01:00:00.000000Z","kind":"output","stream":"stdout",'
            b'"text":"line %d of a log that tells of nothing in particular"}\n'
        )
        for first in range(0, count, 10_000):
            file.write(b"".join(template % (number, number) for number in range(first, min(first + 10_000, count))))
        file.writelines(own[1:])


def copy(record: Path, run_id: int) -> None:
    target = record.with_name(str(run_id))
    shutil.copytree(record, target)
    (target / "logs" / record.name).rename(target / "logs" / str(run_id))
    receipt = target / "receipts" / f"loom-run-local-{record.name}.json"
    shape = json.loads(receipt.read_text())
    receipt.with_name(f"loom-run-local-{run_id}.json").write_text(json.dumps({**shape, "run_id": str(run_id)}))
    receipt.unlink()


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]] or [5_000_000, 500])
