"""Files of which GitHub's documentation and schema decide whether they are valid."""

import pytest

from loom.errors import WorkflowError
from loom.plan.model import Plan
from loom.workflow.github.expressions import filled
from tests.unit.plan.github.conftest import Planned

JOBS = "\njobs: {x: {runs-on: ubuntu-latest, steps: [{run: echo}]}}\n"
ROOT = f"on: push{JOBS}"
STEPS = "steps: [{run: echo}]"
OTHER = "\n  y: {runs-on: ubuntu-latest, steps: [{run: echo}]}\n"
EMPTY = "runs: {using: composite, steps: [{run: a, shell: sh}]}"
CALLED = f"on: {{workflow_call: {{secrets: {{Need: {{required: true}}, may: }}}}}}{JOBS}"


def job(*lines: str) -> str:
    return "\n".join(["on: push", "jobs:", "  x:", "    runs-on: ubuntu-latest", *(f"    {line}" for line in lines)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROOT.replace("{x:", "{X: {runs-on: a, steps: [{run: a}]}, x:"), "/: x is X of line 2 again"),
        (job(STEPS, "env: {A: 1, a: 2}"), "a is A of line 6 again, for case does not count; keep one"),
        (ROOT.replace("{x:", "{__x:"), "__x: a job's id has letters, digits, - and _; no digit, - or __ first"),
        (job("steps: [{id: __a, run: x}]"), "id: __a: letters, digits, - and _; no digit, - or __ first"),
        (
            f"on: {{workflow_call: {{outputs: {{o: {{description: d}}}}}}}}{JOBS}",
            "the key value is",
        ),
        (
            f"on: {{workflow_call: {{inputs: {{i: {{default: d}}}}}}}}{JOBS}",
            "the key type is missing",
        ),
        (f"on: {{schedule: [{{timezone: UTC}}]}}{JOBS}", "the key cron is missing"),
        (
            f"on: {{schedule: [{{cron: daily}}]}}{JOBS}",
            "cron: expected minute, hour, day, month and weekday, found daily",
        ),
        (job(STEPS, "concurrency: {cancel-in-progress: true}"), "the key group is missing"),
        (f"{ROOT}concurrency: {{cancel-in-progress: true}}", "the key group is missing"),
        (job(STEPS, "environment: {url: a}"), "the key name is missing"),
        (job(STEPS, "container: {env: {A: b}}"), "the key image is missing"),
        (job(STEPS, "services: {r: {env: {A: b}}}"), "the key image is missing"),
        (f"{ROOT}permissions: {{content: read}}", "unknown key content; did you mean contents?"),
        (f"{ROOT}permissions: {{id-token: read}}", "expected one of write, none, found the text 'read'"),
        (f"{ROOT}permissions: none", "expected a mapping or one of read-all, write-all, found the text 'none'"),
        (
            job(STEPS, "strategy: {fail-fast: yes, matrix: {v: [1]}}"),
            "expected true or false, found the text 'yes'",
        ),
        (job(STEPS, "timeout-minutes: '10'"), "expected a number, found the text '10'"),
        (job(STEPS, "timeout-minutes: ${{ env.T }}"), "there is no context env here"),
        (job(STEPS, "if: matrix.t == 5", "strategy: {matrix: {t: [5]}}"), "there is no context matrix here"),
        (job(STEPS, "strategy: {matrix: {t: ['${{ secrets.A }}']}}"), "there is no context secrets here"),
        (job(STEPS, "outputs: {o: \"${{ hashFiles('a') }}\"}"), "hashfiles() can't be used here"),
        (job(STEPS, "outputs: ${{ fromJSON('{}') }}"), "expected a mapping, found"),
        (job("steps: ${{ fromJSON('[]') }}"), "expected a list, found"),
        (f"name: ${{{{ github.ref }}}}\n{ROOT}", "there are no expressions here; write the value itself"),
        (job("steps: [{run: a, with: {b: c}}]"), "`with` is for a step with `uses`"),
        (
            job("steps: [{run: 'echo ${{ github.ref }}%s'}]" % ("x" * 21_000)),
            "a text with expressions has more than 21000",
        ),
        (job(STEPS, "strategy: {matrix: {v: \"${{ fromJSON('[]') }}\"}}"), "matrix: v has no value"),
        (job(STEPS, "strategy: {matrix: {v: [1], exclude: [{w: 1}]}}"), "matrix: exclude has w, which is no key"),
        (
            job("steps: [{run: a, background: true}, {wait-all: }]"),
            "steps:background is not supported: Steps run one after",
        ),
    ],
)
def test_what_github_refuses_is_refused(planned: Planned, text: str, message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        planned(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"description: text\n{ROOT}concurrency: {{group: a, queue: max}}",
        f"{ROOT}permissions: {{}}",
        job(STEPS, "permissions: {actions: read, id-token: write, models: read, pull-requests: none}"),
        job(STEPS, "cancel-timeout-minutes: 5"),
        job(
            STEPS,
            "strategy: {matrix: {t: [5], s: [bash]}}",
            "timeout-minutes: ${{ matrix.t }}",
            "defaults: {run: {shell: '${{ matrix.s }}'}}",
        ),
        job("steps: [{run: '%s'}]" % ("x" * 22_000)),
        job(STEPS, "if: false", "strategy: {matrix: {v: \"${{ fromJSON('[]') }}\"}}") + OTHER,
    ],
)
def test_what_github_takes_is_taken(planned: Planned, text: str) -> None:
    assert planned(text).jobs[-1].refused == ()


