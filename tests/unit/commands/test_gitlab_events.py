"""Which files and variables a GitLab pipeline of an event has, from a real repository with an `origin`."""

import os
import subprocess
from pathlib import Path

import pytest

from loom import config
from loom.commands.plan import contexts, planning
from loom.commands.project import Project as LoomProject
from loom.commands.project import open_project
from loom.plan.model import JobSelection, Plan
from tests.support.repository import git

pytestmark = pytest.mark.slow

WORKFLOW = """
changed: {script: x, rules: [{changes: ["src/**/*"]}]}
same: {script: x, rules: [{changes: ["docs/*"]}]}
since-main: {script: x, rules: [{changes: {paths: ["docs/*"], compare_to: refs/heads/main}}]}
on-main: {script: x, rules: [{if: "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH"}]}
of-requests: {script: x, only: [merge_requests]}
of-tags: {script: x, only: [tags]}
"""


class Project:
    """A clone of a repository on a server, which has pushed one commit."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "clone"
        self.environ = {**os.environ, "HOME": str(tmp_path)}
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(tmp_path / "server.git")], check=True)
        subprocess.run(["git", "init", "-q", "-b", "main", str(self.root)], check=True)
        self.git("remote", "add", "origin", str(tmp_path / "server.git"))
        self.commit(".gitlab-ci.yml", WORKFLOW)
        self.git("push", "-q", "origin", "main")

    def git(self, *arguments: str) -> None:
        git(self.root, *arguments)

    def commit(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", name)

    def here(self) -> LoomProject:
        settings = config.load(root=self.root, environ=self.environ, flags={})
        return LoomProject(environ=self.environ, start=self.root, root=self.root, config=settings)

    def variables(self, event: str = "push") -> dict[str, str]:
        return contexts.commit_variables(self.here(), ".gitlab-ci.yml", event)

    def jobs(self, event: str = "push", *, base: str | None = None) -> set[str]:
        return {job.id for job in self.plan(event, base=base).jobs}

    def plan(self, event: str = "push", *, base: str | None = None, **given: str) -> Plan:
        here = self.here()
        path = self.root / ".gitlab-ci.yml"
        context = contexts.resolve_context(here, path, event=event, base=base)
        loaded = planning.load(here, path, lambda: context)
        return planning.resolve(loaded, JobSelection(container=True, variables=given), context)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_push_has_what_the_branch_at_origin_lacks(project: Project) -> None:
    project.commit("src/deep/a.py", "x")
    project.commit("other", "x")
    assert project.jobs() == {"changed", "on-main"}


def test_a_pushed_branch_has_its_last_commit_and_what_is_not_committed(project: Project) -> None:
    project.commit("docs/a", "x")
    project.git("push", "-q", "origin", "main")
    (project.root / "src").mkdir()
    (project.root / "src/new").write_text("x")
    assert project.jobs() == {"same", "changed", "on-main"}


def test_a_branch_that_origin_does_not_have_counts_every_file_as_changed(project: Project) -> None:
    project.git("checkout", "-q", "-b", "topic")
    assert project.jobs() == {"changed", "same"}
    assert project.jobs(base="HEAD") == set()


def test_a_merge_request_is_compared_with_its_target(project: Project) -> None:
    project.git("checkout", "-q", "-b", "topic")
    project.commit("docs/a", "x")
    assert project.jobs("merge_request") == {"same", "since-main", "of-requests"}


def test_a_tag_and_a_schedule_count_every_file_as_changed(project: Project) -> None:
    project.git("tag", "v1")
    assert project.jobs("tag") == {"changed", "same", "of-tags"}
    assert project.jobs("schedule") == {"changed", "same", "on-main"}


def test_git_is_asked_once_for_each_fact_of_a_plan(project: Project) -> None:
    context = contexts.resolve_context(open_project(), project.root / ".gitlab-ci.yml")
    assert context.changed("HEAD") is context.changed("HEAD")
    assert context.files() is context.files()


def test_a_plan_names_the_jobs_that_an_unknown_default_branch_decides(project: Project) -> None:
    project.commit(".gitlab-ci.yml", WORKFLOW.replace(", compare_to: refs/heads/main", ""))
    assert project.plan().undecided == {}
    for branch in ("one", "two"):
        project.git("push", "-q", "origin", f"HEAD:{branch}")
    project.git("checkout", "-q", "-b", "three")
    for ref in ("refs/heads/main", "refs/remotes/origin/main"):
        project.git("update-ref", "-d", ref)
    assert project.plan().undecided == {"CI_DEFAULT_BRANCH": ("on-main",)}
    assert project.plan(CI_DEFAULT_BRANCH="three").undecided == {}
    project.git("remote", "set-head", "origin", "one")
    assert project.plan().undecided == {}


def test_a_branch_knows_where_it_left_the_default_branch(project: Project) -> None:
    assert "CI_COMMIT_DEFAULT_BRANCH_BASE_SHA" not in project.variables()
    fork = project.variables()["CI_COMMIT_SHA"]
    project.git("checkout", "-q", "-b", "topic")
    project.commit("a", "x")
    assert project.variables()["CI_COMMIT_DEFAULT_BRANCH_BASE_SHA"] == fork
    found = project.variables("merge_request")
    assert found["CI_MERGE_REQUEST_DIFF_BASE_SHA"] == fork
    assert "CI_COMMIT_DEFAULT_BRANCH_BASE_SHA" not in found


def test_a_tag_has_its_message_if_it_has_one_of_its_own(project: Project) -> None:
    project.git("tag", "plain")
    assert "CI_COMMIT_TAG_MESSAGE" not in project.variables("tag")
    project.git("tag", "-d", "plain")
    project.git("tag", "-a", "v1", "-m", "first\n\nmore")
    assert project.variables("tag")["CI_COMMIT_TAG_MESSAGE"] == "first\n\nmore"
    assert "CI_COMMIT_TAG_MESSAGE" not in project.variables()
