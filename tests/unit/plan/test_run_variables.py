"""The variables of a run, by its event: those of a push, and what other events have otherwise, as run_variables.yml has them.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/plan/test_run_variables.py` writes the present ones; read them before you commit them.
"""

import os
from pathlib import Path, PurePath

import pytest
import yaml
from msgspec.structs import replace

from loom.plan.model import Image, Job
from loom.plan.variables import (
    SOURCES,
    HeadCommit,
    Message,
    User,
    attempt_variables,
    default_branch,
    job_environment,
    job_variables,
    project_name_of,
    remote_sha,
    rerun_variables,
    run_variables,
    status_variables,
)
from loom.status import Status
from loom.util.units import machine

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
        f"{event} of {name}": run_variables(
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
    first = found["push of a branch"]
    of_other = {  # of every other one, what is otherwise
        name: {key: one.get(key) for key in {**first, **one} if one.get(key) != first.get(key)}
        for name, one in found.items()
        if one is not first
    }
    found = {"push of a branch": first, **of_other}
    shown = yaml.safe_dump(found, sort_keys=False, width=200)
    if os.environ.get("LOOM_TEST_ACCEPT"):
        BESIDE.write_text(shown)
    assert found == yaml.load(BESIDE.read_text(), yaml.CSafeLoader)


@pytest.mark.parametrize(
    ("at_origin", "before"), [("b" * 40, "b" * 40), ("a" * 40, "d" * 40), (None, "d" * 40), ("0" * 40, "0" * 40)]
)
def test_a_push_brings_what_the_server_lacks_else_the_last_commit(at_origin: str | None, before: str) -> None:
    commit = replace(BRANCH, remote_sha=at_origin)
    found = run_variables(run_id="", workflow_path="", commit=commit, project_name="", origin_url=None)
    assert found["CI_COMMIT_BEFORE_SHA"] == before


@pytest.mark.parametrize(
    ("branch", "event", "tag"),
    [(None, "push", "main"), (None, "merge_request", None), ("main", "push", None), ("main", "tag", "main")],
)
def test_a_run_is_of_a_tag_or_of_a_branch(branch: str | None, event: str, tag: str | None) -> None:
    commit = replace(BRANCH, branch=branch, tags=("main",))
    found = run_variables(run_id="", workflow_path="", commit=commit, project_name="", origin_url=None, event=event)
    assert found.get("CI_COMMIT_TAG") == tag
    assert found["CI_COMMIT_REF_PROTECTED"] == ("true" if branch and not tag else "false")


@pytest.mark.parametrize(
    ("refs", "configured", "expected"),
    [
        ("heads/main heads/other", "", "main"),
        ("remotes/origin/master heads/other", "", "master"),
        ("heads/main remotes/origin/master remotes/origin/next", "", None),
        ("heads/main heads/master", "master", "master"),
        ("heads/trunk heads/other", "trunk", "trunk"),
        ("heads/trunk heads/other", "main", None),
        ("heads/trunk", "main", "trunk"),
        ("remotes/origin/trunk heads/trunk heads/mine", "mine", "trunk"),
        ("remotes/origin/trunk remotes/origin/next heads/mine", "mine", None),
        ("tags/trunk", "trunk", None),
    ],
)
def test_the_default_branch(refs: str, configured: str, expected: str | None) -> None:
    there = {f"refs/{name}" for name in refs.split()}
    assert default_branch("", there, configured) == expected
    assert default_branch("refs/remotes/origin/other", there, configured) == "other"


def test_a_project_has_the_name_of_its_directory() -> None:
    assert [project_name_of(PurePath(path)) for path in ("/work/tool", "/")] == ["tool", "project"]


def test_the_commit_of_the_branch_at_origin() -> None:
    assert remote_sha("a" * 40, "https://h/a") == "a" * 40
    assert remote_sha(None, "https://h/a") == "0" * 40
    assert remote_sha(None, None) is None


JOB = Job(
    id="unit.1",
    name="Unit 1",
    stage="test",
    provider="docker:far",
    image=Image(name="i"),
    timeout_s=90.4,
    variables={"A": "$CI_JOB_IMAGE at $REDIS", "B": "$$", "C": "$CI_JOB_TOKEN-$CI_JOB_STARTED_AT"},
    steps=(),
)
OF_JOB = {
    "LOOM_JOB_NAME": "Unit 1",
    "LOOM_JOB_ID": "unit.1",
    "LOOM_JOB_STAGE": "test",
    "LOOM_JOB_TARGET": "linux",
    "LOOM_JOB_IMAGE": "i@sha256:1",
    "LOOM_PROVIDER": "docker",
    "LOOM_PROJECT_DIR": "/builds/p",
    "CI_JOB_ID": "unit.1",
    "CI_CONCURRENT_ID": "0",
    "CI_CONCURRENT_PROJECT_ID": "0",
    "CI_PROJECT_DIR": "/builds/p",
    "CI_BUILDS_DIR": "/builds",
    "CI_JOB_NAME": "Unit 1",
    "CI_JOB_NAME_SLUG": "unit-1",
    "CI_JOB_STAGE": "test",
    "CI_JOB_STATUS": "running",
    "CI_JOB_IMAGE": "i@sha256:1",
    "CI_JOB_TIMEOUT": "90",
    "CI_RUNNER_EXECUTABLE_ARCH": machine(),
    "CI_DISPOSABLE_ENVIRONMENT": "true",
}


def test_the_variables_of_a_job_are_those_of_the_run_its_own_and_the_plans() -> None:
    asked = {"project_dir": "/builds/p", "image_name": "i@sha256:1"}
    assert job_variables(JOB, **asked) == OF_JOB
    found = job_environment(JOB, {"CI": "true", "CI_JOB_NAME": "of the run"}, **asked, services={"REDIS": "redis:6379"})
    plans = {"A": "i@sha256:1 at redis:6379", "B": "$$", "C": "$CI_JOB_TOKEN-$CI_JOB_STARTED_AT"}
    assert found == {"CI": "true", **OF_JOB, "REDIS": "redis:6379", **plans}


def test_some_variables_of_a_job_are_there_only_sometimes() -> None:
    here = replace(JOB, image=None, timeout_s=None, when="manual", provider="host")
    found = job_variables(here, project_dir="/w", image_name="", project_url="https://h/p")
    assert {name: found.get(name) for name in ("CI_JOB_URL", "CI_JOB_MANUAL", "CI_SHARED_ENVIRONMENT")} == {
        "CI_JOB_URL": "https://h/p/-/jobs/unit.1",
        "CI_JOB_MANUAL": "true",
        "CI_SHARED_ENVIRONMENT": "true",
    }
    assert not {"CI_JOB_TIMEOUT", "CI_DISPOSABLE_ENVIRONMENT"} & found.keys()
    assert (found["CI_BUILDS_DIR"], found["LOOM_PROVIDER"]) == ("/", "host")


@pytest.mark.parametrize(
    ("status", "loom", "gitlab"),
    [
        ("success", "success", "success"),
        ("canceled", "canceled", "canceled"),
        ("timed_out", "timed_out", "failed"),
        ("error", "error", "failed"),
    ],
)
def test_after_script_knows_how_the_job_ended(status: str, loom: str, gitlab: str) -> None:
    assert status_variables(Status(status)) == {"LOOM_JOB_STATUS": loom, "CI_JOB_STATUS": gitlab}


def test_an_attempt_has_its_number_and_its_time() -> None:
    assert attempt_variables(2, 1_700_000_000_999_999_999) == {
        "CI_JOB_STARTED_AT": "2023-11-14T22:13:20Z",
        "CI_JOB_STARTED_AT_SLUG": "2023-11-14t22-13-20z",
        "CI_JOB_RETRY_COUNT": "1",
    }


def test_a_run_that_does_another_one_again_has_its_own_id_in_every_variable() -> None:
    def made(run_id: str) -> dict[str, str]:
        url = "https://example.com/a/b.git"
        return run_variables(
            run_id=run_id, workflow_path="w", commit=HeadCommit(sha="a" * 40), project_name="b", origin_url=url
        )

    before, after = made("1700000000000000001"), made("1800000000000000002")
    changed = {name for name, value in before.items() if value != after[name]}
    assert {"LOOM_RUN_ID", "LOOM_PIPELINE_ID", "CI_PIPELINE_ID", "CI_PIPELINE_IID", "CI_PIPELINE_URL"} <= changed
    assert rerun_variables(before, "1800000000000000002") == {
        **after,
        "CI_PIPELINE_CREATED_AT": before["CI_PIPELINE_CREATED_AT"],
    }
    assert rerun_variables({"A": "b"}, "1") == {"A": "b"}
