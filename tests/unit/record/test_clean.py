"""Deleting runs, and looking at the machine."""

import json
import os
import shutil
import subprocess
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loom.commands.doctor import space
from tests.support.waiting import until

from .conftest import Make, Project
from .test_commands import SLOW
from .test_contract import validate

pytestmark = pytest.mark.slow

TINY = "version: v1\nstages: [s]\na:\n  stage: s\n  script: [echo one]\n"


@pytest.fixture
def three(make: Make) -> Project:
    project = make(TINY)
    for _ in range(3):
        project.loom("run", "--local")
    return project


def ids(project: Project) -> list[str]:
    return project.store.run_ids()


def test_the_newest_stay(three: Project) -> None:
    before = ids(three)
    workspaces = [Path(str(three.store.entry(run_id).identity["workspace"])) for run_id in before]
    assert "2 would go" in three.loom("clean", "--keep-last", "1", "--dry-run")
    assert ids(three) == before
    document = json.loads(three.loom("clean", "--keep-last", "1", "--json"))
    validate("clean", document)
    assert [(item["name"], item["removed"]) for item in document["items"]] == [(before[1], True), (before[2], True)]
    assert not document["items"][0].keys() & {"repo_root", "made_at", "container_id"}
    assert ids(three) == before[:1]
    assert [workspace.exists() for workspace in workspaces] == [True, False, False]
    assert three.loom("clean").startswith("0 removed")
    assert three.loom("clean", "--older-than", "1h").startswith("0 removed")
    assert "1 removed" in three.loom("clean", "last")
    assert ids(three) == []


@contextmanager
def standing_in(directory: Path) -> Iterator[None]:
    """Have a process whose current directory it is."""
    person = subprocess.Popen(["sleep", "60"], cwd=directory)
    try:
        yield
    finally:
        person.kill()
        person.wait()


def test_a_record_that_lost_its_identity_goes_with_its_workspace(make: Make) -> None:
    project = make(TINY)
    project.loom("run", "--local")
    (run_id,) = ids(project)
    workspace = Path(str(project.store.entry(run_id).identity["workspace"]))
    (project.store.runs_dir / run_id / "run.json").unlink()
    with standing_in(workspace):
        assert str(workspace) not in project.loom("clean", "--all", "--keep-last", "0", "--dry-run")
    assert str(workspace) in project.loom("clean", "--all", "--keep-last", "0")
    assert (ids(project), workspace.exists()) == ([], False)


def test_a_run_that_a_wrong_clock_dates_into_the_future_goes_too(make: Make) -> None:
    project = make(TINY)
    project.loom("run", "--local")
    (run_id,) = ids(project)
    later = str(int(run_id) + 10**15)
    (project.store.runs_dir / run_id).rename(project.store.runs_dir / later)
    assert "1 removed" in project.loom("clean", "--keep-last", "0")
    assert ids(project) == []


def test_the_beginning_of_a_record_that_nobody_will_write_goes(make: Make) -> None:
    project = make(TINY)
    project.loom("run", "--local")
    (run_id,) = ids(project)
    for name in ("1795000000000000000", str(time.time_ns())):
        (project.store.runs_dir / name).mkdir()
        (project.store.runs_dir / name / "CACHEDIR.TAG").touch()
    project.loom("clean")
    left = ids(project)
    assert "1795000000000000000" not in left
    assert (run_id in left, len(left)) == (True, 2), "a loom may be about to write the younger one"


def test_as_many_stay_as_configured(three: Project) -> None:
    (three.root / ".loom/config.yml").write_text("keep_runs: 2\n")
    before = ids(three)
    receipt = three.store.entry(before[2]).paths.receipt
    success = receipt.read_text()
    receipt.write_text(json.dumps(json.loads(success) | {"status": "failure"}))
    assert three.loom("clean").startswith("0 removed"), "the newest one that failed stays"
    receipt.write_text(success)
    assert "\n1 workspace would go" in three.loom("clean", "--dry-run", LOOM_KEEP_WORKSPACES="1"), "not the run's again"
    assert "1 removed" in three.loom("clean")
    assert ids(three) == before[:2]


