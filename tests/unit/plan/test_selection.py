"""What a selection leaves out and how it says so, and the order of jobs."""

import pytest

from loom.errors import RequestError
from loom.plan.candidates import Candidate, sort_by_plan
from loom.plan.model import JobSelection, NotSelected, Plan
from loom.plan.selection import Choice, held_back
from loom.workflow.rules import decision
from tests.support.gitlab import entry


def candidates(count: int) -> list[Candidate]:
    return [
        Candidate(
            id=f"j{number}",
            name=f"j{number}",
            stage="test",
            entry=entry("{}"),
            matrix={},
            decision=decision("on_success"),
            wanted=None,
            base_when=None,
        )
        for number in range(count)
    ]


def test_jobs_that_need_each_other_keep_the_order_of_the_file() -> None:
    found = sort_by_plan(["b", "a"], {"x": "a", "y": "a", "z": "b"}, {"x": ["y"], "y": ["x"]})
    assert list(found) == ["z", "x", "y"]


@pytest.mark.parametrize(("count", "told"), [(10, "j9 (why)"), (11, "j9, and 1 more (why)")])
def test_only_the_first_of_many_jobs_that_are_left_out_are_named(count: int, told: str) -> None:
    left = tuple(NotSelected(id=f"j{number}", reason="because", held="why") for number in range(count))
    (line,) = held_back(Plan(workflow_path="w", stages=(), jobs=(), left_out=left))
    assert line.startswith("left out: j0, j1,")
    assert line.endswith(told)


@pytest.mark.parametrize(("count", "told"), [(20, "j19."), (21, "j19, and 1 more.")])
def test_only_the_first_of_many_jobs_are_suggested(count: int, told: str) -> None:
    for name, begins in (
        ("x*", "The jobs are j0, "),
        ("J", "Jobs with that in their name: j0, "),
        ("xyz", "The jobs are j0, "),
    ):
        with pytest.raises(RequestError) as caught:
            Choice(["test"], JobSelection(jobs=(name,))).select(candidates(count))
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(begins)
        assert caught.value.hint.endswith(told)
