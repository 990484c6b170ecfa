"""A job goes on with what the steps before had made, as the record has it."""

import platform
from typing import Any

import pytest
from msgspec.structs import replace

from loom.plan.late import Action
from loom.plan.model import Job, Secret, Step
from loom.runner.late.state import JobRuntime, LateState, StepResult, StepView
from loom.status import FAILURE, SKIPPED, SUCCESS
from loom.util.masking import Masker

from .plans import job, step

RUNTIME = JobRuntime(workspace="/w", path="/bin", bash=True, event_path="/e/event.json", files={})
SECRETS = {"TOKEN": b"s3cret-value"}
ACTION = Action(uses="o/r/sub@v1", repository="o/r", ref="v1", path="sub", directory="/actions/o", using="composite")
LATER = step()
STEPS = (
    step(kind="node", stage="pre", main="script/04", scope=("mine",), action=replace(ACTION, using="node20")),
    step("one", key="one"),
    step("uses", kind="enter", key="mine", name="Mine", inputs={"who": "${{ steps.one.outputs.a }}"}, env={"E": "e"}, action=ACTION),
    step(kind="node", key="inner", scope=("mine",), action=replace(ACTION, using="node20"), inputs={"x y": "${{ inputs.who }}"}),
    step("uses", kind="leave", key="mine", action=ACTION, outputs={"o": "${{ steps.inner.outputs.b }}"}),
    step("last", key="last"),
    step(kind="node", stage="post", main="script/04", scope=("mine",), action=replace(ACTION, using="node20")),
)  # fmt: skip


def state(made: Job, secrets: dict[str, bytes] | None = None) -> LateState:
    return LateState(made, RUNTIME, needs={}, secrets=secrets or SECRETS, run_id="r1")


def seen(later: LateState, one: Step, env: dict[str, str] | None = None) -> StepView:
    view = later.at(one)
    return view if env is None else replace(view, contexts={**view.contexts, "env": env})


def fact(one: Step, outcome: str = SUCCESS, conclusion: str = "", **more: Any) -> dict[str, Any]:
    result = StepResult(outcome=outcome, conclusion=conclusion or outcome, **more)
    masker = Masker()
    masker.add("TOKEN", "s3cret-value")
    masker.add("OTHER", "hidden")
    return result.fact(one, "", 1, SECRETS, masker)


def run_so_far(made: Job, inner: str = SUCCESS) -> list[dict[str, Any]]:
    steps = made.steps
    return [
        fact(steps[0], saved={"pre": "1"}),
        fact(steps[1], env={"V": "s3cret-value"}, path=("/one", "/two"), outputs={"a": "A"}),
        fact(steps[2]),
        fact(steps[3], inner, outputs={"b": "B"}, saved={"main": "2"}),
        fact(steps[4], inner, outputs={"o": "B"}),
    ]


def test_a_job_goes_on_with_what_its_steps_had_made() -> None:
    made = job("x", *STEPS)
    later = state(made)
    assert later.restore(run_so_far(made), SECRETS, "script/06") == []
    assert (later.env, later.path, later.status) == ({"V": "s3cret-value"}, ["/one", "/two"], SUCCESS)
    assert later.at(LATER).text("${{ steps.one.outputs.a }} ${{ steps.mine.outputs.o }} ${{ steps.inner }}") == "A B "
    inner, last, post = made.steps[3], made.steps[5], made.steps[6]
    environment = later.environment(seen(later, inner, {}))
    assert (environment["INPUT_X_Y"], environment["STATE_main"], environment["PATH"]) == ("A", "2", "/two:/one:/bin")
    assert (environment["GITHUB_ACTION_PATH"], environment["GITHUB_ACTION_REF"]) == ("/actions/o/sub", "v1")
    assert environment["GITHUB_ACTION_REPOSITORY"] == "o/r"
    assert later.environment(seen(later, post, {}))["STATE_pre"] == "1"
    assert (later.skips(post), later.skips(last)) == ("", "")
    assert later.name(later.at(inner)) == "Mine"


