"""A job goes on with what the steps before had made, as the record has it."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from loom.plan.late import Action, LateStep
from loom.plan.model import Job, Step
from loom.runner.late.state import FAILURE, SKIPPED, SUCCESS, JobRuntime, LateState, StepResult
from loom.secrets.masking import Masker

from .plans import job, step

RUNTIME = JobRuntime(workspace="/w", path="/bin", bash=True, event_path="/e/event.json", files={})
SECRETS = {"TOKEN": b"s3cret-value"}
ACTION = Action(uses="o/r/sub@v1", repository="o/r", ref="v1", path="sub", directory="/actions/o", using="composite")
LATER = LateStep(kind="run")
STEPS = (
    step(kind="node", stage="pre", main="script/04", scope=("mine",), action=replace(ACTION, using="node20")),
    step("one", id="one"),
    step("uses", kind="enter", id="mine", name="Mine", inputs={"who": "${{ steps.one.outputs.a }}"}, env={"E": "e"}, action=ACTION),
    step(kind="node", id="inner", scope=("mine",), action=replace(ACTION, using="node20"), inputs={"x y": "${{ inputs.who }}"}),
    step("uses", kind="leave", id="mine", action=ACTION, outputs={"o": "${{ steps.inner.outputs.b }}"}),
    step("last", id="last"),
    step(kind="node", stage="post", main="script/04", scope=("mine",), action=replace(ACTION, using="node20")),
)  # fmt: skip


def state(made: Job, secrets: dict[str, bytes] | None = None) -> LateState:
    return LateState(made, RUNTIME, needs={}, secrets=secrets or SECRETS, run_id="r1")


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
    assert later.text("${{ steps.one.outputs.a }} ${{ steps.mine.outputs.o }} ${{ steps.inner }}", LATER) == "A B "
    inner, last, post = made.steps[3], made.steps[5], made.steps[6]
    environment = later.environment(inner, {})
    assert (environment["INPUT_X_Y"], environment["STATE_main"], environment["PATH"]) == ("A", "2", "/two:/one:/bin")
    assert (environment["GITHUB_ACTION_PATH"], environment["GITHUB_ACTION_REF"]) == ("/actions/o/sub", "v1")
    assert environment["GITHUB_ACTION_REPOSITORY"] == "o/r"
    assert later.environment(post, {})["STATE_pre"] == "1"
    assert (later.skips(post), later.skips(last)) == ("", "")
    assert later.name(inner, {}) == "Mine"


def test_only_the_steps_before_count() -> None:
    made = job("x", *STEPS)
    later = state(made)
    later.restore(run_so_far(made), SECRETS, "script/03")
    assert later.text("${{ steps.one.outcome }} ${{ steps.mine.outputs.o }}", LATER) == "success "
    whole = state(made)
    whole.restore(run_so_far(made)[:2], SECRETS, None)
    assert whole.text("${{ steps.one.outcome }} ${{ steps.mine.outcome }}", LATER) == "success "


def test_a_failure_before_is_one_that_a_person_goes_on_after() -> None:
    made = job("x", *STEPS)
    later = state(made)
    later.restore(run_so_far(made, FAILURE), SECRETS, "script/06")
    assert later.status == SUCCESS
    assert later.text("${{ steps.mine.outcome }} ${{ steps.mine.conclusion }}", LATER) == "failure success"
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


def test_an_action_whose_inputs_can_no_longer_be_evaluated_has_none() -> None:
    steps = list(STEPS)
    steps[2] = step("uses", kind="enter", id="mine", inputs={"who": "${{ fromJSON('[') }}"}, action=ACTION)
    made = job("x", *steps)
    later = state(made)
    later.restore(run_so_far(made), SECRETS, "script/06")
    assert later.text("${{ inputs.who }}${{ steps.inner.outputs.b }}", LateStep(kind="run", scope=("mine",))) == "B"


def test_a_step_before_its_action_has_the_actions_inputs() -> None:
    made = job("x", *STEPS)
    fresh = state(made)
    fresh.begin()
    assert fresh.environment(made.steps[0], {})["GITHUB_ACTION_PATH"] == "/actions/o/sub"
    assert fresh.text("${{ inputs.who }}", LateStep(kind="run", scope=("mine",))) == ""
