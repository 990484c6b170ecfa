"""Every key of GitHub's workflow syntax, its values, and what loom makes of it.

`loom check` reads this table, and so does the page docs/reference/github-keywords.md (`scripts/docs github`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loom.workflow.keywords import Keyword, Support, nested

_SAME, _DIFFERS, _NONE, _REFUSED, _NO_JOB = Support
_TOKEN = "The token of a job is the one that you give, with its own rights; it is empty unless you give one."
_NO_EVENT = "Nothing waits for it: `--event NAME` says that it has happened."
_HELD = "A job that deploys is left out, unless it is named or `--deploy` is given."
_GROUP = "One job of a group runs at a time, over all runs on this machine."
_NOT_CANCELED = "No newer run cancels a local one, and all wait."
_ONE_STEP = "Steps run one after the other here."
_RUN_NAME = "A run is named by its id."
_NO_LOGIN = "Images are pulled with the credentials that this machine's engine has."

_EVENTS = """
    branch_protection_rule check_run check_suite create delete deployment deployment_status discussion
    discussion_comment fork gollum image_version issue_comment issues label merge_group milestone page_build
    project project_card project_column public pull_request pull_request_comment pull_request_review
    pull_request_review_comment pull_request_target push registry_package release repository_dispatch schedule
    status watch workflow_call workflow_dispatch workflow_run
"""
EVENTS = tuple(_EVENTS.split())
_ONE_EVENT = " ".join(EVENTS)
_BRANCHES = ("branches", "branches-ignore")
_PATHS = ("paths", "paths-ignore")
FILTERS: Mapping[str, tuple[str, ...]] = {
    "push": (*_BRANCHES, "tags", "tags-ignore", *_PATHS),
    "pull_request": (*_BRANCHES, *_PATHS),
    "pull_request_target": (*_BRANCHES, *_PATHS),
    "merge_group": _BRANCHES,
    "workflow_run": (*_BRANCHES, "workflows"),
    "image_version": ("names", "versions"),
}
_CHANGED, _PINNED = "created edited deleted", "transferred pinned unpinned"
_LABELED = "assigned unassigned labeled unlabeled opened edited closed reopened locked unlocked milestoned demilestoned"
_OF_PULLS = (
    f"{_LABELED} synchronize converted_to_draft enqueued dequeued ready_for_review review_requested "
    "review_request_removed auto_merge_enabled auto_merge_disabled stacked"
)
_TYPES: Mapping[str, str] = {
    "branch_protection_rule": _CHANGED,
    "check_run": "created rerequested completed requested_action",
    "check_suite": "completed requested rerequested",
    "discussion": f"{_CHANGED} {_PINNED} labeled unlabeled locked unlocked category_changed answered unanswered",
    "discussion_comment": _CHANGED,
    "image_version": "created ready deleted",
    "issue_comment": _CHANGED,
    "issues": f"{_LABELED} {_PINNED} deleted field_added field_removed typed untyped",
    "label": _CHANGED,
    "merge_group": "checks_requested",
    "milestone": f"{_CHANGED} opened closed",
    "project": f"{_CHANGED} closed reopened",
    "project_card": f"{_CHANGED} moved converted",
    "project_column": "created updated moved deleted",
    "pull_request": _OF_PULLS,
    "pull_request_comment": _CHANGED,
    "pull_request_review": "submitted edited dismissed",
    "pull_request_review_comment": _CHANGED,
    "pull_request_target": _OF_PULLS,
    "registry_package": "published updated",
    "release": f"{_CHANGED} published unpublished prereleased released",
    "watch": "started",
    "workflow_run": "requested completed in_progress",
}
"""The `types` of each event that has some of GitHub's; those of `repository_dispatch` are the user's words."""


def _events() -> Iterator[Keyword]:
    for event in EVENTS:
        if event == "schedule":
            yield Keyword("on:schedule", "[map]", _NO_EVENT, _DIFFERS)
            continue
        yield Keyword(f"on:{event}", "map")
        if types := "text" if event == "repository_dispatch" else f"({_TYPES[event]})" if event in _TYPES else "":
            yield Keyword(f"on:{event}:types", f"{types} | [{types}]")
        for name in FILTERS.get(event, ()):
            yield Keyword(f"on:{event}:{name}", "nonempty | [nonempty]")
        for name in ("tags", "tags-ignore") if event.startswith("pull_request") and event in FILTERS else ():
            yield Keyword(f"on:{event}:{name}", "scalar | [scalar]", "A pull request is of no tag.", _NONE)


def _inputs(event: str, types: str) -> Iterator[Keyword]:
    yield Keyword(f"on:{event}:inputs", "open", "`--input NAME=value` gives them." if "choice" in types else "")
    yield Keyword(f"on:{event}:inputs:NAME", "map")
    yield Keyword(f"on:{event}:inputs:NAME:default", "scalar")
    if event == "workflow_dispatch":
        yield Keyword(f"on:{event}:inputs:NAME:deprecationMessage", "text")
    yield Keyword(f"on:{event}:inputs:NAME:description", "scalar")
    yield Keyword(f"on:{event}:inputs:NAME:required", "boolean")
    yield Keyword(f"on:{event}:inputs:NAME:type", types, required=event == "workflow_call")


_SCOPES = """
    actions artifact-metadata attestations checks code-quality contents deployments discussions drives issues packages
    pages pull-requests repository-projects security-events statuses
