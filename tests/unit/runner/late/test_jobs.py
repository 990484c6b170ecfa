"""Jobs that are decided when they start: conditions, results and outputs of those before them, matrices."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.plan.github.late_jobs import LateJobs, Start
from loom.plan.late import LateCaller, LateNeed
from loom.plan.model import Image, Job, Plan
from loom.record.run import load_run
from loom.status import JobResult, Status
from tests.unit.runner.conftest import Make
from tests.unit.runner.test_faults import Watching

from .plans import job, run, states, step

M = {"v": "${{ steps.s.outputs.m }}"}


def test_outputs_and_results_of_jobs_reach_those_that_need_them(make: Make) -> None:
    ran = run(
        make,
        job("a", step("echo v=1 >>$GITHUB_OUTPUT", key="s"), outputs={"v": "${{ steps.s.outputs.v }}"}),
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


def test_status_functions_look_at_all_jobs_before(make: Make) -> None:
    expected = {
        "": "skipped",
        "failure()": "success",
        "success()": "skipped",
        "always()": "success",
        "!cancelled()": "success",
        "failure('b')": "skipped",
        "cancelled()": "skipped",
    }
    ran = run(
        make,
        job("a", step("exit 1")),
        job("b", needs={"a": ["a"]}, condition="always()"),
        *(job(f"c{number}", needs={"b": ["b"]}, condition=one) for number, one in enumerate(expected)),
        code=1,
    )
    assert list(ran.statuses.values()) == ["failure", "success", *expected.values()]


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
        "m.2", step(f"touch {tmp_path}/up; sleep 100", key="s"), step("echo c", condition="cancelled()"), group="m"
    )
    after = job("after", step("echo ${{ needs.m.result }}"), needs={"m": ["m.1", "m.2"]}, condition="always()")
    ran = run(make, failing, waiting, after, code=1, jobs=2)
    assert ran.statuses == {"m.1": "failure", "m.2": "canceled", "after": "success"}
    assert states(ran, "m.2") == {"01": "cancelled", "02": "success"}
    assert ran.lines("after") == ["failure"]


def at_steps(cancel: Cancel, times: int) -> list[Watching]:
    """A sink that asks for the end when a step begins, `times` times."""
    left = [cancel.request] * times
    return [Watching("step.execute", lambda: left.pop()() if left else None, kind="phase_started")]


def test_after_a_cancel_no_job_starts(make: Make) -> None:
    cancel = Cancel()
    last = job("b", step("echo"), needs={"a": ["a"]}, condition="always()")
    ran = run(make, job("a", step("sleep 100")), last, code=130, cancel=cancel, sinks=at_steps(cancel, 1))
    assert (ran.statuses, ran.error("b")) == ({"a": "canceled", "b": "skipped"}, "the run was interrupted")


def test_after_the_first_failure_of_a_run_that_it_ends_no_job_starts(make: Make) -> None:
    last = job("b", step("echo"), needs={"a": ["a"]}, condition="always()")
    ran = run(make, job("a", step("exit 1")), last, code=1, fail_fast=True)
    assert ran.statuses == {"a": "failure", "b": "skipped"}


def test_jobs_of_a_matrix_that_have_not_started_do_not_after_a_failure(make: Make) -> None:
    jobs = [job(f"m.{n}", step("exit 1"), group="m", max_parallel=1) for n in (1, 2)]
    ran = run(make, *jobs, code=1, jobs=2)
    assert ran.statuses == {"m.1": "failure", "m.2": "canceled"}


def test_a_matrix_without_fail_fast_goes_on(make: Make) -> None:
    jobs = [job(f"m.{n}", step(f"exit {n - 1}"), group="m", max_parallel=1, fail_fast=False) for n in (2, 1)]
    assert run(make, *jobs, code=1, jobs=2).statuses == {"m.2": "failure", "m.1": "success"}


def test_a_called_workflow_has_inputs_and_outputs(make: Make) -> None:
    first = job("first", step("echo v=x >>$GITHUB_OUTPUT", key="s"), outputs={"v": "${{ steps.s.outputs.v }}"})
    caller = LateCaller(
        condition="needs.first.outputs.v == 'x'",
        needs=(LateNeed(name="first", jobs=("first",)),),
        inputs={"given": "${{ needs.first.outputs.v }}y", "flag": True},
    )
    inner = job(
        "call.in",
        step("echo ${{ inputs.given }} ${{ inputs.flag }}; echo w=${{ inputs.given }} >>$GITHUB_OUTPUT", key="s"),
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
        "first", step('echo \'m={"n": [1, 2], "include": [{"n": 2, "x": "y"}]}\' >>$GITHUB_OUTPUT', key="s"), outputs=M
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
    planned = load_run(ran.reading.paths.plan).plan
    assert [each.id for each in planned.jobs] == ["first", "many.1", "many.2-y", "after"]
    assert [need.job for need in planned.job("after").needs or ()] == ["many.1", "many.2-y"]
    assert planned.job("many.2-y").matrix == {"n": "2", "x": "y"}


def test_a_matrix_may_have_lists_names_and_mappings_from_expressions(make: Make) -> None:
    first = job("first", step("echo 'm=[1, 2]' >>$GITHUB_OUTPUT", key="s"), outputs={**M, "name": "n"})
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


@pytest.mark.parametrize(
    ("value", "why"), [("[]", "matrix: n has no value"), ("{", "not valid JSON"), ("3", "not a list")]
)
def test_a_matrix_that_is_none_fails_the_job(make: Make, value: str, why: str) -> None:
    first = job("first", step(f"echo 'm={value}' >>$GITHUB_OUTPUT", key="s"), outputs=M)
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
    assert (start.reason, start.held) == (reason, "Windows" if reason else "")
    assert image is None or (start.job.image is not None and start.job.image.name == image)


@pytest.mark.parametrize(("value", "expected"), [(2.5, 120), (0.5, "0.5"), (0.0, "0"), ("10", "10"), (None, "")])
def test_a_time_limit_may_be_known_when_the_job_starts(value: object, expected: object) -> None:
    one = job("one", timeout_minutes="${{ matrix.t }}", contexts={"matrix": {"t": value}})
    start = begun(one)[1]
    if isinstance(expected, int):
        assert (start.status, start.job.timeout_s) == (Status.SUCCESS, expected)
    else:
        why = f"an expression of the job is invalid: timeout-minutes is no number of minutes: {expected}"
        assert (start.status, start.reason) == (Status.FAILURE, why)


def begun(
    *jobs: Job, ended: dict[str, JobResult] | None = None, cancel: Cancel | None = None
) -> tuple[LateJobs, Start]:
    """Return the jobs, and how the last one starts after the results of the others."""
    late = LateJobs(Plan(workflow_path="w", stages=("jobs",), jobs=jobs), ended or {}, cancel or Cancel())
    return late, late.begin(jobs[-1])


def result(status: str, **more: Any) -> JobResult:
    return JobResult(status=Status(status), **more)


@pytest.mark.parametrize(
    ("ended", "together"),
    [
        ("- -", "success"),
        ("- failure", "failure"),
        ("success skipped", "success"),
        ("skipped skipped", "skipped"),
        ("skipped canceled", "cancelled"),
        ("timed_out canceled", "failure"),
        ("success error", "failure"),
    ],
)
def test_a_need_has_one_result_of_all_its_jobs(ended: str, together: str) -> None:
    found = {name: result(status) for name, status in zip("ab", ended.split(), strict=True) if status != "-"}
    _, start = begun(job("a"), job("b"), job("c", needs={"m": ["a", "b"]}, condition="always()"), ended=found)
    assert start.needs["m"]["result"] == together


def test_an_output_is_that_of_the_last_job_that_has_it() -> None:
    found = {"a": result("success", outputs={"x": "1", "y": "1"}), "b": result("success", outputs={"x": "2", "y": ""})}
    _, start = begun(job("a"), job("b"), job("c", needs={"m": ["a", "b", "gone"]}), ended=found)
    assert start.needs["m"]["outputs"] == {"x": "2", "y": "1"}


@pytest.mark.parametrize(
    ("condition", "a", "left_out", "canceled", "why"),
    [
        ("", "success", "success", False, ""),
        ("", "failure", "success", False, "a did not succeed"),
        ("", "success", "skipped", False, "out did not succeed"),
        ("", "success", "success", True, "a job before it did not succeed"),
        ("success('a')", "success", "skipped", False, ""),
        ("success('out')", "success", "skipped", False, "if: success('out')"),
        ("failure('a')", "failure", "success", False, ""),
        ("failure('out')", "failure", "success", False, "if: failure('out')"),
        ("failure()", "failure", "success", False, ""),
        ("cancelled()", "canceled", "success", False, ""),
        ("cancelled()", "failure", "success", False, "if: cancelled()"),
        ("cancelled()", "success", "success", True, ""),
        ("always()", "failure", "skipped", True, ""),
    ],
)
def test_an_if_looks_at_the_jobs_before(condition: str, a: str, left_out: str, canceled: bool, why: str) -> None:
    last = job("c", needs={"a": ["a"]}, condition=condition)
    assert last.late is not None
    needs = (*last.late.needs, LateNeed(name="out", jobs=(), result="skipped" if left_out == "skipped" else "success"))
    cancel = Cancel()
    if canceled:
        cancel.request(None)
    last = replace(last, late=replace(last.late, needs=needs))
    assert begun(job("a"), last, ended={"a": result(a)}, cancel=cancel)[1].reason == why


def test_what_is_left_out_before_the_jobs_before_counts_too() -> None:
    middle = job("b", condition="always()")
    assert middle.late is not None
    middle = replace(middle, late=replace(middle.late, needs=(LateNeed(name="out", jobs=(), result="skipped"),)))
    last = job("c", needs={"b": ["b"]})
    assert begun(middle, last, ended={"b": result("success")})[1].reason == "a job before it did not succeed"


@pytest.mark.parametrize(
    ("outer", "inner", "why"),
    [
        ("", "", ""),
        ("false", "", "if: false"),
        ("", "inputs.a == '2'", "if: inputs.a == '2'"),
        ("", "inputs.a == '1'", ""),
    ],
)
def test_a_call_that_does_not_run_leaves_its_jobs_out(outer: str, inner: str, why: str) -> None:
    above = LateCaller(condition=outer, inputs={"a": "${{ 1 }}", "n": 3})
    caller = LateCaller(condition=inner, inputs={"b": "<${{ inputs.a }}>", "c": "${{ inputs.n }}"}, caller=above)
    _, start = begun(job("x", caller=caller))
    assert (start.reason, start.status) == (why, Status.SKIPPED if why else Status.SUCCESS)
    assert start.job.late is not None
    assert start.job.late.contexts.get("inputs") == (None if why else {"b": "<1>", "c": 3.0})


@pytest.mark.parametrize(
    ("kind", "text", "found"),
    [
        ("string", "${{ 1 }}", "1"),
        ("number", "${{ fromJSON('1') }}", 1.0),
        ("number", "${{ '1' }}", None),
        ("boolean", "${{ fromJSON('false') }}", False),
        ("boolean", "${{ 'false' }}", None),
        ("boolean", "${{ null }}", None),
    ],
)
def test_an_input_of_a_call_has_its_type(kind: str, text: str, found: object) -> None:
    _, start = begun(job("x", caller=LateCaller(inputs={"i": text}, types={"i": kind})))
    assert start.status is (Status.SUCCESS if found is not None else Status.FAILURE)
    assert start.job.late is not None
    assert start.job.late.contexts.get("inputs") == (None if found is None else {"i": found})
    assert found is not None or f"the input i is a {kind}, not '" in start.reason


def test_the_outputs_of_a_call_have_its_own_contexts() -> None:
    inside = LateNeed(name="in", jobs=("a",))
    outputs = {"o": "${{ jobs.in.outputs.x }}${{ inputs.i }}"}
    need = LateNeed(name="call", jobs=("a",), inside=(inside,), outputs=outputs, contexts={"inputs": {"i": "!"}})
    last = job("c")
    assert last.late is not None
    last = replace(last, late=replace(last.late, needs=(need,)))
    _, start = begun(job("a"), last, ended={"a": result("success", outputs={"x": "1"})})
    assert start.needs == {"call": {"result": "success", "outputs": {"o": "1!"}}}


@pytest.mark.parametrize(
    ("text", "image"), [("docker://a:${{ matrix.v }}", "a:1"), ("${{ matrix.name }}", "b"), ("", "default")]
)
def test_an_image_may_be_known_when_its_job_starts(text: str, image: str) -> None:
    made = job("x", image=text, contexts={"matrix": {"v": 1, "name": "b"}})
    assert begun(replace(made, image=Image(name="default", user="me")))[1].job.image == Image(name=image, user="me")
    assert begun(made)[1].job.image == (Image(name=image) if text else None)


@pytest.mark.parametrize(
    ("written", "may_fail"),
    [
        ("${{ matrix.a }}", True),
        ("${{ matrix.b }}", False),
    ],
)
def test_continue_on_error_may_be_known_when_the_job_starts(written: str, may_fail: bool) -> None:
    _, start = begun(job("x", continue_on_error=written, contexts={"matrix": {"a": True, "b": False}}))
    assert start.job.allow_failure.always is may_fail


@pytest.mark.parametrize(("written", "value"), [("${{ matrix.c }}", "true"), ("${{ matrix.none }}", "")])
def test_continue_on_error_that_is_no_boolean_fails_the_job(written: str, value: str) -> None:
    _, start = begun(job("x", continue_on_error=written, contexts={"matrix": {"c": "true"}}))
    assert (start.status, start.job.allow_failure.always) == (Status.FAILURE, False)
    assert f"continue-on-error: unexpected value '{value}'" in start.reason


def test_a_job_that_does_not_start_becomes_no_others() -> None:
    many = job("m", strategy={"matrix": {"n": [1]}}, group="m", condition="false")
    late, _ = begun(many)
    start, jobs = late.several(many)
    assert (start.status, start.reason, jobs) == (Status.SKIPPED, "if: false", ())
    assert late.plan.jobs == (many,)


def test_what_a_job_becomes_has_its_row_and_its_strategy() -> None:
    strategy = {"max-parallel": 2, "matrix": {"n": ["a b", ""], "include": [{"n": "z" * 200}]}}
    many = job("m", strategy=strategy, group="m", contexts={"github": {"ref": "r"}}, shown="up / m")
    late, _ = begun(job("M.a-b"), many)
    _, jobs = late.several(many)
    assert [each.late.shown for each in jobs[:2] if each.late] == ["up / m (a b)", "up / m ()"]
    assert [each.id for each in jobs] == ["m.a-b-2", "m.2", f"m.{'z' * 32}"]
    assert [each.matrix for each in jobs] == [{"n": "a b"}, {"n": ""}, {"n": "z" * 200}]
    first = jobs[0].late
    assert first is not None
    assert first.contexts == {
        "github": {"ref": "r"},
        "matrix": {"n": "a b"},
        "strategy": {"fail-fast": True, "max-parallel": 2.0, "job-index": 0.0, "job-total": 3.0},
    }
    assert (first.strategy, first.of, first.fail_fast, first.max_parallel) == ({}, "m", True, 2)
    assert [each.id for each in late.plan.jobs] == ["M.a-b", *(each.id for each in jobs)]
    names = {"name": "S ${{ matrix.n }}", "shown": "S ${{ matrix.n }}"}
    slow = job("s", strategy={"fail-fast": False, "matrix": {"n": [1]}}, group="s", **names)
    _, (other,) = begun(slow)[0].several(slow)
    assert other.late is not None
    assert other.late.shown == "S 1"
    assert (other.late.fail_fast, other.late.max_parallel) == (False, 0)
    assert other.late.contexts["strategy"]["fail-fast"] is False


@pytest.mark.parametrize(
    ("status", "fail_fast", "allowed", "ends"),
    [
        ("failure", True, False, True),
        ("failure", False, False, False),
        ("failure", True, True, False),
        ("skipped", True, False, False),
        ("canceled", True, False, False),
        ("success", True, False, False),
    ],
)
def test_a_failure_ends_the_other_jobs_of_its_matrix(status: str, fail_fast: bool, allowed: bool, ends: bool) -> None:
    one, two, three, other = (
        job(name, group="n" if name == "o" else "m", fail_fast=fail_fast) for name in ("a", "b", "c", "o")
    )
    late, _ = begun(one, two, three, other)
    stops = {each.id: Cancel() for each in (one, two, three, other)}
    for each in (one, two, other):
        late.running(each, stops[each.id])
    late.ended(one, result(status, allowed_failure=allowed))
    late.running(three, stops["c"])
    assert {name for name, stop in stops.items() if stop.requested} == ({"b", "c"} if ends else set())
    reason = "a failed, which ends the matrix (fail-fast)"
    assert late.begin(two).reason == (reason if ends else "")
    assert late.begin(other).reason == ""


def test_contexts_that_a_plan_leaves_out_are_empty() -> None:
    condition = "matrix == null && toJSON(strategy) == '{}' && toJSON(inputs) == '{}' && toJSON(vars) == '{}'"
    _, start = begun(job("x", condition=condition))
    assert (start.status, start.reason) == (Status.SUCCESS, "")
