"""A run that its loom leaves, and that another one follows to its end, in the same record."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".loom").mkdir(parents=True)
    (folder / ".loom/workflow.yml").write_text(WORKFLOW)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def test_a_run_is_left_followed_killed_and_followed_to_its_end(project: Path, tmp_path: Path) -> None:
    environ: Mapping[str, str] = {
        **kubernetes.environ(),
        "LOOM_STATE_DIR": str(tmp_path / "state"),
        "LOOM_TMP_DIR": str(tmp_path),
        "LOOM_CACHE_DIR": str(tmp_path / "cache"),
        "STORY_KEY": "s3cr3t-value",
        "LOOM_TRUST": "1",
    }

    def loom(*words: str) -> subprocess.CompletedProcess[str]:
        return run_loom(words, cwd=project, environ=environ, timeout=200)

    left = loom("run", "--container", "--on", "kubernetes", "--detach", "--trust")
    assert left.returncode == 0, left.stdout + left.stderr
    (row,) = json.loads(loom("runs", "--json").stdout)["runs"]
    run_id = row["run_id"]
    assert row["status"] == "detached"
    assert f"loom attach {run_id}" in left.stdout
    assert len(kubernetes.pods_of(run_id)) == 1
    assert loom("resume", run_id).returncode == 2
    assert loom("clean", "--keep-last", "0").returncode == 0
    assert loom("runs", "--json").stdout.count(run_id)

    steps = tmp_path / "state/runs" / run_id / "logs" / run_id / "jobs/build/user"
    following = subprocess.Popen(
        [sys.executable, "-m", "loom", "attach", run_id, "--trust"],
        cwd=project,
        env=dict(environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        lambda: any("line 199" in path.read_text() for path in steps.rglob("events.jsonl")),
        while_runs=following,
        limit_s=180,
    )
    assert loom("attach", run_id).returncode == 2
    following.send_signal(signal.SIGKILL)
    following.wait(timeout=60)

    assert loom("exec", run_id, "build", "--", "touch", "/tmp/go").returncode == 0
    ended = loom("attach", run_id, "--trust")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (row,) = json.loads(loom("runs", "--json").stdout)["runs"]
    assert (row["run_id"], row["status"]) == (run_id, "success")
    lines = "".join(f"line {number}\n" for number in range(200))
    said = loom("logs", run_id, "build").stdout
    assert lines in said
    assert said.count("line 7\n") == said.count("of build\n") == said.count("begins\n") == 1
    assert "s3cr3t" not in said
    assert "made" in loom("logs", run_id, "test").stdout
    until(lambda: kubernetes.pods_of(run_id) == [])
