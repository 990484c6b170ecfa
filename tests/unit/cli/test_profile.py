"""`loom run --profile FILE`, in a process of its own: it records from the start."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    checkout = tmp_path / "checkout"
    (checkout / ".loom").mkdir(parents=True)
    (checkout / ".loom/workflow.yml").write_text("version: v1\nstages: [a]\nhi: {stage: a, script: [echo hi]}\n")
    for words in (("init", "-q"), ("add", "-A"), ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a")):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    environ = {**os.environ, "HOME": str(tmp_path), "LOOM_TMP_DIR": str(tmp_path), "LOOM_AUTO_CLEAN": "false"}

    def loom(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loom", "run", *arguments]
        return subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, timeout=120)

    return loom


def test_it_holds_the_start_the_processes_and_the_steps(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "profile.json"
    assert run("--profile", str(target)).returncode == 0
    events = json.loads(target.read_bytes())["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = [event for event in events if event["ph"] == "X"]
    assert {span["tid"] for span in spans} == set(tracks)
    assert all(span["dur"] >= 0 for span in spans)
    assert {"Python", "snapshot", "script/01", "job.execution"} <= {s["name"] for s in spans}
    step = one(spans, "script/01")
    assert (tracks[step["tid"]], step["cat"]) == ("job hi", "phase")
    assert any(span["cat"] == "process" and span["name"].startswith("git ls-files") for span in spans)
    run_spans = sorted((span["ts"], span["ts"] + span["dur"]) for span in spans if tracks[span["tid"]] == "MainThread")
    nested(run_spans)


def one(spans: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [found] = [span for span in spans if span["name"] == name]
    return found


def nested(spans: list[tuple[float, float]]) -> None:
    """A viewer draws a track only if each span is inside another one or beside it."""
    open_until: list[float] = []
    for began, ended in spans:
        while open_until and open_until[-1] <= began:
            open_until.pop()
        assert not open_until or ended <= open_until[-1] + 0.001
        open_until.append(ended)


def test_a_directory_that_is_not_there_is_refused_before_the_run(run: Run, tmp_path: Path) -> None:
    refused = run("--profile", str(tmp_path / "none" / "profile.json"))
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "there is no directory" in refused.stderr


def test_no_profile_is_written_for_another_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loom", "check", "--profile=x.json"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120).returncode == 2
    assert list(tmp_path.iterdir()) == []
