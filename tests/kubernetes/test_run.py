"""A run on a cluster as a user has it, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pexpect
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
  script:
    - mkdir -p out cached && cp a.txt out/b.txt
    - date >>cached/dates
  artifacts: {{paths: [out/]}}
  cache: {{paths: [cached/], key: k}}
test:
  stage: test
  needs: [build]
  secrets: {{KEY: {{ref: "env://STORY_KEY"}}}}
  cache: {{paths: [cached/], key: k, policy: pull}}
  services:
    - {{name: sleeper, image: "{kubernetes.IMAGE}", command: [sh, -c, "echo awake; exec sleep 1000"], ready: {{log: awake}}}}
  script:
    - cat out/b.txt cached/dates
    - test $(wc -c <"$KEY") = 12 && echo the secret is right; cat "$KEY"; echo
    - echo left >left.txt; sleep 1000 & echo $! >/tmp/child
    - test -e fixed
    - kill -0 $(cat /tmp/child) && echo goes on
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / ".loom").mkdir(parents=True)
    (folder / ".loom/workflow.yml").write_text(WORKFLOW)
    (folder / "a.txt").write_text("from the snapshot\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    return {
        **kubernetes.environ(),
        "LOOM_STATE_DIR": str(tmp_path / "state"),
        "LOOM_TMP_DIR": str(tmp_path),
        "LOOM_CACHE_DIR": str(tmp_path / "cache"),
        "STORY_KEY": "s3cr3t-value",
        "LOOM_TRUST": "1",
    }


def test_a_failed_job_is_entered_repaired_and_resumed_and_nothing_is_left(
    project: Path, environ: Mapping[str, str]
) -> None:
    def loom(*words: str) -> subprocess.CompletedProcess[str]:
        return run_loom(words, cwd=project, environ=environ, timeout=200)

    ran = loom("run", "--local", "--container", "--on", "kubernetes", "--keep", "on-failure", "--trust", "--json")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    run_id = json.loads(loom("runs", "--json").stdout)["runs"][0]["run_id"]
    said = loom("logs", run_id, "test").stdout
    assert "from the snapshot" in said
    assert "the secret is right" in said
    assert "s3cr3t" not in said
    (pod,) = kubernetes.pods_of(run_id)

    entered = loom("exec", run_id, "test", "--", "sh", "-c", "cat left.txt; exit 7")
    assert (entered.returncode, entered.stdout) == (7, "left\n"), entered.stderr
    shell = pexpect.spawn(
        sys.executable,
        ["-m", "loom", "shell", run_id, "test"],
        cwd=project,
        env=dict(environ),
        timeout=60,
        dimensions=(33, 99),
    )
    shell.sendline("stty size; touch fixed; exit 3")
    shell.expect("33 99")
    shell.expect(pexpect.EOF)
    shell.close()
    assert shell.exitstatus == 3

    resumed = loom("resume", run_id, "--trust")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "goes on" in loom("logs", "last", "test").stdout
    until(lambda: kubernetes.pods_of(run_id) == [])
    assert pod
    assert "s3cr3t" not in "".join(
        path.read_text("utf-8", "replace") for path in Path(environ["LOOM_STATE_DIR"]).rglob("*.json*")
    )


def test_loom_clean_removes_a_kept_pod(project: Path, environ: Mapping[str, str]) -> None:
    def loom(*words: str) -> subprocess.CompletedProcess[str]:
        return run_loom(words, cwd=project, environ=environ, timeout=200)

    loom("run", "--local", "--container", "--on", "kubernetes", "--keep", "on-failure", "--trust")
    run_id = json.loads(loom("runs", "--json").stdout)["runs"][0]["run_id"]
    assert len(kubernetes.pods_of(run_id)) == 1
    assert loom("clean", run_id).returncode == 0
    until(lambda: kubernetes.pods_of(run_id) == [])
