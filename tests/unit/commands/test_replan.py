"""What a changed workflow means for a run that goes on: the pure parts; the commands are in tests/unit/record/test_resume.py."""

from typing import Any

import pytest
from msgspec.structs import replace

from loom.commands.plan.replan import first_change, step_now
from loom.plan.model import Artifacts, Image, Job, Resources, Service, Step


def steps(*scripts: str) -> tuple[Step, ...]:
    """`after: x` is a step of `after_script`; each has a line of its own in the workflow."""
    found: list[Step] = []
    for line, script in enumerate(scripts, start=1):
        phase: Any = "after_script" if script.startswith("after: ") else "script"
        number = len([step for step in found if step.phase == phase]) + 1
        found.append(Step(phase=phase, number=number, script=script, file="w.yml", line=line))
    return tuple(found)


JOB = Job(
    id="unit",
    name="unit",
    stage="test",
    steps=steps("one", "two", "after: tidy"),
    provider="docker",
    image=Image(name="debian:trixie-slim"),
    resources=Resources(memory=1, sources={"memory": "w.yml:7"}),
    services=(Service(name="db", aliases=("db",), image=Image(name="db"), position="w.yml:9"),),
)


@pytest.mark.parametrize(
    ("change", "before", "expected"),
    [
        ({}, None, None),
        ({"steps": steps("one", "changed", "more", "after: tidy")}, "script/02", None),
        ({"steps": steps("one", "changed", "after: tidy")}, None, "step script/02 (w.yml:2)"),
        ({"steps": steps("zero", "two", "after: tidy")}, "script/02", "step script/01 (w.yml:1)"),
        ({"steps": steps("one", "two", "after: tidy", "after: more")}, None, "step after_script/02 (w.yml:4)"),
        ({"timeout_s": 9.0, "stage": "other", "artifacts": Artifacts(paths=("x",))}, "script/02", None),
        ({"artifacts": Artifacts(paths=("x",))}, None, "artifacts"),
        ({"image": Image(name="other")}, "script/02", "image"),
        ({"privileged": True}, "script/02", "privileged"),
        ({"resources": Resources(memory=1, sources={"memory": "w.yml:8"})}, None, None),
        ({"resources": Resources(memory=2)}, None, "resources"),
        ({"services": (replace(JOB.services[0], position="w.yml:10"),)}, None, None),
        ({"services": ()}, None, "services"),
    ],
)
def test_the_first_part_that_changed(change: dict[str, Any], before: str | None, expected: str | None) -> None:
    assert first_change(JOB, replace(JOB, **change), before=before) == (expected or "")


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (steps("one", "mended", "after: tidy"), "mended"),
        (steps("one", "after: tidy"), None),
        (steps("one"), None),
    ],
)
def test_the_step_in_the_place_of_the_failing_one(now: tuple[Step, ...], expected: str | None) -> None:
    found = step_now(JOB, replace(JOB, steps=now), JOB.steps[1])
    assert (None if found is None else found.script) == expected
