"""One run on several providers: each job where its pool says, with the artifacts and variables of the others."""

import json
import re
from pathlib import Path

import pytest

from .test_new_provider import LOOM, far, jobs_of, python

pytestmark = pytest.mark.slow

__all__ = ["far"]

WORKFLOW = """
version: v1
stages: [build, test, report]
build:
  stage: build
  runner_pool: metal
  script: mkdir out; echo "made on $LOOM_PROVIDER" >out/made
  artifacts: {paths: [out]}
test:
  stage: test
  needs: [build]
  runner_pool: away
  parallel: 3
  script:
    - cat out/made
    - echo "tested on $LOOM_PROVIDER" >out/test$CI_NODE_INDEX
  artifacts: {paths: [out/test*]}
report:
  stage: report
  runner_pool: metal
  script: cat out/*
"""
POOLS = """
container: false
pools:
  away: {provider: far, jobs: 2}
  metal: {provider: host}
"""


@pytest.fixture
def mixed(far: dict[str, str]) -> dict[str, str]:
    repository = Path(far["FAR"]).parent / "repo"
    (repository / ".loom/workflow.yml").write_text(WORKFLOW)
    (Path(far["HOME"]) / ".config/loom").mkdir(parents=True)
    (Path(far["HOME"]) / ".config/loom/config.yml").write_text(POOLS)
    return far


def loom(mixed: dict[str, str], *arguments: str) -> str:
    ended = python(mixed, LOOM, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_jobs_here_and_far_away_in_one_run(mixed: dict[str, str]) -> None:
    ran = python(mixed, LOOM, "run", "--mount-mode", "bind_mount")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert jobs_of(ran) == {"build": "passed", "report": "passed"}
    logs = loom(mixed, "logs", "report")
    assert sorted(re.findall(r"(?:made|tested) on \w+", logs)) == ["made on host", *["tested on far"] * 3]
    assert list(Path(mixed["FAR"]).iterdir()) == []


def test_compile_says_where_each_job_will_run(mixed: dict[str, str]) -> None:
    document = json.loads(loom(mixed, "compile", "--json"))
    assert {job["id"]: job["provider"] for job in document["jobs"]}["test.1"] == "far"
    assert document["jobs"][0]["pool"]["name"] == "metal"


def test_a_pool_away_from_this_machine_needs_trust(mixed: dict[str, str]) -> None:
    refused = python({**mixed, "LOOM_TRUST": "0"}, LOOM, "run")
    assert refused.returncode == 2
    assert "job test asks for runner_pool away: the job runs in far, with the rights that this pool" in refused.stderr
