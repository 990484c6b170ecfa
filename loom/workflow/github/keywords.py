"""Every key of GitHub's workflow syntax: the tables of keywords.yml, beside this module, and the events.

`loom check` reads them, and so does the page docs/reference/github-keywords.md (`scripts/docs github`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from loom.workflow.keywords import Keyword, Support, read_tables

_EVENTS = """
    branch_protection_rule check_run check_suite create delete deployment deployment_status discussion
    discussion_comment fork gollum image_version issue_comment issues label merge_group milestone page_build
    project project_card project_column public pull_request pull_request_comment pull_request_review
    pull_request_review_comment pull_request_target push registry_package release repository_dispatch schedule
    status watch workflow_call workflow_dispatch workflow_run
"""
EVENTS = tuple(_EVENTS.split())
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
    names = f"({' '.join(EVENTS)})"
    yield Keyword("on", f"{names} | [{names}] | map", required=True, filled=True, example="push")
    for event in EVENTS:
        if event == "schedule":
            why = "Nothing waits for it: `--event NAME` says that it has happened."
            yield Keyword("on:schedule", "[map]", why, Support.DIFFERS)
            continue
        yield Keyword(f"on:{event}", "map")
        if types := "text" if event == "repository_dispatch" else f"({_TYPES[event]})" if event in _TYPES else "":
            yield Keyword(f"on:{event}:types", f"{types} | [{types}]")
        for name in FILTERS.get(event, ()):
            yield Keyword(f"on:{event}:{name}", "nonempty | [nonempty]")
        for name in ("tags", "tags-ignore") if event.startswith("pull_request") and event in FILTERS else ():
            why = "A pull request is of no tag."
            yield Keyword(f"on:{event}:{name}", "scalar | [scalar]", why, Support.NO_EFFECT)


_TABLES = read_tables(Path(__file__).with_suffix(".yml"), events=tuple(_events()))
ROOT_KEYWORDS, JOB = _TABLES["root"], _TABLES["job"]

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
