"""Files of any content: planned, or refused with a message; never a traceback."""

import contextlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import LoomError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.util.jsons import encode_file
from loom.workflow import dialects
from loom.workflow.github import keywords
from tests.support.effort import fuzzed

KEYS = sorted({part for one in (*keywords.JOB, *keywords.ROOT_KEYWORDS) for part in one.name.split(":")})
GOOD: dict[str, Any] = {
    "runs-on": "ubuntu-latest",
    "needs": ["one"],
    "if": "github.ref == 'x' && always()",
    "env": {"A": "${{ github.actor }}"},
    "strategy": {"matrix": {"v": [1, "x"], "include": [{"v": 1, "w": {"a": [1]}}], "exclude": [{"v": "x"}]}},
    "container": {"image": "node:${{ matrix.v }}", "options": "--user 1 --cpus 2"},
    "services": {"db": {"image": "postgres", "ports": ["5432:5432"], "options": "--health-cmd x"}},
    "timeout-minutes": "${{ matrix.v }}",
    "concurrency": {"group": "${{ github.ref }}"},
    "environment": "prod",
    "outputs": {"o": "${{ steps.a.outputs.o }}"},
    "uses": "./.github/workflows/called.yml",
    "with": {"x": "${{ needs.one.outputs.o }}"},
    "secrets": "inherit",
    "continue-on-error": "${{ matrix.v == 1 }}",
    "defaults": {"run": {"shell": "sh"}},
    "steps": [{"uses": "./act", "with": {"a": 1}}, {"run": "echo ${{ secrets.A }}", "id": "a"}, {"uses": "a/b@v1"}],
}
VALUES = (
    *(
        "x",
        "${{ 1 }}",
        "${{ null }}",
        "${{ fromJSON('[]') }}",
        "${{ fromJSON('{}') }}",
        "${{ github }}",
        "${{ nope.x }}",
    ),
    *(
        "${{ matrix.*.x }}",
        "${{ needs.one.result }}",
        "${{",
        "}}",
        "${{ format('{0', 1) }}",
        "inherit",
        "ubuntu-latest",
    ),
    *(
        "windows-latest",
        "self-hosted",
        "./act",
        "a/b@c",
        "docker://x",
        "**/*",
        "!x",
        "[",
        "?",
        "8080:80",
        "--user",
        "one",
    ),
    *("", "é", 1, 0, -3, 1.5, True, None, [], {}, 99999999999999999999, float("inf"), float("nan")),
)
OF_CALL = {"uses", "with", "secrets"}
BOTH = {"needs", "if", "strategy", "concurrency"}
CALLED = {
    "on": {
        "workflow_call": {"inputs": {"x": {"type": "string"}}, "outputs": {"o": {"value": "${{ jobs.a.outputs.o }}"}}}
    },
    "jobs": {"a": {"runs-on": "x", "steps": [{"run": "echo ${{ inputs.x }}"}]}},
}
ACTION = {
    "inputs": {"a": {"default": "${{ github.job }}"}},
    "runs": {"using": "composite", "steps": [{"run": "x", "shell": "sh"}]},
}


def value(some: random.Random, depth: int = 0) -> Any:
    kind = some.random()
    if depth > 3 or kind < 0.45:
        return some.choice(VALUES)
    if kind < 0.65:
        return [value(some, depth + 1) for _ in range(some.randint(0, 3))]
    return {some.choice([*KEYS, "A", "B", 1]): value(some, depth + 1) for _ in range(some.randint(0, 4))}


def workflow(some: random.Random) -> dict[str, Any]:
    on = some.choice(["push", ["push", "pull_request"], {"push": {"branches": ["**"]}, "workflow_dispatch": None}])
    content: dict[str, Any] = {"on": on, "jobs": {}}
    for name in ("one", "two", "three"):
        job = content["jobs"][name] = {"runs-on": "ubuntu-latest", "steps": [{"run": "x"}]}
        for _ in range(some.randint(0, 4)):
            key = some.choice([*GOOD] * 40 + KEYS)
            job[key] = GOOD[key] if key in GOOD and some.random() < 0.95 else value(some, 1)
        if name == "one":
            job.pop("needs", None)
        content["jobs"][name] = {key: job[key] for key in job if ("uses" in job) is (key in OF_CALL) or key in BOTH}
    if some.random() < 0.3:
        content[some.choice(["on", "env", "defaults", "concurrency", "permissions", "jobs"])] = value(some, 1)
    return content


def changed(some: random.Random, content: dict[str, Any]) -> dict[str, Any]:
    """The content with another value somewhere, now and then."""
    if some.random() < 0.3:
        at: Any = content
        while isinstance(at, dict) and at and some.random() < 0.7:
            key = some.choice([*at])
            if not isinstance(at[key], dict):
                break
            at = at[key]
        if isinstance(at, dict):
            at[some.choice([*at, *KEYS])] = value(some, 1)
    return content


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


@fuzzed(200)
@given(seed=st.integers(0, 2**32))
@pytest.mark.slow
def test_any_file_is_planned_or_refused(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    some, root = random.Random(seed), tmp_path_factory.getbasetemp() / "hostile"
    folder = root / ".github/workflows"
    write(folder / "ci.yml", workflow(some))
    write(folder / "called.yml", changed(some, msgspec.json.decode(msgspec.json.encode(CALLED))))
    write(root / "act/action.yml", changed(some, msgspec.json.decode(msgspec.json.encode(ACTION))))
    event = some.choice(["push", "pull_request", "workflow_dispatch", "schedule"])
    payload = value(some) if some.random() < 0.2 else {}
    known = {"LOOM_EVENT": event, "CI_COMMIT_BRANCH": "main", "CI_COMMIT_SHA": "a" * 40}
    context = ResolveContext(predefined=known, event_payload=payload if isinstance(payload, dict) else {})
    with contextlib.suppress(LoomError):
        loaded = dialects.load(folder, root, lambda: context)
        with contextlib.suppress(LoomError):
            rehearse(loaded)
        plan = resolve(loaded, JobSelection(container=True), context)
        assert msgspec.json.decode(encode_file(plan), type=Plan).jobs
