"""Artifacts and caches through real runs, in every way a job can see the workspace."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from loom.storage.artifacts import fetch, index_of
from tests.support.loom_process import run_loom

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [build, test]
build:
  stage: build
  image: debian:trixie-slim
  cache: {paths: [deps], key: {prefix: deps, files: [lock]}, fallback_keys: [deps-]}
  artifacts: {paths: [out], exclude: ["**/*.tmp"]}
  script:
    - if [ -e deps/lib ]; then echo "deps are there"; else mkdir -p deps/sub; echo lib > deps/lib; chmod 755 deps/lib; ln -s /usr/bin/env deps/env; fi
    - mkdir -p out/empty; echo app > out/app; chmod 751 out/app; ln -s app out/current; ln -s /etc/hostname out/host; touch out/x.tmp
    - echo declared nowhere > stray
test:
  stage: test
  image: debian:trixie-slim
  artifacts: {paths: [reports], when: always, reports: {junit: "reports/*.xml"}}
  script:
    - '[ "$(cat out/current)" = app ] && [ "$(stat -c %a out/app)" = 751 ] && [ -d out/empty ] && [ "$(readlink out/host)" = /etc/hostname ]'
    - if [ "$SHARED" = no ]; then [ ! -e stray ] && [ ! -e out/x.tmp ]; fi
    - echo changed > out/app; rm out/current
    - |
      mkdir reports; printf '%s' '<testsuite name="pytest"><testcase classname="t.test_a" name="test_b"><failure message="assert 1 == 2">t/test_a.py:7: AssertionError</failure></testcase></testsuite>' > reports/r.xml
    - exit 1
"""


class Site:
    def __init__(self, base: Path) -> None:
        self.base, self.repo = base, base / "repo"
        (self.repo / ".loom").mkdir(parents=True)
        (self.repo / ".loom/workflow.yml").write_text(WORKFLOW)
        (self.repo / "lock").write_text("1")
        for name in ("home", "tmp"):
            (base / name).mkdir()
        for arguments in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@e", "commit", "-qm", "x"],
        ):
            subprocess.run(["git", *arguments], cwd=self.repo, check=True)

    def run(self, mount_mode: str, *more: str) -> tuple[str, Path]:
        """What the screen showed, and the run's record."""
        done = run_loom(
            ("run", "--local", "--stream", "--mount-mode", mount_mode, *more),
            cwd=self.repo,
            environ={
                "PATH": os.environ["PATH"],
                "HOME": str(self.base / "home"),
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "LOOM_CACHE_DIR": str(self.base / "cache"),
                "LOOM_CONTAINER": "0",
                "LOOM_TMP_DIR": str(self.base / "tmp"),
            },
        )
        assert done.returncode == 1, done.stdout + done.stderr
        newest = max(self.base.rglob("receipts/*.json"), key=lambda path: path.stat().st_mtime_ns)
        return done.stdout + done.stderr, Path(json.loads(newest.read_text())["logs_dir"])


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("mount_mode", ["bind_mount", "ephemeral_volume"])
def test_artifacts_reports_and_caches(site: Site, mount_mode: str, tmp_path: Path) -> None:
    workflow = site.repo / ".loom/workflow.yml"
    if mount_mode != "bind_mount":
        workflow.write_text(WORKFLOW.replace("test:\n  stage", "test:\n  variables: {SHARED: 'no'}\n  stage"))

    screen, logs = site.run(mount_mode)
    assert "cache miss: deps-" in screen
    assert "cache saved: deps-" in screen
    assert "│ deps are there" not in screen
    build, test = (json.loads((logs / f"jobs/{job}/manifest.json").read_text()) for job in ("build", "test"))
    assert build["status"] == "success", screen
    assert test["failing_step"] == "script/05", screen
    kept = tmp_path / "fetched"
    fetch(logs / "jobs/build/artifacts.tar.gz", kept)
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*")) == [
        "out", "out/app", "out/current", "out/empty", "out/host",
    ]  # fmt: skip
    assert (kept / "out/app").read_text() == "app\n"
    assert os.readlink(kept / "out/host") == "/etc/hostname"
    assert build["artifacts"]["files"] == 3
    (failing,) = test["failing_tests"]
    assert (failing["name"], failing["file"], failing["line"]) == ("test_b", "t/test_a.py", 7)
    assert [file.path for file in index_of(logs / "jobs/test/artifacts.tar.gz")] == ["reports/r.xml"]

    screen, _ = site.run(mount_mode)
    assert "cache hit: deps-" in screen
    assert "│ deps are there" in screen
    (site.repo / "lock").write_text("2")
    screen, _ = site.run(mount_mode)
    assert "cache hit by fallback: deps-" in screen
    screen, _ = site.run(mount_mode, "--no-cache")
    assert "│ deps are there" not in screen


def test_a_damaged_cache_is_a_warning_and_the_job_goes_on(site: Site) -> None:
    site.run("bind_mount")
    (blob,) = (site.base / "cache/blobs").glob("*/*")
    blob.write_bytes(blob.read_bytes()[:-10])
    screen, logs = site.run("bind_mount")
    assert "was removed: its checksum is wrong" in screen
    assert "cache saved: deps-" in screen
    build = json.loads((logs / "jobs/build/manifest.json").read_text())
    assert build["status"] == "success"
    assert [section["status"] for section in build["system_sections"] if section["section"] == "cache_restore"] == [
        "success"
    ]


def test_paths_that_climb_out_are_an_error_before_anything_runs_or_in_their_section(site: Site) -> None:
    (site.repo / ".loom/workflow.yml").write_text(WORKFLOW.replace("paths: [out]", "paths: [../../etc]"))
    done = run_loom(
        ("run", "--local"),
        cwd=site.repo,
        environ={
            "PATH": os.environ["PATH"],
            "HOME": str(site.base / "home"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert done.returncode in (2, 3)
    assert "../../etc" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
