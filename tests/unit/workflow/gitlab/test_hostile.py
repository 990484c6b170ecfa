"""Files of any content: compiled, or refused with a message; never a traceback."""

import contextlib
import random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import LoomError
from loom.plan.model import JobSelection, Plan
from loom.plan.resolve import rehearse, resolve
from loom.workflow import dialects
from loom.workflow.gitlab import keywords
from tests.support.effort import fuzzed
from tests.support.gitlab import MERGE_REQUEST, PUSH, TAG, facts

KEYS = sorted({part for one in (*keywords.JOB, *keywords.ROOT_KEYWORDS) for part in one.name.split(":")})
GOOD: dict[str, Any] = {
    "rules": [{"if": "$CI"}],
    "needs": ["one"],
    "parallel": 2,
    "variables": {"A": "$B"},
    "extends": ".base",
    "artifacts": {"paths": ["x"], "reports": {"dotenv": "a.env"}},
    "when": "manual",
    "environment": {"name": "e", "url": "$A"},
    "image": "debian:$A",
    "only": ["main"],
    "retry": 2,
}
VALUES = (
    *("x", "$A", "${B}", '$A == "b"', "$A =~ /x/", "/(/", "1 day", "never", "delayed", "one", ".base", ".pre", "**/*"),
    *("", "é", "$[[ matrix.A ]]", "local.yml", 1, 0, -3, 1.5, True, None, [], {}, 99999999999999999999),
)


def value(some: random.Random, depth: int = 0) -> Any:
    kind = some.random()
    if depth > 3 or kind < 0.45:
        return some.choice(VALUES)
    if kind < 0.65:
        return [value(some, depth + 1) for _ in range(some.randint(0, 3))]
    return {some.choice([*KEYS, "A", "B"]): value(some, depth + 1) for _ in range(some.randint(0, 4))}


def text(some: random.Random) -> str:
    content: dict[str, Any] = {"variables": {"A": some.choice(VALUES)}} if some.random() < 0.3 else {}
    for name in ("one", "two", ".base", "and three"):
        content[name] = {"script": ["x"]}
        for _ in range(some.randint(0, 3)):
            key = some.choice([*GOOD] * 4 + KEYS)
            content[name][key] = GOOD[key] if key in GOOD and some.random() < 0.8 else value(some, 1)
    if some.random() < 0.2:
        content[some.choice(["workflow", "default", "stages", "include", "spec"])] = value(some, 1)
    return yaml.safe_dump(content, allow_unicode=True, sort_keys=False)


@fuzzed(200)
@given(seed=st.integers(0, 2**32))
@pytest.mark.slow
def test_any_file_is_compiled_or_refused(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    some = random.Random(seed)
    path = tmp_path_factory.getbasetemp() / ".gitlab-ci.yml"
    context = facts((PUSH, TAG, MERGE_REQUEST)[seed % 3], changed=lambda _: ["src/x"], files=["a.py"])
    path.write_text(text(some))
    with contextlib.suppress(LoomError):
        loaded = dialects.load(path, path.parent, lambda: context)
        with contextlib.suppress(LoomError):
            rehearse(loaded)
        assert isinstance(resolve(loaded, JobSelection(container=True), context), Plan)
