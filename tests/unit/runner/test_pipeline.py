"""Which builds need a copy of the files that they are made from, since jobs write before or beside them."""

import pytest

from loom.plan.model import Build, Image, Job, Need, Plan, Service, Step
from loom.runner.pipeline import builds_after_writers

BUILD = Build()


def job(name: str, stage: str, *, built: bool = False, needs: list[str] | None = None, service: bool = False) -> Job:
    return Job(
        id=name,
        name=name,
        stage=stage,
        steps=(Step(phase="script", number=1, script="true"),),
        provider="docker",
        image=Image(build=BUILD) if built else Image(name="debian"),
        services=(Service(name="db", aliases=("db",), image=Image(build=BUILD)),) if service else (),
        needs=None if needs is None else tuple(Need(job=need) for need in needs),
    )


@pytest.mark.parametrize(
    ("jobs", "done", "kept"),
    [
        ([job("a", "one", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "one")], (), True),
        ([job("a", "one"), job("b", "two", built=True)], (), True),
        ([job("a", "one"), job("b", "two", built=True)], ("a",), False),
        ([job("a", "one"), job("b", "two", service=True)], (), True),
        ([job("a", "one", built=True), job("b", "one", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "two"), job("c", "two", built=True)], (), False),
        ([job("a", "one", built=True), job("b", "two", needs=[]), job("c", "two", built=True)], (), True),
        ([job("a", "one", built=True), job("b", "two", needs=["a"])], (), False),
        ([job("a", "one"), job("b", "two", needs=[], built=True)], (), True),
    ],
)
def test_a_build_keeps_its_files_when_something_may_write_before_it(
    jobs: list[Job], done: tuple[str, ...], *, kept: bool
) -> None:
    plan = Plan(workflow_path="w.yml", stages=("one", "two"), jobs=tuple(jobs))
    assert builds_after_writers(plan, {one.id for one in jobs}, done) == ([BUILD] if kept else [])
    assert builds_after_writers(plan, set(), done) == []