def test_only_the_steps_before_count() -> None:
    made = job("x", *STEPS)
    later = state(made)
    later.restore(run_so_far(made), SECRETS, "script/03")
    assert later.at(LATER).text("${{ steps.one.outcome }} ${{ steps.mine.outputs.o }}") == "success "
    whole = state(made)
    whole.restore(run_so_far(made)[:2], SECRETS, None)
    assert whole.at(LATER).text("${{ steps.one.outcome }} ${{ steps.mine.outcome }}") == "success "


def test_a_failure_before_is_one_that_a_person_goes_on_after() -> None:
    made = job("x", *STEPS)
    later = state(made)
    later.restore(run_so_far(made, FAILURE), SECRETS, "script/06")
    assert later.status == SUCCESS
    assert later.at(LATER).text("${{ steps.mine.outcome }} ${{ steps.mine.conclusion }}") == "failure success"
    assert later.skips(made.steps[5]) == ""


def test_an_action_that_was_skipped_still_is() -> None:
    made = job("x", *STEPS)
    facts = [fact(made.steps[2], SKIPPED), *(fact(made.steps[number], SKIPPED) for number in (3, 4))]
    later = state(made)
    later.restore(facts, SECRETS, "script/06")
    assert [later.skips(made.steps[number]) for number in (3, 4, 6)] == ["its action was skipped"] * 3


def test_values_that_the_record_lacks_are_named() -> None:
    made = job("x", *STEPS)
    facts = [
        fact(made.steps[1], env={"V": "no secret of the job: hidden", "W": "w"}),
        fact(made.steps[5], env={"X": "hidden"}),
    ]
    later = state(made)
    assert later.restore(facts, SECRETS, "script/06") == ["V"]
    assert later.env == {"W": "w"}
    assert state(made).restore(facts, SECRETS, None) == ["V", "X"]


def test_an_action_whose_inputs_can_no_longer_be_evaluated_has_none() -> None:
    steps = list(STEPS)
    steps[2] = step("uses", kind="enter", key="mine", inputs={"who": "${{ fromJSON('[') }}"}, action=ACTION)
    made = job("x", *steps)
    later = state(made)
    later.restore(run_so_far(made), SECRETS, "script/06")
    assert later.at(step(scope=("mine",))).text("${{ inputs.who }}${{ steps.inner.outputs.b }}") == "B"


def test_a_step_before_its_action_has_the_actions_inputs() -> None:
    made = job("x", *STEPS)
    fresh = state(made)
    fresh.begin()
    assert fresh.environment(seen(fresh, made.steps[0], {}))["GITHUB_ACTION_PATH"] == "/actions/o/sub"
    assert fresh.at(step(scope=("mine",))).text("${{ inputs.who }}") == ""
    enter = step("uses", kind="enter", key="mine", inputs={"who": "${{ 'me' }}"}, env={"E": "e"}, action=ACTION)
    fresh = state(job("x", *STEPS[:2], enter, *STEPS[3:]))
    fresh.begin()
    assert fresh.at(step(scope=("mine",))).text("${{ inputs.who }} ${{ env.E }}") == "me "


GITHUB = {
    "repository": "o/r",
    "actor": "ann",
    "event": {"a": 1},
    "head_ref": "",
    "retention_days": "",
    "ref_protected": True,
    "run_attempt": None,
}
NODE = replace(ACTION, using="node20")


def with_context(
    *steps: Any, values: dict[str, bytes] | None = None, **late: Any
) -> tuple[LateState, tuple[Step, ...]]:
    made = job("x", *steps, contexts={"github": GITHUB, "vars": {"V": "v"}}, **late)
    found = state(made, values)
    found.begin()
    return found, made.steps


