"""`kill -9` in a run's first moments: whatever it had made by then, there is a record that says so, with its first event."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Make, Project

pytestmark = pytest.mark.slow

TINY = "version: v1\nstages: [s]\na:\n  stage: s\n  script: [echo one]\n"

# Runs loom, and kills it when it changes the world for the n-th time since it began to make its record.
KILLED = """
import os, signal, sys

left = int(sys.argv.pop(1))
begun = False
CHANGES = {"os.mkdir", "os.rename", "os.symlink", "subprocess.Popen", "socket.connect"}

def look(event, arguments):
    global left, begun
    changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY)
    begins = event == "os.mkdir" and os.path.basename(os.path.dirname(arguments[0])) == "runs"
    if not changes or "pyc" in str(arguments[0]) or not (begins or begun):
        return
    begun = True
    left -= 1
    if left == 0:
        os.write(2, f"killed at {event} {arguments}".encode())
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
sys.argv[0] = "loom"
from loom.cli import main
main()
"""


def killed_at(project: Project, number: int, tmp_path: Path) -> str:
    """What it was about to do."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    ran = subprocess.run(
        [sys.executable, str(script), str(number), "run", "--local"],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        timeout=120,
    )
    assert ran.returncode == -9, ran.stderr.decode()
    return ran.stderr.decode()


def listed(project: Project) -> list[str]:
    return [run["run_id"] for run in json.loads(project.loom("runs", "--json"))["runs"]]


@pytest.mark.parametrize("number", [9, 19, 20, 21, 31, 38])
def test_a_run_that_left_something_is_listed_and_cleaned(make: Make, tmp_path: Path, number: int) -> None:
    project = make(TINY)
    workspaces = project.home / "workspaces"
    moment = killed_at(project, number, tmp_path)
    runs = listed(project)
    if list(workspaces.glob("*/*")):
        assert len(runs) == 1, moment
    for run_id in runs:
        assert "interrupted" in project.loom("runs")
        assert json.loads(project.loom("show", run_id, "--json"))["run_id"] == run_id, moment
        assert "run --local" in project.loom("show", run_id)
    assert f"{len(runs)} removed" in project.loom("clean", "--keep-last", "0")
    assert list(workspaces.glob("*/*")) == []
    begun = project.store.runs_dir.glob("*/*")
    assert [path.name for path in begun if path.name != "CACHEDIR.TAG"] == [], moment
