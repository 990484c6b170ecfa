"""Globs of `changes` and `exists`, and what counts as changed for an event."""

from collections.abc import Mapping

import pytest

from loom.workflow import changes
from loom.workflow.gitlab import paths
from tests.support.gitlab import MERGE_REQUEST, PUSH, SCHEDULE, TAG, facts


@pytest.mark.parametrize(
    ("glob", "path", "expected"),
    [
        ("a.py", "a.py", True),
        ("a.py", "src/a.py", False),
        ("*.py", "a.py", True),
        ("*.py", "src/a.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "src/x/a.py", True),
        ("src/**/*", "src/a.py", True),
        ("src/**/*", "src/x/y/a.py", True),
        ("src/**", "src/a.py", True),
        ("src/**", "src/x/a.py", False),
        ("src/*", "src/.hidden", True),
        ("src/**.py", "src/x/a.py", False),
        ("src/", "src/a.py", False),
        ("src", "src/a.py", False),
        ("./a.py", "a.py", False),
        ("/a.py", "a.py", False),
        ("{a,b}.py", "b.py", True),
        ("*.{py,md}", "x.md", True),
        ("[ab].py", "b.py", True),
        ("[^ab].py", "b.py", False),
        ("?.py", "b.py", True),
        ("", "a.py", False),
    ],
)
def test_globs_match_as_in_ruby(glob: str, path: str, expected: bool) -> None:
    assert paths.any_of([glob], [path]) is expected


NEW_BRANCH = {**PUSH, "CI_COMMIT_BEFORE_SHA": "0" * 40}


@pytest.mark.parametrize(
    ("predefined", "base", "asked", "expected"),
    [
        (PUSH, None, ["1" * 40], False),
        (NEW_BRANCH, None, [], True),
        (TAG, None, [], True),
        (SCHEDULE, None, [], True),
        (SCHEDULE, "main", [None], False),
        (MERGE_REQUEST, None, ["refs/remotes/origin/main"], False),
        ({**PUSH, "CI_COMMIT_BEFORE_SHA": ""}, None, [None], False),
    ],
)
def test_what_an_event_changed(
    predefined: Mapping[str, str], base: str | None, asked: list[str | None], expected: bool
) -> None:
    seen: list[str | None] = []

    def changed(since: str | None) -> list[str]:
        seen.append(since)
        return ["other"]

    found = changes.event_changes(facts(predefined, changed=changed, base=base))
    assert paths.any_changed(found, ["*.py"]) is expected
    assert seen == asked
