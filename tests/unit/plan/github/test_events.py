"""The event of a run, as GitHub's payloads have it."""

from typing import Any

import pytest

from loom.config import Config
from loom.config.values import GitHubSettings
from loom.plan.github.events import event_of
from loom.plan.model import ResolveContext
from loom.workflow.changes import event_changes
from loom.workflow.languages import GITHUB

SHA, FORK = "c" * 40, "f" * 40
KNOWN = {
    "CI_COMMIT_SHA": SHA,
    "CI_COMMIT_BRANCH": "topic",
    "CI_COMMIT_BEFORE_SHA": "b" * 40,
    "CI_COMMIT_MESSAGE": "One\n\nmore",
    "CI_COMMIT_TITLE": "One",
    "CI_COMMIT_TIMESTAMP": "2026-01-02T03:04:05Z",
    "CI_COMMIT_AUTHOR": "Ann <a@example>",
    "CI_COMMIT_REF_PROTECTED": "true",
    "CI_DEFAULT_BRANCH": "trunk",
    "CI_PROJECT_PATH": "me/project",
    "GITLAB_USER_LOGIN": "ann",
}
REPOSITORY = {
    "name": "project",
    "full_name": "me/project",
    "owner": {"login": "me", "name": "me"},
    "default_branch": "trunk",
    "html_url": "https://github.com/me/project",
    "clone_url": "https://github.com/me/project.git",
    "fork": False,
    "private": True,
}
COMMIT = {"id": SHA, "message": "One\n\nmore", "timestamp": "2026-01-02T03:04:05Z", "author": {"name": "Ann"}}
PUSH = {
    "after": SHA,
    "before": "b" * 40,
    "pusher": {"name": "ann"},
    "head_commit": COMMIT,
    "commits": [COMMIT],
    "created": False,
    "deleted": False,
    "forced": False,
}
PULL_REQUEST = {
    "action": "synchronize",
    "number": 1,
    "pull_request": {
        "number": 1,
        "title": "One",
        "body": "",
        "state": "open",
        "draft": False,
        "merged": False,
        "labels": [],
        "user": {"login": "ann"},
        "head": {"ref": "topic", "sha": SHA, "repo": REPOSITORY},
        "base": {"ref": "dev", "sha": FORK, "repo": REPOSITORY},
    },
}
REVIEW = {
    "action": "submitted",
    "pull_request": PULL_REQUEST["pull_request"],
    "review": {"state": "approved", "body": "", "commit_id": SHA, "user": {"login": "ann"}},
}
RELEASE = {
    "release": {"tag_name": "v1", "name": "v1", "draft": False, "prerelease": False, "target_commitish": "trunk"}
}


