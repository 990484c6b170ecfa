"""Workspaces go by themselves: the last few of each checkout stay, and never more than so much together."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from loom.commands.doctor import directory
from loom.commands.keep.retention import Records, vouched
from loom.commands.project import Project as Checked
from loom.commands.project import background
from loom.config import Config
from loom.record.store import Store
from loom.runner.spares import make_workspace
from loom.snapshot import occupied
from loom.util import processes
from loom.util.paths import new_workspace
from tests.support.loom_process import run_loom
from tests.support.waiting import until

from .conftest import Make, Project
from .test_contract import validate

pytestmark = pytest.mark.slow

FILLS = """
version: v1
stages: [s]
a:
  stage: s
  script:
    - head -c 3000000 /dev/urandom > filling
    - test ! -e "$HOME/fail"
"""


def workspaces(project: Project) -> list[Path]:
    """Oldest first."""
    return sorted((project.home / "workspaces").glob("*/loom-run-local-*[0-9]"))


def run(project: Project, *, fails: bool = False) -> Path:
    before = set(workspaces(project))
    mark = project.home / "fail"
    if fails:
        mark.touch()
    project.loom("run", "--local", code=1 if fails else 0)
    mark.unlink(missing_ok=True)
    (made,) = set(workspaces(project)) - before
    return made


def test_a_run_leaves_the_last_few_and_all_records(make: Make) -> None:
    project = make(FILLS)
    for _ in range(2):
        project.loom("run", "--local", LOOM_KEEP_WORKSPACES="1", LOOM_AUTO_CLEAN="yes")
    last = sorted(project.store.run_ids())[-1:]
    until(lambda: [path.name.split("-")[3] for path in workspaces(project)] == last)
    assert len(project.store.run_ids()) == 2
    until(lambda: len(project.store.workspaces.all()) == 1)


def test_a_clean_up_follows_a_run_when_it_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, root, free = Store(tmp_path / "state"), tmp_path / "repo", 50 << 30
    root.mkdir()
    monkeypatch.setattr(background.shutil, "disk_usage", lambda _: SimpleNamespace(total=100 << 30, free=free))
    config = Config(tmp_dir=tmp_path, state_dir=tmp_path / "state")
    here = Checked(environ={}, start=root, root=root, config=config)

    def made(number: int) -> None:
        for _ in range(number):
            name = f"loom-run-local-{time.time_ns()}"
            store.workspaces.make(tmp_path / name, run_id=name[15:], repo_root=root)

    def due() -> bool:
        return background.is_due(here)

    assert not due()
    made(2)
    assert due()  # never cleaned yet
    background.note_clean(here)
    assert not due()
    made(background.CLEAN_AFTER_RUNS - 1)
    assert not due()
    made(1)
    assert due()
    assert not background.is_due(replace(here, root=tmp_path / "another"))
    background.note_clean(here)
    free -= 900 << 20
    assert not due()
    free -= 200 << 20
    assert due()
    background.note_clean(here)
    now = time.time()
    monkeypatch.setattr(background.time, "time", lambda: now + background.CLEAN_AFTER_S - 60)
    assert not due()
    monkeypatch.setattr(background.time, "time", lambda: now + background.CLEAN_AFTER_S + 60)
    assert due()
    monkeypatch.setattr(background.time, "time", lambda: now - 60)  # the clock was set
    assert due()


def test_what_somebody_needs_stays(make: Make) -> None:
    project = make(FILLS)
    older = run(project, fails=True)
    failed, used, old, plain, newest = run(project, fails=True), *(run(project) for _ in range(4))
    job = next(project.store.entry(failed.name.split("-")[3]).paths.logs.glob("jobs/*/manifest.json"))
    dry = project.loom("clean", "--dry-run", LOOM_KEEP_WORKSPACES="1")
    assert len(workspaces(project)) == 6
    assert f"would remove {plain}  " in dry
    assert "older than the last 1 of" in dry
    with occupied(used):
        document = json.loads(project.loom("clean", "--json", LOOM_KEEP_WORKSPACES="1"))
    validate("clean", document)
    assert job.exists()
    assert {item["name"] for item in document["items"] if item["removed"]} == {
        str(path) for path in (older, old, plain)
    }
    assert workspaces(project) == sorted([failed, used, newest])


def test_a_directory_that_somebody_stands_in_stays(make: Make) -> None:
    project = make(FILLS)
    stood_in, _ = run(project), run(project)
    person = subprocess.Popen(["sleep", "60"], cwd=stood_in / ".loom")
    try:
        assert project.loom("clean", LOOM_KEEP_WORKSPACES="1") == "0 removed, 0 B\n"
    finally:
        person.kill()
        person.wait()
    assert "1 workspace removed" in project.loom("clean", LOOM_KEEP_WORKSPACES="1")


def test_a_kept_job_keeps_its_workspace(make: Make) -> None:
    project = make(FILLS)
    kept, _ = run(project), run(project)
    path = next(project.store.entry(kept.name.split("-")[3]).paths.logs.glob("jobs/*/manifest.json"))
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps(manifest | {"kept": {"expires_at": "2999-01-01T00:00:00Z"}}))
    assert project.loom("clean", LOOM_KEEP_WORKSPACES="1") == "0 removed, 0 B\n"
    path.write_text(json.dumps(manifest | {"kept": {"expires_at": "2001-01-01T00:00:00Z"}}))
    assert "1 workspace removed" in project.loom("clean", LOOM_KEEP_WORKSPACES="1")


def test_all_together_are_bounded(make: Make) -> None:
    project = make(FILLS)
    failed, *rest = run(project, fails=True), run(project), run(project), run(project)
    environ = {"LOOM_KEEP_MAX_SIZE": "7m", "LOOM_KEEP_WORKSPACES": "99"}
    said = project.loom("clean", **environ)
    assert "all together take more than 7.3 MB (keep_max_size)" in said
    assert "2 workspaces removed" in said
    assert workspaces(project) == sorted([failed, rest[-1]])
    project.loom("clean", **environ | {"LOOM_KEEP_MAX_SIZE": "1m"})
    assert workspaces(project) == sorted([failed, rest[-1]]), "the newest run's, and the newest failed one's"


def test_a_removal_that_was_killed_is_brought_to_its_end(make: Make) -> None:
    project = make(FILLS)
    newest = run(project, fails=True)
    newest.rename(newest.with_name(f".{newest.name}.removing"))
    assert "the files beside a removed workspace" in project.loom("clean")
    assert list(newest.parent.iterdir()) == []
    assert project.store.workspaces.all() == []


def test_another_checkout_has_its_own_last_few(make: Make, tmp_path: Path) -> None:
    project = make(FILLS)
    run(project)
    other = tmp_path / "other"
    shutil.copytree(project.root, other, symlinks=True)
    second = Project(other, project.home)
    run(second)
    run(second)
    assert "1 workspace removed" in second.loom("clean", LOOM_KEEP_WORKSPACES="1")
    assert len(workspaces(project)) == 2


def test_only_the_very_directory_that_was_made_is_removed(make: Make) -> None:
    """Another one of its name, with its mark, is left alone: a job or another user may have made it."""
    project = make(FILLS)
    replaced, _ = run(project), run(project)
    aside = replaced.with_name("aside")
    replaced.rename(aside)
    shutil.copytree(aside, replaced, symlinks=True)
    assert not vouched(project.store, replaced)
    assert [one.name for one in Records(project.store).workspaces] == list(map(str, workspaces(project)[1:]))
    project.loom("clean", "--all", "--keep-last", "0")
    assert replaced.exists()


def test_nothing_is_removed_by_a_loom_with_another_state_directory(make: Make, tmp_path: Path) -> None:
    project = make(FILLS)
    made = run(project)
    project.loom("clean", "--all", "--keep-last", "0", LOOM_STATE_DIR=str(tmp_path / "other"))
    assert made.exists()


def test_doctor_names_a_place_in_memory(tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    found = directory("workspaces", shared_memory)
    assert "it is in memory (tmpfs)" in found.text
    assert "/var/tmp" in (found.advice or "")
    assert "in memory" not in directory("caches", shared_memory).text


def test_a_large_workspace_whose_time_is_over_becomes_a_later_one(make: Make) -> None:
    project = make(FILLS)
    for number in range(1500):
        (project.root / f"file{number}").write_text(f"{number}\n")
    settings = {"LOOM_AUTO_CLEAN": "no"}
    for _ in range(3):
        with occupied(*workspaces(project)):  # or it would become the next run's at once
            project.loom("run", "--local", **settings)
    project.loom("clean", "--in-background", **settings)
    *spares, last = workspaces(project)
    assert len(spares) == 2, "the number kept of small ones is 3"
    assert [path.name.split("-")[3] for path in (last,)] == sorted(project.store.run_ids())[-1:]
    inodes = {path.stat().st_ino for path in spares}
    (project.root / "file1").write_text("changed\n")
    (project.root / "file2").unlink()
    config = Config(tmp_dir=project.home, state_dir=project.store.runs_dir.parent)
    here = Checked(environ={}, start=project.root, root=project.root, config=config)
    assert not background.is_due(here)
    project.loom("run", "--local", **settings)
    assert background.is_due(here)
    again = workspaces(project)[-1]
    assert again.stat().st_ino in inodes
    assert (again / "file1").read_text() == "changed\n"
    assert not (again / "file2").exists()
    assert "changed since the snapshot: 1\n" in project.loom("verify", code=1)  # what its job wrote
    project.loom("clean", **settings)
    assert [path.name for path in workspaces(project)] == [again.name]


def test_the_next_run_renews_the_large_workspace_of_one_that_passed(make: Make) -> None:
    project = make(FILLS)
    for number in range(1500):
        (project.root / f"file{number}").write_text(f"{number}\n")
    made = run(project)
    inode, run_id = made.stat().st_ino, made.name.split("-")[3]
    entry = project.store.entry(run_id)
    manifest = next(entry.paths.logs.glob("jobs/*/manifest.json"))
    numbers = iter(range(time.time_ns(), time.time_ns() + 99))

    def gets_it(*, recorded: bool = True) -> bool:
        number = str(next(numbers))
        other = new_workspace(project.home / "workspaces", number)
        if recorded:
            (project.store.runs_dir / number).mkdir()
        make_workspace(project.store, other, run_id=number, repo_root=project.root)
        if recorded:
            (project.store.runs_dir / number).rmdir()
        return any(other.iterdir()) or not made.exists()

    def with_fields(path: Path, **fields: object) -> bool:
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | fields))
        got = gets_it()
        path.write_text(before)
        return got

    assert not gets_it(recorded=False), "of a run that may never begin"
    assert not with_fields(manifest, kept={"container_id": "1", "expires_at": "2999-01-01T00:00:00+00:00"})
    assert not with_fields(manifest, warnings=["job a left files"])
    assert not with_fields(entry.paths.receipt, status="failure")
    assert not with_fields(entry.paths.identity, child_of="1")
    assert not with_fields(entry.paths.identity, pid=os.getpid(), pid_started=processes.started_at(os.getpid()))
    entry.paths.assistance.touch()
    assert not gets_it()
    entry.paths.assistance.unlink()
    with occupied(made):
        assert not gets_it()
    with subprocess.Popen(["cat"], cwd=made, stdin=subprocess.PIPE):
        assert not gets_it()

    made.rename(project.home / "moved")
    made.mkdir()
    assert not gets_it(), "another directory has its name"
    made.rmdir()
    (project.home / "moved").rename(made)

    (made.parent / f"{made.name}.jobs" / "a").mkdir(parents=True)
    (project.root / "file1").write_text("changed\n")
    (project.root / "file2").unlink()
    project.loom("run", "--local", LOOM_AUTO_CLEAN="no")
    again = next(path for path in workspaces(project) if path.stat().st_ino == inode)
    assert not made.exists()
    assert again.name.split("-")[3] == project.store.run_ids()[0]
    assert (again / "file1").read_text() == "changed\n"
    assert not (again / "file2").exists()
    assert "changed since the snapshot: 1\n" in project.loom("verify", code=1)
    for command in ("workspace", "verify"):
        told = run_loom([command, run_id], cwd=project.root, environ=project.environ)
        assert "a later run renewed it, or" in told.stderr
    project.loom("clean")
    assert not (made.parent / f"{made.name}.jobs").exists()
    failed = run(project, fails=True)
    assert failed.stat().st_ino == inode
    run(project)
    assert failed.stat().st_ino == inode
