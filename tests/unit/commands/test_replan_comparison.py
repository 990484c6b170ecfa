"""The first part of a job that differs decides whether its steps have to run again."""

from typing import Any

import pytest
from msgspec.structs import replace

from loom.commands.plan.replan import first_change
from loom.plan.model import Artifacts, Image, Job, Resources, Service, Step


def step(number: int, script: str, phase: str = "script") -> Step:
    return Step(phase=phase, number=number, script=script, file="w.yml", line=10 + number)


STEPS = (step(1, "a"), step(2, "b"))
JOB = Job(id="j", name="j", stage="s", provider="docker", steps=STEPS, image=Image(name="debian"))
SERVICE = Service(name="db", aliases=("db",), image=Image(name="db"), position="w.yml:3")


def changed(old: Job = JOB, before: str | None = None, **fields: Any) -> str:
    return first_change(old, replace(old, **fields), before=before)


@pytest.mark.parametrize(
    ("fields", "change", "before_2"),
    [
        ({}, "", ""),
        ({"steps": (STEPS[0], step(2, "x"))}, "step script/02 (w.yml:12)", ""),
        ({"steps": (replace(STEPS[0], script="x", line=99), STEPS[1])}, "step script/01 (w.yml:99)", "step script/01 (w.yml:99)"),
        ({"steps": (replace(STEPS[0], phase="before_script"), STEPS[1])}, "step script/01 (w.yml:11)", "step script/01 (w.yml:11)"),
        ({"steps": STEPS[:1]}, "step script/02 (w.yml:12)", ""),
        ({"steps": ()}, "step script/01 (w.yml:11)", "step script/01 (w.yml:11)"),
        ({"steps": (*STEPS, step(3, "c"))}, "step script/03 (w.yml:13)", ""),
        ({"steps": tuple(replace(one, line=50) for one in STEPS)}, "", ""),
        ({"image": Image(name="other")}, "image", "image"),
        ({"variables": {"A": "b"}}, "variables", "variables"),
        ({"artifacts": Artifacts(paths=("a",))}, "artifacts", ""),
        ({"resources": Resources(memory=1 << 30)}, "resources", "resources"),
        ({"resources": Resources(sources={"memory": "w.yml:9"})}, "", ""),
        ({"services": (SERVICE,)}, "services", "services"),
    ],
)  # fmt: skip
def test_the_first_change(fields: dict[str, Any], change: str, before_2: str) -> None:
    assert changed(**fields) == change
    assert changed(before="script/02", **fields) == before_2


def test_some_fields_may_differ() -> None:
    served = replace(JOB, services=(SERVICE,))
    assert changed(served, services=(replace(SERVICE, position="w.yml:7"),)) == ""
    assert changed(served, services=(replace(SERVICE, user="x"),)) == "services"
