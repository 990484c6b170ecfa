"""What is known of the commit that a run begins with."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from loom.commands.project.checkout import head_of, run_variables
from loom.plan.model import Build, Job
from loom.runner.results import Results

from .conftest import Make, on
from .test_session import Engine


class Building(Engine):
    """An engine that says which builds keep their files, and in which directory."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[list[str], Path, str]] = []

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        self.kept.append(([build.context for build in builds], workspace, folder.name))


@pytest.mark.parametrize(("mode", "kept"), [("bind_mount", True), ("auto", False)])
def test_builds_keep_their_files_where_jobs_write_to_the_workspace(make: Make, mode: str, kept: bool) -> None:
    project = make(
        "stages: [a, b]\none: {stage: a, script: 'true', image: debian}\n"
        "two: {stage: b, script: 'true', image: {build: {context: dir}}}\n",
        **{"dir/Dockerfile": "FROM scratch\n"},
    )
    engine = Building()
    ran = project.run(container=True, tools=on(engine, "docker"), mount_mode=mode)
    assert engine.kept == ([(["dir"], ran.workspace, "builds")] if kept else [])


def test_what_is_known_of_the_commit(make: Make) -> None:
    project = make("stages: [a]\none: {stage: a, script: 'true'}\n")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    sha = git("rev-parse", "HEAD")
    head = head_of(project.planned()[1].source)
    assert (head.sha, head.branch, head.tags, head.default_branch, head.remote_sha) == (sha, "main", (), "main", None)
    git("remote", "add", "origin", "https://example.org/group/project.git")
    git("tag", "v1")
    head = head_of(project.planned()[1].source)
    assert (tuple(head.tags), head.default_branch, head.remote_sha) == (("v1",), "main", "0" * 40)
    git("update-ref", "refs/remotes/origin/main", sha)
    git("update-ref", "refs/remotes/origin/trunk", sha)
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    source = project.planned()[1].source
    head = head_of(source)
    assert (head.default_branch, head.remote_sha) == ("trunk", sha)
    found = run_variables("7", source, "w.yml", os.environ)
    assert (found["CI_DEFAULT_BRANCH"], found["CI_COMMIT_SHA"], found["CI_PROJECT_NAME"]) == ("trunk", sha, "project")


def test_the_services_for_actions_end_with_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Results] = []
    monkeypatch.setattr(Job, "uses_actions", True)
    monkeypatch.setattr(Results, "close", lambda self: closed.append(self))
    make("stages: [a]\none: {stage: a, script: 'true'}\n").run()
    assert len(closed) == 1
