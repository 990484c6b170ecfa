"""The variables of a run, by its event: all of them, as run_variables.yml has them.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/plan/test_run_variables.py` writes the present ones; read them before you commit them.
"""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from loom.plan.variables import SOURCES, HeadCommit, Message, User, default_branch, for_run, remote_sha

BESIDE = Path(__file__).with_name("run_variables.yml")
MESSAGE = Message(
    author="A <a@b>",
    timestamp="2026-01-02T03:04:05+00:00",
    text="A title\n\nWhat it does\n",
    parent="d" * 40,
    tag="About the tag\n",
    fork="e" * 40,
)
BRANCH = HeadCommit(
    sha="a" * 40, branch="feature/x", tags=("v1", "v2"), default_branch="main", remote_sha="b" * 40, message=MESSAGE
)


def test_all_variables_of_each_event() -> None:
    found = {
        f"{event} of {name}": for_run(
            run_id="1700000000000000000",
            workflow_path=".gitlab-ci.yml",
            commit=commit,
            project_name="name",
            origin_url=origin,
            event=event,
            user=User(name="A", email="a@b.example"),
        )
        for event in SOURCES
        for name, commit, origin in (
            ("a branch", BRANCH, "https://gitlab.example/group/name.git"),
            ("no branch", HeadCommit(sha="c" * 40, tags=("v3",)), None),
        )
        if name == "a branch" or event in ("push", "tag")
    }
    shown = yaml.safe_dump(found, sort_keys=False, width=200)
    if os.environ.get("LOOM_TEST_ACCEPT"):
        BESIDE.write_text(shown)
    assert found == yaml.safe_load(BESIDE.read_text())


def test_the_default_branch_is_what_origin_says_or_a_usual_name() -> None:
    assert default_branch("refs/remotes/origin/trunk", {}) == "trunk"
    for name in ("main", "master"):
        for ref in (f"refs/heads/{name}", f"refs/remotes/origin/{name}"):
            assert default_branch("", {ref, "refs/heads/other"}) == name
    assert default_branch("", {"refs/heads/main", "refs/remotes/origin/master"}) is None
    assert default_branch("", {"refs/heads/other"}) is None


def test_the_commit_of_the_branch_at_origin() -> None:
    assert remote_sha("a" * 40, "https://h/a") == "a" * 40
    assert remote_sha(None, "https://h/a") == "0" * 40
    assert remote_sha(None, None) is None
