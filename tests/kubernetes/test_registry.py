"""A run on this machine and in the cluster at once; the pods copy the snapshot from a registry, which gets it once."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.config.pools import Pool
from loom.providers.kubernetes.images.registry import Repository
from tests.support.kubernetes import IMAGE, environ, pods_of
from tests.support.oci import push_busybox

if TYPE_CHECKING:
    from tests.kubernetes.conftest import Pods

pytestmark = pytest.mark.kubernetes
TREE = "find . -name .git -prune -o ! -type d -printf '[%y %m %P %l]' -o -type d -empty -printf '[%y %P]'"
WORKFLOW = f"""
version: v1
stages: [test, report]
many:
  stage: test
  image: "{IMAGE}"
  runner_pool: cluster
  parallel: 3
  script: {TREE}; mkdir out; echo "in the cluster" >out/$CI_NODE_INDEX
  artifacts: {{paths: [out]}}
report:
  stage: report
  runner_pool: metal
  script: cat out/*
"""


@pytest.fixture
def registry() -> str:
    address = os.environ.get("LOOM_TEST_REGISTRY")
    if not address or not Path("/bin/busybox").exists():
        pytest.skip(
            "LOOM_TEST_REGISTRY names a registry of the cluster (http://HOST:PORT); needs a static /bin/busybox"
        )
    return address


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repo"
    (root / ".loom").mkdir(parents=True)
    (root / ".loom/workflow.yml").write_text(WORKFLOW)
    for number in range(100):
        path = root / f"d{number // 10}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(60_000) if number != 11 else b"eleven\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def run(repository: Path, tmp_path: Path, registry: str, name: str) -> str:
    home = tmp_path / "home"
    (home / ".config/loom").mkdir(parents=True, exist_ok=True)
    cluster = f"{{provider: kubernetes, registry: '{registry}/{name}', registry_base: '{registry}/loom-test:base'}}"
    (home / ".config/loom/config.yml").write_text(f"pools: {{cluster: {cluster}, metal: {{provider: host}}}}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "loom", "run"],
        cwd=repository,
        env={
            **environ(),
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / ".local/state"),
            "LOOM_TMP_DIR": str(tmp_path),
            "LOOM_STATE_DIR": str(home / "state"),
            "LOOM_TRUST": "1",
            "LOOM_AUTO_CLEAN": "false",
        },
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    run_id = re.findall(r"loom-run-local-(\d+)", ran.stdout)[0]
    assert pods_of(run_id) == []
    return "\n".join(path.read_text() for path in (home / f"state/runs/{run_id}").rglob("*.jsonl"))


def test_the_snapshot_goes_to_the_registry_once(repository: Path, tmp_path: Path, registry: str) -> None:
    push_busybox(f"{registry}/loom-test")
    name = f"loom-test-{os.getpid()}"
    first = run(repository, tmp_path, registry, name)
    sent = set(re.findall(r"the snapshot is (\S+) \(([^)]+) sent\)", first))
    assert len(sent) == 1
    assert re.search(r'"files_proved":"sha256 of \d{3} files"', first)
    assert first.count("in the cluster") >= 3
    (repository / "d5/f55").write_text("changed\n")
    (repository / "d4/f44").chmod(0o755)
    (repository / "d1/f11").unlink()
    (repository / "d1/f11").mkdir()
    (repository / "d1/f11/new").write_text("a file was a directory, and is not committed\n")
    shutil.rmtree(repository / "d2")
    (repository / "d2").symlink_to("d3")
    tree = subprocess.run(["sh", "-c", TREE], cwd=repository, check=True, capture_output=True, text=True).stdout
    (repository / ".git/info/exclude").write_text("ignored\n")
    (repository / "d3/ignored").write_text("stays here\n")
    second = run(repository, tmp_path, registry, name)
    ((changed, size),) = set(re.findall(r"the snapshot is (\S+) \(([^)]+) sent\)", second))
    assert changed not in {reference for reference, _ in sent}
    assert float(size.removesuffix(" kB")) < 100  # of 6 MB; the program's content is sent again with its mode
    printed = [json.loads(line)["text"] for line in second.splitlines() if '"text":"[' in line]
    assert len(printed) == 3
    assert {frozenset(re.findall(r"\[.*?\]", text)) for text in printed} == {frozenset(re.findall(r"\[.*?\]", tree))}


def test_a_snapshot_that_the_nodes_can_not_pull_is_sent(
    pods: Pods, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = push_busybox(f"{registry}/loom-test")
    pool = Pool(provider="kubernetes", registry=f"{registry}/loom-test-{os.getpid()}", registry_base=base)
    monkeypatch.setattr(Repository, "reference", lambda _, digest: f"127.0.0.1:1/nowhere@{digest}")
    (pods.workspace / "a").write_text("from the snapshot\n")
    said = list[str]()
    for job_id in ("first", "second"):
        with pods.job(pool=pool, job_id=job_id) as job:
            assert job.run("cat a")[1] == b"from the snapshot\n"
            assert job.session.facts.details["files_proved"] == "sha256 of 1 files"
            said += job.session.facts.warnings
    assert [text.endswith("connection refused; the snapshot is sent to each pod") for text in said] == [True]


def test_without_the_registry_the_snapshot_is_sent(repository: Path, tmp_path: Path) -> None:
    found = run(repository, tmp_path, "http://127.0.0.1:1", "none")
    assert "does not answer" in found
    assert "the snapshot is sent to each pod" in found
    assert re.search(r'"files_proved":"sha256 of \d{3} files"', found)
