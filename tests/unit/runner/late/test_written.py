"""What a step becomes whose action another step has written, in the cases that no run reaches by itself."""

from __future__ import annotations

import pytest

from loom.plan.github.actions import BadAction
from loom.plan.model import Step
from loom.runner.late.written import become

from .plans import job, step


def of(script: str, files: dict[str, bytes]) -> tuple[Step, ...]:
    one = job("one", step("echo"), step(script, kind="written", env={"E": "1"}), step("echo"))
    return become(one, one.steps[1], lambda path: files[path])


def test_a_container_of_a_registry_needs_no_file() -> None:
    (step_,) = of("docker://alpine:3", {})
    assert step_.late is not None
    assert step_.late.action is not None
    assert (step_.late.kind, step_.late.of) == ("docker", "script/02")
    assert (step_.late.action.using, step_.late.action.image) == ("docker", "docker://alpine:3")
    assert (step_.number, step_.line, step_.late.env) == (2, 2, {"E": "1"})


@pytest.mark.parametrize(
    ("uses", "why"),
    [
        ("a/b@v1", "a/b@v1: loom fetches no action for one that a step has written; use it in the workflow"),
        ("{uses: actions/checkout@v4, with: {Repository: a/b}}", "an action that a step has written can't fetch one"),
    ],
)
def test_what_a_written_action_may_not_use(uses: str, why: str) -> None:
    steps = uses if uses.startswith("{") else f"{{uses: {uses}}}"
    text = f"runs: {{using: composite, steps: [{steps}]}}"
    with pytest.raises(BadAction) as error:
        of("./made", {"made/action.yml": text.encode()})
    assert why in str(error.value)
