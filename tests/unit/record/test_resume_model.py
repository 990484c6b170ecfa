"""A run that failed at a random step and was resumed ends as one that never failed."""

import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.effort import fuzzed

from .conftest import Project, new_project

pytestmark = pytest.mark.slow

STEPS = (
    "echo {n}",
    "echo line {n} >>log",
    "export KEPT=value-{n}",
    'echo "kept: $KEPT" >>log',
    "mkdir -p made && echo {n} >made/{n}",
    "cd .. && cd - >/dev/null",
    "cat made/* >>log 2>/dev/null || true",
    "rm -f log",
)


@st.composite
def workflows(draw: st.DrawFn) -> str:
    """Jobs whose steps change files and variables; one step of one job fails until the file `mended` exists."""
    count = draw(st.integers(1, 3))
    failing = draw(st.integers(0, count - 1))
    jobs: dict[str, Any] = {"version": "v1", "stages": ["one", "two"]}
    for number in range(count):
        steps = [
            step.format(n=at) for at, step in enumerate(draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=5)))
        ]
        if number == failing:
            steps.insert(draw(st.integers(0, len(steps))), "test -e mended")
        jobs[f"job{number}"] = {
            "stage": draw(st.sampled_from(("one", "two"))),
            "script": [*steps, "touch log"],
            "artifacts": {"paths": ["log", "made"]},
        }
        if draw(st.booleans()):
            jobs[f"job{number}"]["after_script"] = ["echo after"]
    return json.dumps(jobs)


def outcome(project: Project) -> dict[str, Any]:
    """The status of the last run, and the files of each job's artifacts, which an earlier run may have."""
    runs = list(project.store.entries(project.root))
    artifacts: dict[str, dict[str, bytes]] = {}
    for entry in runs:
        for archive in entry.paths.logs.glob("jobs/*/artifacts.tar.gz"):
            with tarfile.open(archive) as file:
                contents = {member.name: file.extractfile(member) for member in file}
                found = {name: content.read() for name, content in contents.items() if content is not None}
            artifacts.setdefault(archive.parent.name, found)
    return {"status": runs[0].state, "artifacts": artifacts}


@fuzzed(2, 60)
@given(workflow=workflows())
def test_a_resumed_run_ends_as_a_whole_one(tmp_path_factory: pytest.TempPathFactory, workflow: str) -> None:
    resumed, whole = (new_project(tmp_path_factory.mktemp(name), workflow) for name in ("resumed", "whole"))
    resumed.loom("run", "--local", code=1)
    for project in (resumed, whole):
        (project.root / "mended").touch()
    resumed.loom("resume", "--sync")
    whole.loom("run", "--local")
    assert outcome(resumed) == outcome(whole)
    assert outcome(whole)["artifacts"].keys() == {name for name in json.loads(workflow) if name.startswith("job")}
