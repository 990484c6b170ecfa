"""Jobs that are decided when they start: conditions, results and outputs of those before them, matrices."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.plan.late import LateCaller, LateNeed
from loom.plan.model import Image, Plan
from loom.record.saved_plan import load_planned
from loom.runner.late.jobs import LateJobs
from tests.unit.runner.conftest import Make

from .plans import job, run, states, step

M = {"v": "${{ steps.s.outputs.m }}"}


def test_outputs_and_results_of_jobs_reach_those_that_need_them(make: Make) -> None:
    ran = run(
        make,
        job("a", step("echo v=1 >>$GITHUB_OUTPUT", id="s"), outputs={"v": "${{ steps.s.outputs.v }}"}),
        job("b", step("echo ${{ needs.a.outputs.v }} ${{ needs.a.result }}"), needs={"a": ["a"]}),
        job("c", needs={"a": ["a"]}, condition="needs.a.outputs.v == '2'"),
        job("d", needs={"c": ["c"]}),
        job(
            "e",
            step("echo ${{ needs.c.result }}"),
            needs={"c": ["c"]},
            condition="always() && needs.c.result == 'skipped'",
        ),
    )
    assert ran.statuses == {"a": "success", "b": "success", "c": "skipped", "d": "skipped", "e": "success"}
    assert (ran.lines("b"), ran.lines("e")) == (["1 success"], ["skipped"])
    assert ran.error("c") == "if: needs.a.outputs.v == '2'"
    assert ran.error("d") == "c did not succeed"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ("", "skipped"),
        ("failure()", "success"),
        ("success()", "skipped"),
        ("always()", "success"),
        ("!cancelled()", "success"),
        ("failure('b')", "skipped"),
        ("cancelled()", "skipped"),
    ],
)
def test_status_functions_look_at_all_jobs_before(make: Make, condition: str, status: str) -> None:
    ran = run(
        make,
        job("a", step("exit 1")),
        job("b", needs={"a": ["a"]}, condition="always()"),
        job("c", needs={"b": ["b"]}, condition=condition),
        code=1,
    )
    assert ran.statuses == {"a": "failure", "b": "success", "c": status}


def test_a_job_that_may_fail_counts_as_success(make: Make) -> None:
    ran = run(
        make,
        job("a", step("exit 1"), continue_on_error="${{ matrix.may }}", contexts={"matrix": {"may": True}}),
        job("b", step("echo ${{ needs.a.result }}"), needs={"a": ["a"]}),
    )
    assert (ran.statuses, ran.lines("b")) == ({"a": "failure?", "b": "success"}, ["success"])


def test_the_first_failure_of_a_matrix_ends_the_others(make: Make, tmp_path: Path) -> None:
    failing = job("m.1", step(f"until [ -e {tmp_path}/up ]; do sleep 0.02; done; exit 1"), group="m")
    waiting = job(
        "m.2", step(f"touch {tmp_path}/up; sleep 100", id="s"), step("echo c", condition="cancelled()"), group="m"
    )
    after = job("after", step("echo ${{ needs.m.result }}"), needs={"m": ["m.1", "m.2"]}, condition="always()")
    ran = run(make, failing, waiting, after, code=1, jobs=2)
    assert ran.statuses == {"m.1": "failure", "m.2": "canceled", "after": "success"}
    assert states(ran, "m.2") == {"01": "cancelled", "02": "success"}
    assert ran.lines("after") == ["failure"]


def test_jobs_of_a_matrix_that_have_not_started_do_not_after_a_failure(make: Make) -> None:
    jobs = [job(f"m.{n}", step("exit 1"), group="m", max_parallel=1) for n in (1, 2)]
    ran = run(make, *jobs, code=1, jobs=2)
    assert ran.statuses == {"m.1": "failure", "m.2": "canceled"}


def test_a_matrix_without_fail_fast_goes_on(make: Make) -> None:
    jobs = [job(f"m.{n}", step(f"exit {n - 1}"), group="m", max_parallel=1, fail_fast=False) for n in (2, 1)]
    assert run(make, *jobs, code=1, jobs=2).statuses == {"m.2": "failure", "m.1": "success"}


def test_a_called_workflow_has_inputs_and_outputs(make: Make) -> None:
    first = job("first", step("echo v=x >>$GITHUB_OUTPUT", id="s"), outputs={"v": "${{ steps.s.outputs.v }}"})
    caller = LateCaller(
        condition="needs.first.outputs.v == 'x'",
        needs=(LateNeed(name="first", jobs=("first",)),),
        inputs={"given": "${{ needs.first.outputs.v }}y", "flag": True},
    )
    inner = job(
        "call.in",
        step("echo ${{ inputs.given }} ${{ inputs.flag }}; echo w=${{ inputs.given }} >>$GITHUB_OUTPUT", id="s"),
        outputs={"w": "${{ steps.s.outputs.w }}"},
        caller=caller,
        needs={},
    )
    inner = replace(inner, needs=(first_need := job("x", needs={"first": ["first"]}).needs or ()))
    assert first_need
    last = job("last", step("echo ${{ needs.call.outputs.o }} ${{ needs.call.result }}"), needs={"call": ["call.in"]})
    assert last.late is not None
    inside = (LateNeed(name="in", jobs=("call.in",)),)
    need = LateNeed(name="call", jobs=("call.in",), inside=inside, outputs={"o": "${{ jobs.in.outputs.w }}!"})
    last = replace(last, late=replace(last.late, needs=(need,)))
    ran = run(make, first, inner, last)
    assert ran.lines("call.in") == ["xy true"]
    assert ran.lines("last") == ["xy! success"]


def test_an_expression_that_is_invalid_fails_its_job(make: Make) -> None:
    ran = run(make, job("a", condition="fromJSON('{')"), job("b"), code=1)
    assert ran.statuses == {"a": "failure", "b": "success"}
    assert "not valid JSON" in ran.error("a")


def test_a_job_becomes_several_by_the_output_of_another(make: Make) -> None:
    first = job(
        "first", step('echo \'m={"n": [1, 2], "include": [{"n": 2, "x": "y"}]}\' >>$GITHUB_OUTPUT', id="s"), outputs=M
    )
    strategy = {"fail-fast": "${{ false }}", "max-parallel": 1, "matrix": "${{ fromJSON(needs.first.outputs.v) }}"}
    many = job(
        "many",
        step(
            "echo ${{ matrix.n }}${{ matrix.x }} ${{ strategy.job-index }}/${{ strategy.job-total }}; test ${{ matrix.n }} = 1"
        ),
        needs={"first": ["first"]},
        strategy=strategy,
        group="many",
        outputs={"o": "${{ matrix.n }}"},
    )
    after = job("after", step("echo ${{ needs.many.result }}"), needs={"many": ["many"]}, condition="always()")
    ran = run(make, first, many, after, code=1, jobs=1)
    assert ran.statuses == {"first": "success", "after": "success", "many.1": "success", "many.2-y": "failure"}
    assert (ran.lines("many.1"), ran.lines("many.2-y"), ran.lines("after")) == (["1 0/2"], ["2y 1/2"], ["failure"])
    planned = load_planned(ran.reading.paths.plan).plan
    assert [each.id for each in planned.jobs] == ["first", "many.1", "many.2-y", "after"]
    assert [need.job for need in planned.job("after").needs or ()] == ["many.1", "many.2-y"]
    assert planned.job("many.2-y").matrix == {"n": "2", "x": "y"}


def test_a_matrix_may_have_lists_names_and_mappings_from_expressions(make: Make) -> None:
    first = job("first", step("echo 'm=[1, 2]' >>$GITHUB_OUTPUT", id="s"), outputs={**M, "name": "n"})
    value, insert = "${{ fromJSON(needs.first.outputs.v) }}", "${{ fromJSON('{\"z\": 9}') }}"
    matrix = {"${{ needs.first.outputs.name }}": [value, 3], "o": [{"x": 1, "${{ insert }}": insert}]}
    many = job(
        "many",
        step("echo ${{ matrix.n }} ${{ matrix.o.x }}${{ matrix.o.z }}"),
        needs={"first": ["first"]},
        strategy={"matrix": matrix},
        group="many",
    )
    ran = run(make, first, many)
    lines = [ran.lines(f"many.{n}-1-9")[0] for n in (1, 2, 3)]
    assert lines == ["1 19", "2 19", "3 19"]


@pytest.mark.parametrize(("value", "why"), [("[]", "no combination"), ("{", "not valid JSON"), ("3", "not a list")])
def test_a_matrix_that_is_none_fails_the_job(make: Make, value: str, why: str) -> None:
    first = job("first", step(f"echo 'm={value}' >>$GITHUB_OUTPUT", id="s"), outputs=M)
    strategy = {"matrix": {"n": "${{ fromJSON(needs.first.outputs.v) }}"}}
    ran = run(make, first, job("many", needs={"first": ["first"]}, strategy=strategy, group="many"), code=1)
    assert ran.statuses == {"first": "success", "many": "failure"}
    assert why in ran.error("many")


@pytest.mark.parametrize(
    ("label", "image", "reason"),
    [
        ("ubuntu-latest", "default", ""),
        ("Big", "big:1", ""),
        ("windows-latest", None, "its label windows-latest is of Windows; jobs run on Linux here"),
    ],
)
def test_labels_that_only_a_run_knows_choose_the_image(label: str, image: str | None, reason: str) -> None:
    one = replace(
        job("one", runs_on="${{ matrix.os }}", contexts={"matrix": {"os": label}}), image=Image(name="default")
    )
    plan = Plan(workflow_path="w", stages=("jobs",), jobs=(one,))
    start = LateJobs(plan, {}, Cancel(), {"big": "big:1"}).begin(one)
    assert start.reason == reason
    assert image is None or (start.job.image is not None and start.job.image.name == image)