def test_the_contexts_of_a_step_are_githubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    env = {"J": "${{ github.actor }}${{ env.K }}", "K": "${{ env.J }}"}
    one, (first,) = with_context(step("run", key="s"), env=env)
    assert one.at(first).contexts == {
        "env": {"J": "ann", "K": "ann"},
        "github": {
            "action": "s",
            "action_path": "",
            "actor": "ann",
            "event": {"a": 1.0},
            "event_path": "/e/event.json",
            "head_ref": "",
            "ref_protected": True,
            "repository": "o/r",
            "retention_days": "90",
            "run_attempt": "1",
            "run_id": "r1",
            "run_number": "1",
            "token": "",
            "workspace": "/w",
        },
        "inputs": {},
        "job": {"services": {}, "status": "success"},
        "matrix": None,
        "needs": {},
        "runner": {
            "arch": "ARM64",
            "debug": "",
            "environment": "github-hosted",
            "name": "loom",
            "os": "Linux",
            "temp": "/tmp",
            "tool_cache": "/opt/hostedtoolcache",
        },
        "secrets": {"GITHUB_TOKEN": ""},
        "steps": {},
        "strategy": {"fail-fast": True, "job-index": 0.0, "job-total": 1.0, "max-parallel": 1.0},
        "vars": {"V": "v"},
    }


def test_the_variables_of_a_step_are_githubs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    node = step("o/r/sub@v1", kind="node", action=NODE, inputs={"A b": "<${{ env.E }}>"})
    one, (run, action) = with_context(step("run"), node, env={"J": "j"})
    every = {
        "CI": "true",
        "E": "e",
        "GITHUB_ACTIONS": "true",
        "GITHUB_ACTOR": "ann",
        "GITHUB_EVENT_PATH": "/e/event.json",
        "GITHUB_HEAD_REF": "",
        "GITHUB_REF_PROTECTED": "true",
        "GITHUB_REPOSITORY": "o/r",
        "GITHUB_RETENTION_DAYS": "90",
        "GITHUB_RUN_ATTEMPT": "1",
        "GITHUB_RUN_ID": "r1",
        "GITHUB_RUN_NUMBER": "1",
        "GITHUB_WORKSPACE": "/w",
        "RUNNER_ARCH": "X64",
        "RUNNER_ENVIRONMENT": "github-hosted",
        "RUNNER_NAME": "loom",
        "RUNNER_OS": "Linux",
        "RUNNER_TEMP": "/tmp",
        "RUNNER_TOOL_CACHE": "/opt/hostedtoolcache",
    }
    assert one.environment(seen(one, run, {"E": "e"})) == every | {"GITHUB_ACTION": "__run", "GITHUB_ACTION_PATH": ""}
    of_action = {"GITHUB_ACTION": "__o_r_sub", "GITHUB_ACTION_PATH": "/actions/o/sub", "GITHUB_ACTION_REF": "v1"}
    more = {"GITHUB_ACTION_REPOSITORY": "o/r", "INPUT_A_B": "<e>"}
    assert one.environment(seen(one, action, {"E": "e"})) == every | of_action | more
    one.path = ["/a", "/b"]
    assert one.environment(seen(one, run, {"PATH": "/own"}))["PATH"] == "/b:/a:/own"


def test_only_the_variables_of_an_action_in_an_image_see_the_inputs_of_its_step() -> None:
    kinds = [
        step(kind=kind, action=ACTION, inputs={"w": "in"}, env={"A": "${{ inputs.w }}"}) for kind in ("docker", "node")
    ]
    one, steps = with_context(*kinds)
    assert [one.at(each).begun().env["A"] for each in steps] == ["in", ""]


def test_the_token_of_a_job_is_in_two_contexts() -> None:
    secret = Secret(name="GITHUB_TOKEN", ref="env://T", file=False)
    one, _ = with_context(step("x"), values={"GITHUB_TOKEN": b"tok"}, secrets=(secret,))
    assert one.at(LATER).text("${{ github.token }} ${{ secrets.github_token }}") == "tok tok"


@pytest.mark.parametrize(
    ("late", "name"),
    [
        ({}, ""),
        ({"name": "N ${{ github.actor }}"}, "N ann"),
        ({"name": "${{ '' }}"}, ""),
        ({"name": "${{ fromJSON('{') }}"}, "${{ fromJSON('{') }}"),
        ({"kind": "node", "action": NODE}, "script"),
        ({"kind": "docker", "action": NODE, "name": "N"}, "N"),
    ],
)
def test_the_name_of_a_step(late: dict[str, Any], name: str) -> None:
    enter = step("o/r", kind="enter", key="act", name="Outer", action=ACTION)
    one, steps = with_context(step("script", **late), enter, step("script", scope=("act",), **late))
    assert one.name(one.at(steps[0])) == name
    one.enter(steps[1])
    assert one.name(one.at(steps[2])) == (f"Outer: {name}" if name else "Outer")


