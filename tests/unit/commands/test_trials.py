"""The facts of `loom reproduce --try`, and the plan with each."""

import pytest

from loom.commands.again.trials import facts_of
from loom.errors import RequestError
from loom.plan.model import Image, Job, Plan

JOB = Job(id="a", name="a", stage="s", steps=(), provider="docker", image=Image(name="old"), variables={"A": "1"})
PLAN = Plan(workflow_path="w", stages=("s",), jobs=(JOB,))


def test_each_fact_changes_the_job_alone() -> None:
    cpus, memory, zone, image = (
        fact.applied(PLAN, "a").job("a")
        for fact in facts_of(["known", "TZ=Asia/Tokyo", "image=new@sha256:ab"], "2 CPUs, 8 GB")
    )
    assert (cpus.resources.cpus, cpus.resources.memory) == (2, None)
    assert (memory.resources.cpus, memory.resources.memory) == (None, 8 << 30)
    assert (zone.variables, zone.image) == ({"A": "1", "TZ": "Asia/Tokyo"}, JOB.image)
    assert image.image is not None
    assert image.image.name == "new@sha256:ab"


@pytest.mark.parametrize(
    "text",
    [
        *("known", "TZ", "=x", "1A=x", "cpus=many", "cpus=0", "memory=some", "network=host"),
        *("depth=-1", "depth=20", "order=a,none", "unset=NONE"),
    ],
)
def test_what_is_no_fact_is_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(RequestError, match="--try"):
        _ = [fact.applied(PLAN, "a") for fact in facts_of([text], "", "20")]