@pytest.mark.parametrize(
    ("secrets", "message"),
    [
        ("secrets: {need: a}", ""),
        ("secrets: inherit", ""),
        ("secrets: {need: a, foo: b}", "secrets: .github/workflows/called.yml has no secret FOO"),
        ("secrets: {may: a}", "uses: .github/workflows/called.yml requires the secret NEED"),
        ("", "uses: .github/workflows/called.yml requires the secret NEED"),
    ],
)
def test_secrets_of_a_call_are_those_that_it_declares(planned: Planned, secrets: str, message: str) -> None:
    call = f"on: push\njobs:\n  c:\n    uses: ./.github/workflows/called.yml\n    {secrets}\n"
    try:
        planned({"ci.yml": call, "called.yml": CALLED})
        said = ""
    except WorkflowError as error:
        said = str(error)
    assert message in said if message else not said


def only(plan: Plan) -> tuple[str, list[str], dict[str, str]]:
    found = plan.jobs[0]
    assert found.refused == ()
    assert found.image is not None
    assert found.late is not None
    return found.image.name, [one.image.name for one in found.services], {**found.late.container_env, **found.late.env}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['container: ${{ fromJSON(\'{"image":"a:1","env":{"B":"c"}}\') }}'], ("a:1", [], {"B": "c"})),
        (["strategy: {matrix: {c: [{image: 'a:2'}]}}", "container: ${{ matrix.c }}"], ("a:2", [], {})),
        (["services: {r: 'redis:7'}"], ("debian:trixie-slim", ["redis:7"], {})),
        (['services: ${{ fromJSON(\'{"r":{"image":"redis:7"}}\') }}'], ("debian:trixie-slim", ["redis:7"], {})),
        (["strategy: {matrix: {e: [{A: 1.0}]}}", "env: ${{ matrix.e }}"], ("debian:trixie-slim", [], {"A": "1"})),
        (["env: {A: job}", "container: {image: a, env: {A: container, B: c}}"], ("a", [], {"A": "job", "B": "c"})),
    ],
)
def test_a_mapping_may_be_one_expression_and_a_service_an_image(
    planned: Planned, lines: list[str], expected: tuple[str, list[str], dict[str, str]]
) -> None:
    assert only(planned(job(STEPS, *lines))) == expected


def test_steps_have_mappings_of_expressions_and_parallel_ones_run_in_order(planned: Planned) -> None:
    steps = "[{parallel: [{run: one, env: '${{ matrix.e }}'}, {run: two}]}, {run: three}]"
    plan = planned(job("strategy: {matrix: {e: [{A: x}]}}", f"steps: {steps}"))
    assert [step.script for step in plan.jobs[0].steps] == ["one", "two", "three"]
    assert [step.env for step in plan.jobs[0].steps] == [{"A": "x"}, {}, {}]


def test_a_mapping_that_a_result_makes_refuses_the_job(planned: Planned) -> None:
    plan = planned(job(STEPS, "needs: y", "env: ${{ fromJSON(needs.y.outputs.e) }}") + OTHER)
    assert "the mapping or list is not known before the job starts; write it out" in plan.job("x").refused[0]


