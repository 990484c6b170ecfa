"""What changed since a job passed, and failures that come and go: real runs in a real repository."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.repository import git
from tests.unit.record.conftest import Make, Project, make

pytestmark = pytest.mark.slow

__all__ = ["make"]

WORKFLOW = """
version: v1
stages: [s]
read:
  stage: s
  variables: {{MODE: {mode}}}
  script:
    - grep -q good src.txt || {{ echo "src.txt is not good" >&2; exit 3; }}
    - 'test ! -e ../../../flag'
other: {{stage: s, script: [echo other]}}
"""


def diagnosis(project: Project) -> Any:
    return json.loads(project.loom("diagnose", "--json"))


@pytest.fixture
def project(make: Make) -> Project:
    return make(WORKFLOW.format(mode="one"), **{"src.txt": "one\ntwo\ngood\nfour\n", "also.txt": "also\n"})


def commit(project: Project) -> None:
    git(project.root, "commit", "-qam", "more")


@pytest.mark.parametrize("committed", [False, True])
def test_a_change_that_the_output_names_comes_first_with_its_lines(project: Project, committed: bool) -> None:
    project.loom("run", "read")
    green = project.last()
    (project.root / "src.txt").write_text("one\ntwo\nbad\nfour\n")
    (project.root / "also.txt").unlink()
    (project.root / "made.bin").write_bytes(b"\0\1")
    (project.root / ".loom/workflow.yml").write_text(WORKFLOW.format(mode="two"))
    if committed:
        commit(project)
    project.loom("run", "read", code=1)
    if committed:
        for workspace in (project.home / "workspaces").iterdir():
            shutil.rmtree(workspace)
    found = diagnosis(project)
    since = found["since_green"]
    assert (since["run_id"], since["files_total"]) == (green.run_id, 4)
    assert since["files"][0] == {
        "path": "src.txt",
        "change": "modified",
        "named": True,
        "line": 3,
        "hunk": [" one", " two", "-good", "+bad", " four"],
    }
    others = {file["path"]: (file["change"], file["named"]) for file in since["files"][1:]}
    assert others == {
        "also.txt": ("deleted", False),
        "made.bin": ("added", False),
        ".loom/workflow.yml": ("modified", False),
    }
    assert {"name": "read.MODE", "a": "one", "b": "two"} in since["other"]
    assert found["same_input"] is None
    text = project.loom("diagnose")
    assert "since then: src.txt:3, " in text
    assert "│ +bad" in text
    agent = project.loom("diagnose", "--format", "agent")
    assert "changed since it passed just now: src.txt:3, " in agent
    assert "  +bad" in agent


def test_a_failure_that_comes_and_goes(project: Project) -> None:
    project.loom("run", "read")
    flag = project.home / "flag"
    flag.touch()
    project.loom("run", "read", code=1)
    flag.unlink()
    project.loom("run", "read")
    flag.touch()
    project.loom("run", "read", code=1)
    found = diagnosis(project)
    assert found["same_input"] == {"runs": 4, "passed": 2}
    assert (found["since_green"]["files"], found["since_green"]["other"]) == ([], [])
    text = project.loom("diagnose")
    assert "flaky: the same tree passed 2 of 4 times" in text
    assert "since then" not in text


def test_a_job_that_never_passed_has_no_history(project: Project) -> None:
    (project.root / "src.txt").write_text("bad\n")
    project.loom("run", "other")
    project.loom("run", "read", code=1)
    project.loom("run", "read", code=1)
    found = diagnosis(project)
    assert (found["since_green"], found["same_input"]) == (None, None)


def test_a_green_run_whose_tree_is_not_known_any_more(project: Project) -> None:
    project.loom("run", "read")
    Path(project.last().paths.snapshot).unlink()
    (project.root / "src.txt").write_text("bad\n")
    project.loom("run", "read", code=1)
    assert diagnosis(project)["since_green"]["files"] is None
    assert "since then: the tree (its files are not known any more)" in project.loom("diagnose")