@pytest.mark.parametrize(
    ("event", "more", "payload", "ref", "happened"),
    [
        ("push", {}, {"ref": "refs/heads/topic", **PUSH}, "refs/heads/topic", "push::topic:"),
        ("push", {"CI_COMMIT_TAG": "v1"}, {"ref": "refs/tags/v1", **PUSH}, "refs/tags/v1", "push:::v1"),
        ("push", {"CI_COMMIT_BRANCH": ""}, {"ref": "refs/heads/trunk", **PUSH}, "refs/heads/trunk", "push::trunk:"),
        ("merge_request", {}, PULL_REQUEST, "refs/pull/1/merge", "pull_request:synchronize:dev:"),
        ("pull_request_target", {}, PULL_REQUEST, "refs/heads/trunk", "pull_request_target:synchronize:dev:"),
        ("pull_request_review", {}, REVIEW, "refs/pull/1/merge", "pull_request_review:submitted:1/merge:"),
        (
            "web",
            {},
            {"inputs": {"a": "b"}, "ref": "refs/heads/topic"},
            "refs/heads/topic",
            "workflow_dispatch::topic:",
        ),
        (
            "web",
            {"CI_COMMIT_TAG": "v1"},
            {"inputs": {"a": "b"}, "ref": "refs/tags/v1"},
            "refs/tags/v1",
            "workflow_dispatch:::",
        ),
        ("release", {"CI_COMMIT_TAG": "v1"}, RELEASE, "refs/tags/v1", "release:::"),
        ("schedule", {"CI_COMMIT_BRANCH": ""}, {}, "refs/heads/trunk", "schedule::trunk:"),
    ],
)
def test_an_event_is_github_s(
    event: str, more: dict[str, str], payload: dict[str, Any], ref: str, happened: str
) -> None:
    known = {**KNOWN, "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "dev", "LOOM_EVENT": event, **more}
    known["CI_MERGE_REQUEST_DIFF_BASE_SHA"] = FORK
    found = event_of(ResolveContext(predefined=known, inputs={"a": "b"}))
    github = dict(found.github)
    assert github.pop("event") == {"repository": REPOSITORY, "sender": {"login": "ann", "type": "User"}, **payload}
    name, _, rest = happened.partition(":")
    assert (found.happened.name, f"{found.happened.type}:{found.happened.branch}:{found.happened.tag}") == (name, rest)
    of_request = name in ("pull_request", "pull_request_target")  # as GitHub documents `head_ref`
    assert github == {
        "event_name": name,
        "actor": "ann",
        "triggering_actor": "ann",
        "sha": SHA,
        "repository": "me/project",
        "repository_owner": "me",
        "repositoryUrl": "git://github.com/me/project.git",
        "repository_visibility": "private",
        "server_url": "https://github.com",
        "api_url": "https://api.github.com",
        "graphql_url": "https://api.github.com/graphql",
        "secret_source": "None",
        "head_ref": "topic" if of_request else "",
        "base_ref": "dev" if of_request else "",
        "ref": ref,
        "ref_name": ref.removeprefix("refs/").partition("/")[2],
        "ref_type": "tag" if ref.startswith("refs/tags/") else "branch",
        "ref_protected": True,
    }


def test_an_event_of_little_known_has_defaults() -> None:
    github = event_of(
        ResolveContext(predefined={"GITLAB_USER_NAME": "Ann", "CI_PROJECT_NAME": "p", "CI_COMMIT_BRANCH": "b"})
    ).github
    assert (github["event_name"], github["actor"], github["repository"]) == ("push", "Ann", "local/p")
    assert (github["ref"], github["ref_protected"], github["event"]["before"]) == ("refs/heads/b", False, "0" * 40)
    github = event_of(ResolveContext(predefined={"LOOM_EVENT": "pull_request"})).github
    assert (github["actor"], github["repository"], github["base_ref"]) == ("local", "local/project", "main")
    assert github["event"]["pull_request"]["title"] == ""


@pytest.mark.parametrize("request_", [{}, {"head": {"ref": None}, "base": "x"}])
def test_a_payload_of_a_request_may_lack_what_the_event_reads(request_: dict[str, Any]) -> None:
    for name, ref in (("pull_request", "refs/pull/1/merge"), ("pull_request_target", "refs/heads/trunk")):
        found = event_of(
            ResolveContext(predefined={**KNOWN, "LOOM_EVENT": name}, event_payload={"pull_request": request_})
        )
        assert [found.github[key] for key in ("ref", "head_ref", "base_ref")] == [ref, "", ""]
    found = event_of(
        ResolveContext(
            predefined={**KNOWN, "LOOM_EVENT": "pull_request"}, event_payload={"pull_request": request_, "number": 7}
        )
    )
    assert found.github["ref"] == "refs/pull/7/merge"


def test_an_event_of_a_server_of_ones_own_has_its_addresses() -> None:
    for server, root in (("https://ghe.example/", "https://ghe.example"), ("http://ghe", "http://ghe")):
        config = Config(github=GitHubSettings(server=server))
        github = event_of(ResolveContext(predefined=KNOWN, config=config)).github
        assert (github["server_url"], github["api_url"]) == (root, f"{root}/api/v3")
        assert github["graphql_url"] == f"{root}/api/graphql"
        assert github["repositoryUrl"] == f"git://{root.partition('://')[2]}/me/project.git"
    mirror = event_of(ResolveContext(predefined=KNOWN, config=Config(github=GitHubSettings(server="/srv/mirror"))))
    assert mirror.github["server_url"] == "https://github.com", "a mirror of actions alone"


def test_numbers_of_a_payload_stay_whole_where_its_file_can_have_them() -> None:
    given = {"n": 7, "list": [1, {"big": 1 << 53}], "text": "x", "edge": (1 << 53) - 1}
    event = event_of(ResolveContext(predefined=KNOWN, event_payload=given)).github["event"]
    assert repr({name: event[name] for name in given}) == repr(
        {"n": 7, "list": [1, {"big": float(1 << 53)}], "text": "x", "edge": (1 << 53) - 1}
    )


class Noting(dict[str, str]):
    """Values, and the names that were asked for."""

    asked: set[str]

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def test_a_kept_plan_is_of_the_values_that_an_event_reads() -> None:
    known = Noting(KNOWN)
    known.asked = set()
    for name in ("push", "pull_request"):
        known["LOOM_EVENT"] = name
        event_of(ResolveContext(predefined=known))
    for name in ("CI_COMMIT_BRANCH", "CI_PROJECT_PATH", "GITLAB_USER_LOGIN"):
        known[name] = ""
    event_of(ResolveContext(predefined=known))
    for source in ("push", "merge_request_event"):
        known["CI_PIPELINE_SOURCE"] = source
        event_changes(ResolveContext(predefined=known))
    assert known.asked == GITHUB.reads


def test_a_project_in_a_subgroup_belongs_to_its_group() -> None:
    github = event_of(ResolveContext(predefined={**KNOWN, "CI_PROJECT_PATH": "group/sub/project"})).github
    repository = github["event"]["repository"]
    assert (github["repository_owner"], repository["name"]) == ("group/sub", "project")
    assert repository["owner"] == {"login": "group/sub", "name": "group/sub"}