def test_artifacts_go_when_their_time_is_over(make: Make) -> None:
    kept = "version: v1\nstages: [s]\n"
    for name, lifetime in (("short", "1ms"), ("long", "1h"), ("forever", "")):
        more = f", expire_in: {lifetime}" if lifetime else ""
        kept += f"{name}: {{stage: s, script: [echo x > {name}.txt], artifacts: {{paths: [{name}.txt]{more}}}}}\n"
    project = make(kept)
    project.loom("run", "--local")
    (run_id,) = ids(project)
    paths = project.store.entry(run_id).paths
    assert f"would remove the expired artifacts of short in {run_id}" in project.loom("clean", "--dry-run")
    assert paths.artifacts_archive("short").exists()
    document = json.loads(project.loom("clean", "--json"))
    validate("clean", document)
    (gone,) = document["items"]
    assert (gone["kind"], gone["run_ids"], gone["name"], gone["removed"]) == ("artifacts", [run_id], "short", True)
    there = {job: paths.artifacts_archive(job).exists() for job in ("short", "long", "forever")}
    assert there == {"short": False, "long": True, "forever": True}
    assert project.loom("clean") == "0 removed, 0 B\n"


def test_a_workspace_of_a_record_that_is_gone_goes_with_all(three: Project) -> None:
    newest, *_ = ids(three)
    workspace = Path(str(three.store.entry(newest).identity["workspace"]))
    shutil.rmtree(three.store.runs_dir / newest)
    three.loom("clean", "--keep-last", "5")
    with standing_in(workspace):
        three.loom("clean", "--all", "--keep-last", "5")
    assert workspace.exists()
    assert str(workspace) in three.loom("clean", "--all", "--keep-last", "5")
    assert not workspace.exists()
    assert len(ids(three)) == 2


def test_what_killed_looms_have_left_goes_too(three: Project) -> None:
    """A removal that was killed, of a workspace and of a record; the layers of a job whose engine forgot its volume."""
    newest, second, oldest = ids(three)
    workspace = {name: Path(str(three.store.entry(name).identity["workspace"])) for name in ids(three)}
    beside = workspace[newest].parent
    half = beside / f".{workspace[newest].name}.removing"
    workspace[newest].rename(half)
    layers = beside / f"{workspace[second].name}.jobs"
    (layers / "test" / "upper").mkdir(parents=True)
    theirs = beside / ".loom-run-local-1700000000000000000-000001.removing"
    (theirs / "src").mkdir(parents=True)
    elsewhere = beside / ".another-tool.removing"
    elsewhere.mkdir()
    record = three.store.runs_dir / f".{oldest}.removing"
    (three.store.runs_dir / oldest).rename(record)
    said = three.loom("clean", "--all", "--keep-last", "0", "--dry-run")
    assert "2 would go" in said
    assert f"would remove {workspace[oldest]}  " in said
    assert "of no run with a record" in said
    assert half.exists()
    assert layers.exists()
    assert record.exists()
    assert "2 removed" in three.loom("clean", "--all", "--keep-last", "0")
    assert sorted(beside.iterdir()) == sorted([elsewhere, theirs])
    assert not [path for path in three.store.runs_dir.iterdir() if path.is_dir()]


def test_nothing_that_is_not_looms_is_deleted(three: Project) -> None:
    newest, *_ = ids(three)
    (three.store.runs_dir / newest / "CACHEDIR.TAG").unlink()
    assert "could not remove" in three.loom("clean", "last", code=3)
    assert newest in ids(three)
    three.loom("clean", "last", "--keep-last", "1", code=2)
    three.loom("clean", "--older-than", "soon", code=2)


def test_a_running_run_is_never_deleted(make: Make, tmp_path: Path) -> None:
    project = make(SLOW.replace("$MARK", str(tmp_path)))
    run = project.start("run", "--local")
    try:
        until((tmp_path / "on").exists)
        project.loom("clean", "last", code=2)
        assert project.loom("clean", "--keep-last", "0", "--all").startswith("0 removed")
        assert len(ids(project)) == 1
    finally:
        run.kill()
        run.communicate()
    until(lambda: "1 removed" in project.loom("clean", "--keep-last", "0"))  # its step ends after it
    assert ids(project) == []


