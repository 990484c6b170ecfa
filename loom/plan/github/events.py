"""The event that a run stands for, and the `github` context of its jobs, from the checkout or an event's payload."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from loom.plan import model as p
from loom.values import Immutable
from loom.workflow.github.events import TriggerEvent
from loom.workflow.github.expressions import json_value

_NAMES = {"merge_request": "pull_request", "tag": "push", "web": "workflow_dispatch", "trigger": "repository_dispatch"}
"""GitHub's names of the events that have another one in GitLab."""
_GITHUB = "https://github.com"
ON_MERGE = ("pull_request", "pull_request_review", "pull_request_review_comment")
"""The events of a pull request that run on its merge."""
PULL_REQUESTS = ("pull_request", "pull_request_target")
"""Those with `head_ref` and `base_ref`."""


class RunEvent(Immutable):
    happened: TriggerEvent
    github: Mapping[str, Any]
    """The part of the context that does not depend on the workflow, the job or the run."""


def event_of(context: p.ResolveContext) -> RunEvent:
    """Return the event of `--event`, with the payload of `--event-file` or one that git knows the values of."""
    known, config = context.predefined, context.config
    name = _NAMES.get(known.get("LOOM_EVENT", "push"), known.get("LOOM_EVENT", "push"))
    login = known.get("GITLAB_USER_LOGIN") or known.get("GITLAB_USER_NAME") or "local"
    repository = known.get("CI_PROJECT_PATH") or f"local/{known.get('CI_PROJECT_NAME') or 'project'}"
    owner, _, short = repository.rpartition("/")
    server = config.github.server.rstrip("/")
    if not server.startswith(("https://", "http://")):
        server = _GITHUB  # a directory with a mirror of actions, which is no server for them
    sha, tag = known.get("CI_COMMIT_SHA", ""), known.get("CI_COMMIT_TAG", "")
    branch = known.get("CI_COMMIT_BRANCH") or known.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or ""
    default = known.get("CI_DEFAULT_BRANCH") or "main"
    base = known.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME") or default
    repo = {
        "name": short,
        "full_name": repository,
        "owner": {"login": owner, "name": owner},
        "default_branch": default,
        "html_url": f"{server}/{repository}",
        "clone_url": f"{server}/{repository}.git",
        "fork": False,
        "private": True,
    }
    payload: dict[str, Any] = {"repository": repo, "sender": {"login": login, "type": "User"}}
    commit = {
        "id": sha,
        "message": known.get("CI_COMMIT_MESSAGE", ""),
        "timestamp": known.get("CI_COMMIT_TIMESTAMP", ""),
        "author": {"name": known.get("CI_COMMIT_AUTHOR", "").partition(" <")[0]},
    }
    # A detached HEAD has no branch, and GitHub no such event: the workflow reads the default one.
    here = f"refs/tags/{tag}" if tag else f"refs/heads/{branch or default}"
    match name:
        case "push":
            payload |= {"ref": here, "after": sha}
            payload |= {"before": known.get("CI_COMMIT_BEFORE_SHA", "0" * 40), "pusher": {"name": login}}
            payload |= {"head_commit": commit, "commits": [commit], "created": False, "deleted": False, "forced": False}
        case _ if name in ON_MERGE or name in PULL_REQUESTS:
            tip = known.get("CI_MERGE_REQUEST_TARGET_BRANCH_SHA") or known.get("CI_MERGE_REQUEST_DIFF_BASE_SHA") or sha
            head = known.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or sha
            sides = (("head", branch, head), ("base", base, tip))
            ends = {side: {"ref": ref, "sha": its, "repo": repo} for side, ref, its in sides}
            request = {"number": 1, "title": known.get("CI_COMMIT_TITLE", ""), "body": "", "state": "open"}
            request |= {"draft": False, "merged": False, "labels": [], "user": {"login": login}, **ends}
            payload |= {"pull_request": request}
            if name == "pull_request_review":
                review = {"state": "approved", "body": "", "commit_id": head, "user": {"login": login}}
                payload |= {"action": "submitted", "review": review}
            elif name == "pull_request_review_comment":
                comment = {"body": "", "commit_id": head, "user": {"login": login}}
                payload |= {"action": "created", "comment": comment}
            else:
                payload |= {"action": "synchronize", "number": 1}
        case "workflow_dispatch":
            payload |= {"inputs": dict(context.inputs), "ref": here}
        case "release":
            release = {"tag_name": tag, "name": tag, "draft": False, "prerelease": False, "target_commitish": default}
            payload |= {"release": release}
        case _:
            pass
    payload |= context.event_payload or {}
    api = "https://api.github.com" if server == _GITHUB else f"{server}/api"
    github = {
        "event_name": name,
        "event": _whole(payload),
        "actor": login,
        "triggering_actor": login,
        "sha": sha,
        "repository": repository,
        "repository_owner": owner,
        "repositoryUrl": f"git://{server.partition('://')[2]}/{repository}.git",
        "repository_visibility": "private",
        "server_url": server,
        "api_url": api if server == _GITHUB else f"{api}/v3",
        "graphql_url": f"{api}/graphql",
        "secret_source": "None",
        "head_ref": "",
        "base_ref": "",
    }
    ref = str(payload.get("ref") or here)
    if name in PULL_REQUESTS:
        request = payload["pull_request"]
        github |= {"head_ref": text_at(request, "head", "ref"), "base_ref": text_at(request, "base", "ref")}
    if name in ON_MERGE:
        number = payload.get("number") or text_at(payload, "pull_request", "number") or 1
        ref = f"refs/pull/{number}/merge"
    elif name == "pull_request_target":
        ref = f"refs/heads/{default}"
    of_tag = ref.startswith("refs/tags/")
    short = re.sub(r"^refs/(heads|tags|pull)/", "", ref)
    github |= {"ref": ref, "ref_name": short, "ref_type": "tag" if of_tag else "branch"}
    github["ref_protected"] = known.get("CI_COMMIT_REF_PROTECTED") == "true"
    happened = TriggerEvent(
        name=name,
        type=str(payload.get("action", "")),
        branch=github["base_ref"] if name in PULL_REQUESTS else "" if of_tag else short,
        tag=short if of_tag and name == "push" else "",
    )
    return RunEvent(happened=happened, github=github)


def _whole(value: Any) -> Any:
    """Return a payload whose whole numbers stay what they are in its file: not 1.0."""
    if isinstance(value, Mapping):
        return {str(name): _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return json_value(value) if isinstance(value, int) and abs(value) >= 1 << 53 else value


def text_at(value: Any, *path: str) -> str:
    """Return the text at a path of keys; empty where a payload has none."""
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return str(value or "")
