"""Which builds need a copy of the files that they are made from, since jobs write before or beside them; the commit."""

import os
import subprocess

import pytest

from loom.commands.run.checkout import head_of, run_variables
from loom.plan.model import Build, Image, Job, Need, Plan, Service, Step
from loom.runner.pipeline import builds_after_writers

from .conftest import Make

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
    assert builds_after_writers(plan, {one.id for one in jobs}, done) == ([BUILD] if kept else [])
    assert builds_after_writers(plan, set(), done) == []


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