@pytest.mark.parametrize(
    ("before", "late", "why"),
    [
        ("success", {}, ""),
        ("failure", {}, "a step before it failed"),
        ("cancelled", {}, "the job was canceled"),
        ("failure", {"condition": "github.actor == 'ann'"}, "if: github.actor == 'ann'"),
        ("failure", {"condition": "failure()"}, ""),
        ("cancelled", {"condition": "failure()"}, "if: failure()"),
        ("cancelled", {"condition": "cancelled()"}, ""),
        ("success", {"condition": "env.A == '1'", "env": {"A": "1"}}, ""),
        ("success", {"condition": "env.A == '1'"}, "if: env.A == '1'"),
        ("failure", {"stage": "post", "main": "script/01"}, ""),
        ("failure", {"stage": "post", "main": "script/01", "condition": "success()"}, "if: success()"),
        ("success", {"stage": "post", "main": "script/09"}, "its action did not run"),
        ("failure", {"stage": "pre", "main": "script/09"}, ""),
        (
            "success",
            {"stage": "post", "main": "script/01", "condition": "inputs.a == '1'", "inputs": {"a": "${{ 1 }}"}},
            "",
        ),
    ],
)
def test_why_a_step_does_not_run(before: str, late: dict[str, Any], why: str) -> None:
    one, steps = with_context(step("x"), step("y", **late))
    one.apply(steps[0], StepResult(outcome=before, conclusion=before))
    one.cancelled = before == "cancelled"
    assert one.skips(steps[1]) == why


def test_an_action_that_can_not_be_entered_is_skipped_and_fails_the_job() -> None:
    enter = step("o/r", kind="enter", key="act", action=ACTION)
    one, steps = with_context(enter, step("x", scope=("act",)), step(kind="leave", key="act"))
    one.apply(steps[0], StepResult(outcome=FAILURE, conclusion=FAILURE))
    assert (one.skips(steps[1]), one.skips(steps[2]), one.status) == (*["its action was skipped"] * 2, FAILURE)


def test_the_status_of_an_action_is_that_of_its_main_steps() -> None:
    enter = step("o/r", kind="enter", key="act", action=ACTION)
    inside = step("x", scope=("act",), key="in")
    one, steps = with_context(
        enter, inside, inside, step(kind="leave", key="act", outputs={"o": "${{ steps.in.outcome }}"})
    )
    one.enter(steps[0])
    one.apply(steps[0], StepResult(outcome=SUCCESS, conclusion=SUCCESS))
    one.apply(steps[1], StepResult(outcome=FAILURE, conclusion=FAILURE))
    one.apply(steps[2], StepResult(outcome="cancelled", conclusion="cancelled"))
    assert one.status == SUCCESS
    assert one.at(steps[1]).text("${{ github.action_status }} ${{ job.status }}") == "failure success"
    assert (one.inner(steps[0]), one.judged(steps[1]), one.judged(steps[3])) == (("act",), ("act",), ())
    left = one.leave(steps[3])
    assert left == StepResult(outcome=FAILURE, conclusion=FAILURE, outputs={"o": "cancelled"})
    one.apply(steps[3], left)
    assert one.status == FAILURE
    assert one.at(LATER).text("${{ steps.act.outputs.o }} ${{ steps.act.conclusion }}") == "cancelled failure"


def test_a_step_of_an_action_has_the_position_of_the_action() -> None:
    enter = step("o/r", kind="enter", key="act", action=ACTION)
    one, steps = with_context(step("x", key="s"), enter, step("x", scope=("act",)))
    one.apply(steps[0], StepResult(outcome=FAILURE, conclusion=SUCCESS, outputs={"o": "1"}))
    one.enter(steps[1])
    found = one.at(steps[2]).contexts["github"]
    assert isinstance(found, dict)
    assert (found["action_path"], found["action_repository"], found["action_ref"]) == ("/actions/o/sub", "o/r", "v1")
    kept = {"s": {"conclusion": "success", "outcome": "failure", "outputs": {"o": "1"}}}
    assert one.at(steps[1]).contexts["steps"] == kept
