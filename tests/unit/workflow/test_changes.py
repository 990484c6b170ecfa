"""The base of `changes`: the event's own, or the ref that a rule names."""

from collections.abc import Iterable, Mapping

import pytest

from loom.workflow import changes
from loom.workflow.gitlab import rules
from loom.workflow.messages import Problems
from tests.support.gitlab import MERGE_REQUEST, PUSH, SCHEDULE, TAG, entry, facts, scope

ORIGIN = "refs/remotes/origin/main"
BEFORE = {"CI_COMMIT_BEFORE_SHA": "1" * 40}


class Asked:
    """Remembers the bases that were asked for; git knows those in `known`."""

    def __init__(self, *known: str | None) -> None:
        self.known = known
        self.bases: list[str | None] = []

    def __call__(self, base: str | None) -> Iterable[str] | None:
        self.bases.append(base)
        return ["a"] if base in self.known else None


@pytest.mark.parametrize(
    ("values", "base", "bases"),
    [
        (PUSH, None, ["1" * 40]),
        (PUSH, "x", [None]),
        (TAG, "x", [None]),
        (TAG, None, []),
        ({**PUSH, **BEFORE, "CI_COMMIT_TAG": "v1"}, None, []),
        ({**PUSH, "CI_COMMIT_BEFORE_SHA": "0" * 40}, None, []),
        ({"CI_PIPELINE_SOURCE": "push"}, None, [None]),
        (SCHEDULE, None, []),
        ({**BEFORE}, None, []),
        (MERGE_REQUEST, None, [ORIGIN, "main"]),
        ({"CI_PIPELINE_SOURCE": "merge_request_event", **BEFORE}, None, []),
    ],
)
def test_an_event_has_a_base_of_its_own(values: Mapping[str, str], base: str | None, bases: list[str | None]) -> None:
    asked = Asked()
    assert changes.event_changes(facts(values, changed=asked, base=base)) is None
    assert asked.bases == bases
    if bases:
        assert changes.event_changes(facts(values, changed=Asked(bases[-1]), base=base)) == ["a"]


@pytest.mark.parametrize("ref", ["main", "refs/heads/main"])
def test_a_ref_is_the_remotes_branch_else_what_git_calls_so(ref: str) -> None:
    asked = Asked(ORIGIN, ref)
    assert changes.changes_since(facts(changed=asked), ref) == ["a"]
    assert asked.bases == [ORIGIN]
    asked = Asked(ref)
    assert changes.changes_since(facts(changed=asked), ref) == ["a"]
    assert asked.bases == [ORIGIN, ref]


def test_a_rule_names_its_base_by_a_variable() -> None:
    asked = Asked(ORIGIN)
    text = "{rules: [{changes: {paths: [$A], compare_to: $B}}]}"
    own = rules.GitLabRules(scope(A="a", B="$CI_DEFAULT_BRANCH"), facts(changed=asked), Problems())
    found = own.decide(entry(text), global_rules=False)
    assert (found.when, asked.bases) == ("on_success", [ORIGIN])
