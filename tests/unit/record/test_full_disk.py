"""The disk is full: under the record, under the workspace. loom reports what it can, and leaves nothing half."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.record.documents import plain
from loom.record.event_files import read_events

from .conftest import Make, Project
from .test_contract import hold

pytestmark = pytest.mark.slow

MakeFileSystem = Callable[[str, int], Path]

WORKFLOW = """\
version: v1
stages: [test, last]
noisy:
  stage: test
  script:
    - echo before
    - seq -f %04000.f 4000
quiet:
  stage: test
  script: [sleep 1]
late:
  stage: last
  script: [echo never]
"""


def record(project: Project) -> dict[str, object]:
    entry = project.last()
    for path in entry.paths.root.rglob("*"):
        assert path.suffix != ".tmp", "no half document"
        if path.name == "events.jsonl":
            assert list(read_events(path)), "whole lines only, before and after the disk was full"
    assert entry.receipt is not None
    return plain(entry.receipt)


def test_a_step_prints_more_than_the_records_disk_holds(make: Make, make_file_system: MakeFileSystem) -> None:
    project, state = make(WORKFLOW), make_file_system("tmpfs", 12)
    project.loom("run", "--local", code=3, LOOM_STATE_DIR=str(state))
    (project.home / "state").symlink_to(state)
    receipt = record(project)
    assert (receipt["status"], receipt["exit_code"]) == ("error", 3)
    assert "No space left on device" in str(receipt["error"])
    hold(project.last().paths)
    pipeline = json.loads((project.last().paths.logs / "pipeline/manifest.json").read_text())
    assert {job["job_id"]: job["status"] for job in pipeline["jobs"]} == {
        "noisy": "error",
        "quiet": "success",
        "late": "skipped",
    }
    shown = project.loom("logs", "last", "noisy", "script/02").splitlines()
    assert shown == [f"{number:04000}" for number in range(1, len(shown) + 1)], "the beginning, without a gap"
    assert len(shown) > 1000
    text = project.loom("diagnose")
    assert "No space left on device" in text
    assert "free some space" in text


def test_a_records_disk_that_others_fill_up_to_the_last_byte(
    make: Make, make_file_system: MakeFileSystem, fill: Callable[[Path], Path]
) -> None:
    state = make_file_system("tmpfs", 4)
    script = (
        f"(while sleep 0.01; do cat /dev/zero >>{state}/filler; done) 2>/dev/null & "
        f"until [ -s {state}/filler ]; do sleep 0.01; done; sleep 0.5; seq 1 5000; sleep 0.3"
    )
    project = make(f"version: v1\nstages: [test]\nfull:\n  stage: test\n  script:\n    - '{script}'\n")
    (project.home / "state").symlink_to(state)
    project.loom("run", "--local", code=3)
    (state / "filler").unlink()
    assert "full" in project.loom("show", code=None)
    project.loom("diagnose", code=None)
    assert len(list((state / "runs").iterdir())) == 1
    # From the beginning:
    fill(state)
    project.loom("run", "--local", code=3)
    assert len(list((state / "runs").iterdir())) == 1
    assert len(list((project.home / "workspaces").iterdir())) == 1, "the first run's"


@pytest.mark.parametrize("command", [("run", "--local"), ("snapshot",)])
def test_a_workspace_that_the_disk_has_no_room_for(
    make: Make, make_file_system: MakeFileSystem, command: tuple[str, ...]
) -> None:
    project, workspaces = make(WORKFLOW), make_file_system("tmpfs", 12)
    (project.root / "big").write_bytes(bytes(range(256)) * (1 << 16))
    (project.home / "workspaces").symlink_to(workspaces)
    project.loom(*command, code=3)
    assert list(workspaces.glob("*/*")) == []
    if command[0] == "run":
        assert "big: No space left on device" in str(record(project)["error"])
