"""The files that the event of a run changed, in any language."""

from __future__ import annotations

import re
from collections.abc import Iterable

from loom.workflow.facts import Facts

_ZEROS = re.compile(r"0+")


def changes_since(facts: Facts, ref: str) -> Iterable[str] | None:
    """Return the files that differ from a ref: the remote's branch, as CI sees it, else whatever git calls so here."""
    branch = ref.removeprefix("refs/heads/")
    for name in (f"refs/remotes/origin/{branch}", ref):
        if (changed := facts.changed(name)) is not None:
            return changed
    return None


def event_changes(facts: Facts) -> Iterable[str] | None:
    """Return the files that the pipeline's event changed; None for an event without changes, such as a new branch or a tag."""
    if facts.changes_base is not None:
        return facts.changed(None)
    values = facts.predefined
    source = values.get("CI_PIPELINE_SOURCE")
    if source == "merge_request_event":
        target = values.get("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
        return changes_since(facts, target) if target else None
    before = values.get("CI_COMMIT_BEFORE_SHA", "")
    if source != "push" or values.get("CI_COMMIT_TAG") or _ZEROS.fullmatch(before):
        return None
    return facts.changed(before) if before else facts.changed(None)