"""
_OTHER_SCOPES = {"read none": ("models", "vulnerability-alerts"), "write none": ("copilot-requests", "id-token")}
_PERMISSIONS = (
    Keyword("permissions", "(read-all write-all) | map", _TOKEN, _NONE),
    *(Keyword(f"permissions:{one}", "(read write none)") for one in _SCOPES.split()),
    *(Keyword(f"permissions:{one}", f"({words})") for words, several in _OTHER_SCOPES.items() for one in several),
)
_DEFAULTS = (
    Keyword("defaults", "map"),
    Keyword("defaults:run", "map | expression"),
    Keyword("defaults:run:shell", "nonempty"),
    Keyword("defaults:run:working-directory", "scalar"),
)
_ENV = (Keyword("env", "open"), Keyword("env:NAME", "scalar"))
_OWN_ENV = (Keyword("env", "open | expression"), _ENV[1])

ROOT_KEYWORDS = (
    Keyword("name", "scalar"),
    Keyword("description", "scalar"),
    Keyword("run-name", "scalar", _RUN_NAME, _NONE),
    Keyword("on", f"({_ONE_EVENT}) | [({_ONE_EVENT})] | map", required=True, filled=True, example="push"),
    *_events(),
    Keyword("on:schedule:cron", "text", required=True),
    Keyword("on:schedule:timezone", "text"),
    *_inputs("workflow_dispatch", "(string choice boolean number environment)"),
    Keyword("on:workflow_dispatch:inputs:NAME:options", "[scalar]"),
    *_inputs("workflow_call", "(string boolean number)"),
    Keyword("on:workflow_call:outputs", "open"),
    Keyword("on:workflow_call:outputs:NAME", "map"),
    Keyword("on:workflow_call:outputs:NAME:description", "scalar"),
    Keyword("on:workflow_call:outputs:NAME:value", "scalar", required=True),
    Keyword("on:workflow_call:secrets", "open"),
    Keyword("on:workflow_call:secrets:NAME", "map"),
    Keyword("on:workflow_call:secrets:NAME:description", "scalar"),
    Keyword("on:workflow_call:secrets:NAME:required", "boolean"),
    *_PERMISSIONS,
    *_ENV,
    *_DEFAULTS,
    Keyword("concurrency", "scalar | map", "Several runs of one workflow may run on this machine.", _NONE),
    Keyword("concurrency:group", "nonempty", required=True),
    Keyword("concurrency:cancel-in-progress", "boolean"),
    Keyword("concurrency:queue", "(single max)"),
    Keyword("jobs", "open", required=True, filled=True),
    Keyword("jobs:NAME", "any"),
)

_VOLUMES = (
    "A name, a path alone or one below /tmp is a new volume of the container; the engine's socket asks for trust. "
    "Another directory of the machine refuses the job."
)
_PORTS = (
    "Nothing is published on this machine. A job without `container` finds services at localhost, each port under its own "
    "number; another one, or a container's port alone that no `job.services` asks for, refuses the job."
)
_CONTAINER = (
    Keyword("image", "scalar", required=True),
    Keyword("credentials", "scalar | map", _NO_LOGIN, _NONE),
    Keyword("credentials:username", "scalar"),
    Keyword("credentials:password", "scalar"),
    *_ENV,
    Keyword("ports", "[scalar] | expression", _PORTS, _DIFFERS),
    Keyword("volumes", "[text] | expression", _VOLUMES, _DIFFERS),
    Keyword("options", "text", "The options that loom has a setting for; another one refuses the job.", _DIFFERS),
)

JOB = (
    Keyword("name", "scalar"),
    *_PERMISSIONS,
    Keyword("needs", "nonempty | [nonempty]"),
    Keyword("if", "scalar"),
    Keyword(
        "runs-on",
        "nonempty | [nonempty] | map",
        "A label chooses an image by `images: {LABEL: IMAGE}` of the configuration, or a pool of yours by its name. "
        "Jobs for Windows, macOS and runners of your own are left out.",
        _DIFFERS,
    ),
    Keyword("runs-on:group", "nonempty", "Labels choose an image or a pool here.", _NONE),
    Keyword("runs-on:labels", "nonempty | [nonempty]"),
    Keyword("snapshot", "any", "It makes an image for GitHub's runners.", _NO_JOB),
    Keyword("environment", "scalar | map", _HELD, _DIFFERS),
    Keyword("environment:name", "scalar", required=True),
    Keyword("environment:url", "scalar", "A local run knows of no deployments.", _NONE),
    Keyword("environment:deployment", "boolean", "A local run knows of no deployments.", _NONE),
    Keyword("concurrency", "nonempty | map", _GROUP, _DIFFERS),
    Keyword("concurrency:group", "nonempty", _GROUP, _DIFFERS, required=True),
    Keyword("concurrency:cancel-in-progress", "boolean", _NOT_CANCELED, _NONE),
    Keyword("concurrency:queue", "(single max)", _NOT_CANCELED, _NONE),
    Keyword("outputs", "open"),
    Keyword("outputs:NAME", "scalar"),
    *_OWN_ENV,
    *_DEFAULTS,
    Keyword("steps", "[map]"),
    Keyword("steps:id", "scalar"),
    Keyword("steps:if", "scalar"),
    Keyword("steps:name", "scalar"),
    Keyword("steps:uses", "text"),
    Keyword("steps:run", "scalar"),
    Keyword("steps:working-directory", "scalar"),
    Keyword("steps:shell", "nonempty"),
    Keyword("steps:with", "open | expression"),
    Keyword("steps:with:NAME", "scalar"),
    *nested("steps", _OWN_ENV),
    Keyword("steps:continue-on-error", "boolean"),
    Keyword("steps:timeout-minutes", "number"),
    Keyword("steps:parallel", "[any]", "Its steps run one after the other.", _DIFFERS),
    *(Keyword(f"steps:{one}", "any", _ONE_STEP, _NO_JOB) for one in ("background", "wait", "wait-all", "cancel")),
    Keyword("timeout-minutes", "number", "Without it 360, or `job_timeout` of your configuration.", _DIFFERS),
    Keyword("cancel-timeout-minutes", "number", "A job that is canceled has the same time on each machine.", _NONE),
    Keyword("strategy", "map | expression"),
    Keyword("strategy:matrix", "open | expression"),
    Keyword("strategy:matrix:NAME", "any"),
    Keyword("strategy:matrix:include", "[open] | expression"),
    Keyword("strategy:matrix:include:NAME", "any"),
    Keyword("strategy:matrix:exclude", "[open] | expression"),
    Keyword("strategy:matrix:exclude:NAME", "any"),
    Keyword("strategy:fail-fast", "boolean"),
    Keyword("strategy:max-parallel", "number"),
    Keyword("continue-on-error", "boolean"),
    Keyword("container", "scalar | map"),
    *nested("container", _CONTAINER),
    Keyword("services", "open | expression"),
    Keyword("services:NAME", "scalar | map"),
    *nested("services:NAME", _CONTAINER),
    Keyword("services:NAME:command", "scalar"),
    Keyword("services:NAME:entrypoint", "scalar"),
    Keyword("uses", "text"),
    Keyword("with", "open"),
    Keyword("with:NAME", "scalar"),
    Keyword("secrets", "(inherit) | open"),
    Keyword("secrets:NAME", "scalar"),
)

_ALL = "github inputs vars needs strategy matrix"
_OF_STEP = f"{_ALL} env secrets steps job runner"
_PLAN = "github inputs vars"
CONTEXTS: Mapping[str, str] = {
    "root:run-name": _PLAN,
    "root:concurrency": _PLAN,
    "root:env": f"{_PLAN} secrets",
    "root:defaults": f"{_PLAN} env",
    "root:on:workflow_call:inputs": _PLAN,
    "root:on:workflow_call:outputs": f"{_PLAN} jobs",
    "name": _ALL,
    "if": "github inputs vars needs always() success() failure() cancelled()",
    "runs-on": _ALL,
    "snapshot": _ALL,
    "environment": _ALL,
    "environment:url": f"{_ALL} job runner env steps",
    "concurrency": _ALL,
    "outputs": _OF_STEP,
    "env": f"{_ALL} secrets",
    "defaults": f"{_ALL} env",
    "timeout-minutes": _ALL,
    "strategy": f"{_PLAN} needs",
    "continue-on-error": _ALL,
    "container": _ALL,
    "container:credentials": f"{_ALL} env secrets",
    "container:env": f"{_ALL} job runner env secrets",
    "services": _ALL,
    "services:NAME:credentials": f"{_ALL} env secrets",
    "services:NAME:env": f"{_ALL} job runner env secrets",
    "with": _ALL,
    "secrets": f"{_ALL} secrets",
    "steps": _OF_STEP + " hashfiles()",
    "steps:id": "",
    "steps:uses": "",
    "steps:shell": "",
    "steps:if": f"{_ALL} env steps job runner hashfiles() always() success() failure() cancelled()",
}
"""What expressions may read at a key, and at all below it: GitHub's table of the availability of contexts.

`root:` stands before the keys at the root. Where a key is not in the table, and none above it, there are no expressions.
"""