def test_a_time_limit_may_come_late(planned: Planned) -> None:
    plan = planned(job(STEPS, "needs: y", "timeout-minutes: ${{ fromJSON(needs.y.outputs.t) }}") + OTHER)
    found = plan.job("x")
    assert found.late is not None
    assert found.refused == ()
    assert found.late.timeout_minutes == "${{ fromJSON(needs.y.outputs.t) }}"


def test_a_value_is_no_expression_again(planned: Planned) -> None:
    plan = planned(
        job("env: ${{ fromJSON(github.event.text) }}", "steps: [{run: a, env: '${{ fromJSON(github.event.text) }}'}]"),
        event_payload={"text": '{"A": "${{ secrets.K }}"}'},
        github={"secrets": {"K": "env://K"}},
    )
    found = plan.jobs[0]
    assert found.late is not None
    assert found.secrets == ()
    assert filled(found.late.env["A"], {}) == "${{ secrets.K }}"
    assert filled(found.steps[0].env["A"], {}) == "${{ secrets.K }}"


def test_an_input_of_a_call_is_no_expression_again(planned: Planned) -> None:
    call = "on: push\njobs: {c: {uses: ./.github/workflows/called.yml, with: {I: '${{ github.event.text }}'}}}"
    called = f"on: {{workflow_call: {{inputs: {{i: {{type: string}}}}}}}}{JOBS}"
    plan = planned({"ci.yml": call, "called.yml": called}, event_payload={"text": "a ${{ vars.X }}"})
    late = plan.jobs[0].late
    assert late is not None
    assert late.caller is not None
    assert filled(late.caller.inputs["i"], {}) == "a ${{ vars.X }}"


def test_a_strategy_may_be_one_expression(planned: Planned) -> None:
    plan = planned(job(STEPS, 'strategy: ${{ fromJSON(\'{"matrix":{"a":[1,2]}}\') }}'))
    assert [one.matrix for one in plan.jobs] == [{"a": "1"}, {"a": "2"}]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("run: a", "act/action.yml:4: `shell` is missing"),
        ("{run: a, shell: sh, timeout-minutes: 1}", "act/action.yml:4:27: unknown key timeout-minutes"),
    ],
)
def test_a_step_of_a_composite_action_has_its_keys(planned: Planned, step: str, message: str) -> None:
    action = f"runs:\n  using: composite\n  steps:\n    - {step}\n"
    files = {"ci.yml": job("steps: [{uses: ./act}]"), "act/action.yml": action}
    with pytest.raises(WorkflowError) as caught:
        planned(files)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("inputs: {a: {default: '${{ secrets.K }}'}}", "action.yml:1:23: there is no context secrets here"),
        ("inputs: {a: {description: 'such as ${{ secrets.K }}'}}", ""),
        ("outputs: {a: {value: '${{ needs.x.result }}'}}", "action.yml:1:22: there is no context needs here"),
        ("runs: {steps: [{shell: sh, run: '${{ secrets.K }}'}]}", "there is no context secrets here; there are env"),
        ("runs: {steps: [{shell: sh, run: a, if: secrets.K}]}", "there is no context secrets here; there are env"),
        ("runs: {steps: [{shell: sh, run: '${{ x'}]}", "invalid expression: `${{` has no `}}`"),
        ("runs: {steps: [{shell: sh, run: a, env: '${{ inputs.e }}'}]}", "env: expected a mapping"),
        ("runs: {env: {A: '${{ secrets[inputs.n] }}'}}", "there is no context secrets here; there are inputs"),
        ("runs: {steps: [{shell: sh, run: '${{ inputs.a }}', if: failure() && env.A}]}", ""),
    ],
)
def test_an_action_reads_no_secret_that_it_is_not_given(planned: Planned, action: str, message: str) -> None:
    using = "docker, image: docker://a" if "runs: {env" in action else "composite"
    text = action.replace("runs: {", f"runs: {{using: {using}, ") if "runs: {" in action else f"{action}\n{EMPTY}"
    files = {"ci.yml": job("steps: [{uses: ./act}]"), "act/action.yml": text}
    try:
        assert planned(files, github={"secrets": {"K": "env://K"}}).jobs[0].secrets == ()
        said = ""
    except WorkflowError as error:
        said = str(error)
    assert message in said if message else not said
