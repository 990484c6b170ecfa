"""A run that its loom leaves, and that another one follows to its end, in the same record."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import kubernetes
from tests.support.loom_process import run_loom
from tests.support.waiting import until

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]

WORKFLOW = f"""
version: v1
stages: [build, test]
default: {{image: "{kubernetes.IMAGE}"}}
build:
  stage: build
  artifacts: {{paths: [out/]}}
  secrets: {{KEY: {{ref: "env://STORY_KEY"}}}}
  script:
    - echo begins; cat "$KEY"; echo
    - i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); done; until [ -e /tmp/go ]; do sleep 0.2; done
    - mkdir out && echo made >out/b.txt; echo "TOKEN=of build" >>$LOOM_ENV
    - echo "$TOKEN"
test:
  stage: test
  needs: [build]
  script: [cat out/b.txt]
"""


RETRY = f"""
version: v1
stages: [test]
default: {{image: "{kubernetes.IMAGE}"}}
build:
  stage: test
  retry: {{max: 1}}
  script:
    - echo attempt $LOOM_ATTEMPT begins
    - test $LOOM_ATTEMPT = 2
    - until [ -e /tmp/go ]; do sleep 0.2; done; echo attempt $LOOM_ATTEMPT ends
"""


class Left:
    """A project with a run that was detached."""

    def __init__(self, folder: Path, workflow: str) -> None:
        self.project = folder / "project"
        (self.project / ".loom").mkdir(parents=True)
        (self.project / ".loom/workflow.yml").write_text(workflow)
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        for words in (["init", "-q"], ["add", "-A"], [*user, "commit", "-qm", "x"]):
            subprocess.run(["git", *words], cwd=self.project, check=True)
        self.environ: Mapping[str, str] = {
            **kubernetes.environ(),
            "LOOM_STATE_DIR": str(folder / "state"),
            "LOOM_TMP_DIR": str(folder),
            "LOOM_CACHE_DIR": str(folder / "cache"),
            "STORY_KEY": "s3cr3t-value",
        }
        self.said = self.loom("run", "--container", "--on", "kubernetes", "--detach", "--trust")
        assert self.said.returncode == 0, self.said.stdout + self.said.stderr
        self.run_id = str(self.row()["run_id"])
        assert self.row()["status"] == "detached"
        self.steps = folder / "state/runs" / self.run_id / "logs" / self.run_id / "jobs/build/user"

    def loom(self, *words: str, without: str = "") -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in self.environ.items() if name != without}
        return run_loom(words, cwd=self.project, environ=environ, timeout=200)

    def row(self) -> dict[str, Any]:
        """The only run, as it is listed."""
        (row,) = json.loads(self.loom("runs", "--json").stdout)["runs"]
        return dict(row)

    def has_printed(self, text: str) -> bool:
        """Return whether a step of the job has printed this. The record of a step goes when the job is tried again."""
        with suppress(FileNotFoundError):
            return any(text in path.read_text() for path in self.steps.rglob("events.jsonl"))
        return False

    def followed_until(self, text: str) -> None:
        """Follow the run until a step of the job has printed this; then kill that loom."""
        following = subprocess.Popen(
            [sys.executable, "-m", "loom", "attach", self.run_id],
            cwd=self.project,
            env=dict(self.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self.has_printed(text), while_runs=following, limit_s=180)
        assert self.loom("attach", self.run_id).returncode == 2
        following.send_signal(signal.SIGKILL)
        following.wait(timeout=60)

    def followed(self) -> None:
        """Let the job end, and follow the run to its end."""
        assert self.loom("exec", "--trust", self.run_id, "build", "--", "touch", "/tmp/go").returncode == 0
        ended = self.loom("attach", self.run_id)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        row = self.row()
        assert (row["run_id"], row["status"]) == (self.run_id, "success")


def test_a_run_is_left_followed_killed_and_followed_to_its_end(tmp_path: Path) -> None:
    left = Left(tmp_path, WORKFLOW)
    loom, run_id, left_at = left.loom, left.run_id, time.monotonic()
    assert f"loom attach {run_id}" in left.said.stdout
    assert len(kubernetes.pods_of(run_id)) == 1
    assert "is detached, and its jobs go on" in loom("diagnose", run_id).stdout
    assert f"loom attach {run_id}" in loom("logs", run_id).stderr
    assert loom("resume", run_id).returncode == 2
    assert loom("clean", "--keep-last", "0").returncode == 0
    assert loom("runs", "--json").stdout.count(run_id)
    refused = loom("attach", run_id, without="STORY_KEY")
    assert "STORY_KEY" in refused.stderr
    assert left.row()["status"] == "detached"
    left.followed_until("line 199")
    waited_ms = (time.monotonic() - left_at) * 1000
    left.followed()
    events = map(json.loads, (left.steps.parents[2] / "events.jsonl").read_text().splitlines())
    took = {one["job_id"]: one["duration_ms"] for one in events if one.get("message") == "job_finished"}
    assert took["build"] > waited_ms
    lines = "".join(f"line {number}\n" for number in range(200))
    said = loom("logs", run_id, "build").stdout
    assert lines in said
    assert said.count("line 7\n") == said.count("of build\n") == said.count("begins\n") == 1
    assert "s3cr3t" not in said
    assert "made" in loom("logs", run_id, "test").stdout
    until(lambda: kubernetes.pods_of(run_id) == [])


def test_of_two_that_would_follow_a_run_one_does(tmp_path: Path) -> None:
    left = Left(tmp_path, RETRY)
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "loom", "attach", left.run_id],
            cwd=left.project,
            env=dict(left.environ),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    until(lambda: any(one.poll() is not None for one in both))
    (refused,) = [one for one in both if one.poll() is not None]
    (other,) = [one for one in both if one is not refused]
    said = refused.communicate()[1]
    assert (refused.returncode, "followed by another loom" in said) == (2, True), said
    until(lambda: left.has_printed("attempt 2 begins"), limit_s=180)
    assert left.loom("exec", "--trust", left.run_id, "build", "--", "touch", "/tmp/go").returncode == 0
    assert other.communicate(timeout=180)[1] == ""
    assert other.returncode == 0
    until(lambda: kubernetes.pods_of(left.run_id) == [])


def test_a_job_that_is_left_is_tried_again_by_the_loom_that_follows_it(tmp_path: Path) -> None:
    left = Left(tmp_path, RETRY)
    left.followed_until("attempt 2 begins")
    left.followed()
    said = left.loom("logs", left.run_id, "build").stdout
    assert "attempt 1 ends" not in said
    assert [said.count(line) for line in ("attempt 1 begins\n", "attempt 2 begins\n", "attempt 2 ends\n")] == [1, 1, 1]
    until(lambda: kubernetes.pods_of(left.run_id) == [])
