"""A machine that has nothing left, or files that somebody removes: the run says so, with its exit code, and has a record."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until

from .conftest import Make, Project

pytestmark = pytest.mark.slow

TWO = """\
version: v1
stages: [a, b]
first: {stage: a, script: ["while [ -e GATE ]; do sleep 0.05; done; echo one"]}
second: {stage: b, script: [echo two]}
"""


def run(project: Project, descriptors: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loom", "run", "--local"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
    )


def run_script(project: Project, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, "run", "--local"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("descriptors", [9, 13, 17, 21])
def test_too_few_descriptors(make: Make, descriptors: int) -> None:
    project = make(TWO.replace("GATE", "no"))
    ran = run(project, descriptors)
    text = ran.stdout + ran.stderr
    assert "bug" not in text
    assert (ran.returncode == 3) == ("Too many open files" in text), text
    for entry in project.store.entries():
        assert entry.receipt is not None, text
        assert entry.receipt.exit_code == ran.returncode


def test_no_more_threads(make: Make) -> None:
    """Each job then runs in the thread that starts them, and so one after the other."""
    project = make(TWO.replace("GATE", "no"))
    script = """
import sys, threading
start = threading.Thread.start
def refuse(thread):
    if thread.name.startswith("job "):
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
sys.argv[0] = "loom"
from loom.cli import main
main()
"""
    ran = run_script(project, script)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("what", ["record", "part of the record"])
def test_a_record_that_somebody_removes(make: Make, tmp_path: Path, what: str) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    project = make(TWO.replace("GATE", str(gate)))
    process = project.start("run", "--local")
    until(lambda: [*project.store.runs_dir.glob("*/logs/*/jobs/first/user/script/01/events.jsonl")], while_runs=process)
    (run_id,) = project.store.run_ids()
    root = project.store.runs_dir / run_id
    if what == "record":
        shutil.rmtree(root)
    else:
        (root / "CACHEDIR.TAG").unlink()
    gate.unlink()
    out, err = process.communicate(timeout=60)
    if what == "record":
        assert (process.returncode, root.exists()) == (3, False), out + err
        assert "the record can't be written" in err
    else:
        assert process.returncode == 0, out + err
    project.loom("clean", "--all", "--keep-last", "0")
    assert list(project.store.runs_dir.glob("*")) == []


def test_durations_do_not_follow_a_clock_that_is_set(make: Make) -> None:
    """The clock goes back by a day while a job runs, whose time limit stays what it is."""
    project = make("version: v1\nstages: [a]\na: {stage: a, timeout: 30s, script: [echo hi, echo there]}\n")
    script = """
import sys, time
ago, now = 0, time.time_ns
def stepped():
    global ago
    ago += 86400 * 10**9
    return now() - ago
from loom.cli import main
import loom.commands.run.run
time.time_ns = stepped
sys.argv[0] = "loom"
main()
"""
    ran = run_script(project, script)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (receipt,) = project.store.runs_dir.glob("*/receipts/*.json")
    assert 0 <= json.loads(receipt.read_text())["duration_ms"] < 60_000