def test_a_running_run_is_not_deleted_by_a_loom_that_has_its_records_elsewhere(make: Make, tmp_path: Path) -> None:
    project = make(SLOW.replace("$MARK", str(tmp_path)))
    run = project.start("run", "--local")
    try:
        until((tmp_path / "on").exists)
        elsewhere = str(tmp_path / "other-state")
        (workspace,) = (project.home / "workspaces").glob("*/*")
        assert project.loom("clean", "--all", LOOM_STATE_DIR=elsewhere).startswith("0 removed")
        assert (workspace / ".loom/workflow.yml").exists()
    finally:
        run.kill()
        run.communicate()
    project.loom("clean", "--all", LOOM_STATE_DIR=elsewhere)
    assert workspace.exists()
    until(lambda: "1 removed" in project.loom("clean", "--all", "--keep-last", "0"))
    assert not workspace.exists()


def test_the_workspace_that_a_resumed_run_goes_on_in_is_not_deleted(make: Make, tmp_path: Path) -> None:
    on, go = tmp_path / "on", tmp_path / "go"
    project = make(f"version: v1\nstages: [s]\na: {{stage: s, script: ['test -e {go}', 'touch {on}; sleep 60']}}\n")
    project.loom("run", "--local", code=1)
    (earlier,) = ids(project)
    go.touch()
    run = project.start("resume", earlier)
    try:
        until(on.exists)
        project.loom("clean", earlier, code=2)
        assert project.loom("clean", "--keep-last", "0").startswith("0 removed")
        assert earlier in ids(project)
    finally:
        run.kill()
        run.communicate()
    until(lambda: "2 removed" in project.loom("clean", "--keep-last", "0"))


def test_doctor_says_what_is_wrong(make: Make) -> None:
    project = make(TINY)
    environ = {"DOCKER_HOST": f"unix://{project.home}/none.sock"}
    document = json.loads(project.loom("doctor", "--json", code=3, **environ))
    validate("doctor", document)
    checks = document["checks"]
    states = {check["name"]: check["state"] for check in checks}
    assert (states["git"], states["repository"], states["engine"]) == ("ok", "ok", "bad")
    text = project.loom("doctor", code=3, **environ)
    assert "DOCKER_HOST" in text


@pytest.mark.parametrize(("free", "state"), [(10**10, "ok"), (10**9, "warn"), (10**8, "bad")])
def test_little_space_is_said(free: int, state: str, tmp_path: Path) -> None:
    usage = namedtuple("usage", "free")
    assert space("disk", tmp_path, usage=lambda _: usage(free)).state == state


def test_a_workspace_goes_with_the_last_run_that_had_it(make: Make, tmp_path: Path) -> None:
    project = make(f"version: v1\nstages: [s]\na: {{stage: s, script: ['test -e {tmp_path}/go']}}\n")
    project.loom("run", "--local", code=1)
    (tmp_path / "go").touch()
    project.loom("resume")
    later, earlier = ids(project)
    workspace = Path(str(project.store.entry(earlier).identity["workspace"]))
    assert workspace.exists()
    assert "1 removed" in project.loom("clean", later)
    assert workspace.exists()
    assert "1 removed" in project.loom("clean", earlier)
    assert not workspace.exists()


def test_actions_stay_as_long_as_a_kept_run_uses_them(make: Make) -> None:
    project = make(TINY)
    project.loom("run", "--local")
    (run_id,) = ids(project)
    cache = project.home / "cache/actions-x"
    used, new, old, other = (cache / name for name in ("o+a/used", "o+a/new", "o+a/old", "o+b/other"))
    for path in (used, new, old, other, cache / "o+a@git", cache / "o+b@git"):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    for repository in ("o+a", "o+b"):
        (cache / f"{repository}@git.lock").touch()
    for path in (used, old, other):
        os.utime(path, (1, 1))
    plan = project.store.entry(run_id).paths.plan
    plan.write_text(plan.read_text().replace("echo one", str(used)))
    assert f"would remove {old} " in project.loom("clean", "--dry-run")
    document = json.loads(project.loom("clean", "--json"))
    validate("clean", document)
    gone = {old, other, cache / "o+b@git"}
    assert {Path(item["name"]) for item in document["items"] if item["kind"] == "action"} == gone
    assert {path for path in (used, new, old, other, cache / "o+a@git", cache / "o+b@git") if not path.exists()} == gone
