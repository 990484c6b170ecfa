"""The moving area of a real terminal, and what stays on it when the run is over."""

import os
import re
from pathlib import Path

import pytest

from tests.support.waiting import until

from .conftest import Project, ended, load

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [build, test]
slow: {stage: build, script: [sleep 2]}
bad: {stage: test, script: [echo why; exit 3]}
"""
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(project: Project, columns: int, *arguments: str, **environ: str) -> str:
    command = ("run", "--local", "--container", "--keep", "never", *arguments)
    child = project.on_terminal(*command, size=(24, columns), **environ)
    shown: str = child.read()
    assert ended(child) == 1, shown
    return shown


@pytest.mark.parametrize("columns", [100, 30])
def test_running_jobs_are_shown_and_only_the_lines_stay(project: Project, columns: int) -> None:
    project.workflow(WORKFLOW)
    shown = on_terminal(project, columns)
    assert "\x1b[2K" in shown  # the area was drawn, and taken away again
    assert "▸ slow" in shown
    text = ESCAPES.sub("", shown)
    assert "✗ bad" in text
    assert text.rstrip().splitlines()[-1].startswith("receipt: ")
    assert Path(text.rstrip().splitlines()[-1].removeprefix("receipt: ")).exists()


def test_no_colour_and_no_unicode_where_they_are_not_wanted(project: Project) -> None:
    project.workflow(WORKFLOW)
    shown = on_terminal(project, 80, NO_COLOR="1", PYTHONIOENCODING="ascii")
    assert not re.search(r"\x1b\[3[0-9]m", shown)
    assert "x bad" in shown
    assert "✗" not in shown


def test_a_dumb_terminal_gets_plain_lines(project: Project) -> None:
    project.workflow(WORKFLOW)
    assert "\x1b" not in on_terminal(project, 80, TERM="dumb")


def test_a_terminal_that_is_closed_ends_the_run_as_a_hangup_does(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nlong:\n  stage: a\n  script: ['echo begun; sleep 60']\n")
    child = project.on_terminal("run", "--local")
    until(lambda: project.has_printed("begun", "long"))
    os.close(child.child_fd)  # what a terminal's window does when it goes
    child.child_fd, child.closed = -1, True
    _, status = os.waitpid(child.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    (receipt,) = project.record_files("receipts/*.json")
    assert (load(receipt)["status"], load(receipt)["exit_code"]) == ("canceled", 129)
