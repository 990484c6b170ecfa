"""Which builds need a copy of the files that they are made from, since jobs write before or beside them; the commit."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from loom.commands.run.checkout import head_of, run_variables
from loom.plan.model import Build, Image, Job, Need, Plan, Service, Step
from loom.runner.pipeline import builds_after_writers

from .conftest import Make, on
from .test_session import Engine

BUILD = Build()


def job(name: str, stage: str, *, built: bool = False, needs: list[str] | None = None, service: bool = False) -> Job:
    return Job(
        id=name,
        name=name,
        stage=stage,
        steps=(Step(phase="script", number=1, script="true"),),
        provider="docker",
        image=Image(build=BUILD) if built else Image(name="debian"),
        services=(Service(name="db", aliases=("db",), image=Image(build=BUILD)),) if service else (),
        needs=None if needs is None else tuple(Need(job=need) for need in needs),
    )


@pytest.mark.parametrize(
    ("jobs", "done", "kept"),
    [
        ([job("a", "one", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "one")], (), True),
        ([job("a", "one"), job("b", "two", built=True)], (), True),
        ([job("a", "one"), job("b", "two", built=True)], ("a",), False),
        ([job("a", "one"), job("b", "two", service=True)], (), True),
        ([job("a", "one", built=True), job("b", "one", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "two"), job("c", "two", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "two", needs=[]), job("c", "two", built=True)], (), True),
        ([job("a", "one", built=True), job("b", "two", needs=["a"])], (), False),
        ([job("a", "one"), job("b", "two", needs=[], built=True)], (), True),
    ],
)
def test_a_build_keeps_its_files_when_something_may_write_before_it(
    jobs: list[Job], done: tuple[str, ...], *, kept: bool
) -> None:
    plan = Plan(workflow_path="w.yml", stages=("one", "two"), jobs=tuple(jobs))
    assert builds_after_writers(plan, done) == ([BUILD] if kept else [])


class Building(Engine):
    """An engine that says which builds keep their files, and in which directory."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[list[str], Path, str]] = []

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        self.kept.append(([build.context for build in builds], workspace, folder.name))


@pytest.mark.parametrize(
    ("mode", "first", "kept"), [("bind_mount", "a", True), ("bind_mount", "b", False), ("auto", "a", False)]
)
def test_builds_keep_their_files_where_jobs_write_to_the_workspace(
    make: Make, mode: str, first: str, kept: bool
) -> None:
    stages = "stages: [a, b]" if first == "a" else "stages: [b, a]"
    project = make(
        f"{stages}\none: {{stage: a, script: 'true', image: debian}}\n"
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
    head = head_of(project.request().source)
    assert (head.sha, head.branch, head.tags, head.default_branch, head.remote_sha) == (sha, "main", (), "main", None)
    git("remote", "add", "origin", "https://example.org/group/project.git")
    git("tag", "v1")
    head = head_of(project.request().source)
    assert (tuple(head.tags), head.default_branch, head.remote_sha) == (("v1",), "main", "0" * 40)
    git("update-ref", "refs/remotes/origin/main", sha)
    git("update-ref", "refs/remotes/origin/trunk", sha)
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk")
    request = project.request()
    head = head_of(request.source)
    assert (head.default_branch, head.remote_sha) == ("trunk", sha)
    found = run_variables("7", request.source, "w.yml", os.environ)
    assert (found["CI_DEFAULT_BRANCH"], found["CI_COMMIT_SHA"], found["CI_PROJECT_NAME"]) == ("trunk", sha, "project")
