"""Artifacts of a run, as later jobs and people get them."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.docker

MATRIX = """
version: v1
stages: [build, test]
build:
  stage: build
  image: debian:trixie-slim
  parallel: {matrix: [{V: [one, two, three]}]}
  artifacts: {paths: [dist]}
  script:
    - mkdir -p dist/$V; echo $V > dist/$V/own; echo $V > dist/shared; echo same > dist/same; ln -s own dist/$V/link
    - chmod +x dist/$V/own
test:
  stage: test
  image: debian:trixie-slim
  script: [cat dist/shared]
"""
ALL = ["build.one", "build.two", "build.three"]


@pytest.fixture
def ran(project: Any) -> Any:
    project.workflow(MATRIX)
    ran = project.run("--mount-mode", "overlay")
    assert ran.code == 0, ran.out
    return ran


def test_of_one_path_the_last_job_in_the_plan_counts(ran: Any) -> None:
    assert ran.output("test") == ["three"]


def test_a_run_s_artifacts_are_listed(project: Any, ran: Any) -> None:
    listed = project.loom("artifacts")
    assert listed.out.splitlines() == [f"{job}: 4 files, {size} B" for job, size in zip(ALL, (13, 13, 17), strict=True)]
    one = project.loom("artifacts", "last", "build.two")
    sizes_and_paths = [tuple(line.split("  ")[-2:]) for line in one.out.splitlines()[1:]]
    assert [path for _, path in sizes_and_paths] == ["dist/same", "dist/shared", "dist/two/link -> own", "dist/two/own"]
    assert sizes_and_paths[0][0].strip() == "5 B"
    document = json.loads(project.loom("artifacts", "--json", "build.*").out)
    assert [job["job_id"] for job in document["jobs"]] == ALL
    assert document["run_id"] == ran.receipt["run_id"]
    assert document["jobs"][0]["files"][0] == {"path": "dist/one/link", "kind": "link", "size": 0, "target": "own"}
    assert Path(document["jobs"][0]["archive_path"]).is_file()

    none = project.loom("artifacts", "test")
    assert (none.code, none.out) == (0, "")
    assert f"job test of run {ran.receipt['run_id']} left no artifacts" in none.err


def test_artifacts_are_fetched_into_a_directory(project: Any, ran: Any, tmp_path: Path) -> None:
    assert project.loom("artifacts", "--to", "out").code == 0
    assert sorted(os.listdir(project.root / "out")) == sorted(ALL)
    assert (project.root / "out/build.two/dist/shared").read_text() == "two\n"
    assert project.loom("artifacts", "build.one", "--to", str(tmp_path / "one")).code == 0
    own = tmp_path / "one/dist/one/own"
    assert own.read_text() == "one\n"
    assert own.stat().st_mode & 0o111
    again = project.loom("artifacts", "build.one", "--to", str(tmp_path / "one"))
    assert again.code == 2
    assert "is not an empty directory: nothing was unpacked" in again.err
    # What somebody has put into the record is not unpacked.
    archive = ran.logs / "jobs/build.one/artifacts.tar.gz"
    with tarfile.open(archive, "w:gz") as planted:
        planted.addfile(tarfile.TarInfo("../../outside"))
    for arguments in (["--to", str(tmp_path / "a/b/out")], []):
        refused = project.loom("artifacts", "build.one", *arguments)
        assert refused.code == 3, refused.out
        assert "leads out of the workspace" in refused.err
    assert not list(tmp_path.rglob("outside"))
