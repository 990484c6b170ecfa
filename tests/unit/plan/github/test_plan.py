"""What a plan has of GitHub's workflows: jobs by event and matrix, needs, contexts, containers, steps."""

import json
import re
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from loom.config import Config
from loom.config.settings import ValueOrigin
from loom.errors import InfrastructureError, RequestError, WorkflowError
from loom.plan.github.resolve import problems_of_inputs
from loom.plan.github.unknown import unknown_of
from loom.plan.late import LateJob
from loom.plan.model import Image, Job, JobSelection, Plan, ResolveContext
from loom.plan.provenance import ValueSource, sources
from loom.plan.resolve import rehearse, resolve
from loom.util.jsons import encode_file
from loom.workflow.dialects import load
from loom.workflow.github.workflows import Workflows
from loom.workflow.sources import Fetched, Unreachable

from .conftest import PUSH, Planned, write
from .test_actions import Server

JOB = "runs-on: ubuntu-latest, steps: [{run: echo}]"


def late(job: Job) -> LateJob:
    assert job.late is not None
    return job.late


def ids(plan: Plan) -> list[str]:
    return [job.id for job in plan.jobs]


def reasons(plan: Plan) -> dict[str, str]:
    return {left.id: left.reason for left in plan.left_out}


def test_jobs_of_several_files_have_their_files_names(planned: Planned) -> None:
    plan = planned(
        {"a.yml": f"on: push\njobs: {{x: {{{JOB}}}}}", "b c.yaml": f"on: push\njobs: {{x: {{{JOB}}}, y: {{{JOB}}}}}"}
    )
    assert [(job.id, job.name, job.stage) for job in plan.jobs] == [
        ("a.x", "a / x", "a"),
        ("b-c.x", "b c / x", "b c"),
        ("b-c.y", "b c / y", "b c"),
    ]
    assert ids(planned({}, "y")) == ["b-c.y"]
    assert ids(planned({}, "x")) == ["a.x", "b-c.x"]
    assert ids(planned({}, "b c / x")) == ["b-c.x"]
    plan = planned({"a.yaml": f"on: push\njobs: {{x: {{{JOB}}}}}"})
    assert [(job.id, job.name) for job in plan.jobs][:2] == [("a.x", "a / x"), ("a.yml.x", "a.yml / x")]


@pytest.mark.parametrize(
    ("on", "event", "why"),
    [
        ("push", {}, ""),
        ("[pull_request, push]", {}, ""),
        ("pull_request", {}, "on: pull_request; the event is push"),
        ("pull_request", {"LOOM_EVENT": "merge_request", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main"}, ""),
        ("{push: {branches: [main]}}", {}, ""),
        ("{push: {branches: ['rel*', 'ma?in']}}", {}, ""),
        ("{push: {branches: [dev]}}", {}, "on: push: branches: dev; this is main"),
        ("{push: {branches: ['**', '!main']}}", {}, "on: push: branches: **, !main; this is main"),
        ("{push: {branches-ignore: [main]}}", {}, "on: push: branches-ignore: main; this is main"),
        ("{push: {tags: ['v*']}}", {}, "on: push: it has filters of tags alone, and this is the branch main"),
        ("{push: {tags: ['v[0-9]+.*']}}", {"CI_COMMIT_TAG": "v12.3", "CI_COMMIT_BRANCH": ""}, ""),
        (
            "{push: {branches: [main]}}",
            {"CI_COMMIT_TAG": "v1"},
            "on: push: it has filters of branches alone, and this is the tag v1",
        ),
        ("{push: {paths: ['src/**']}}", {}, ""),
        ("{push: {paths: ['docs/*.md']}}", {}, "on: push: paths: no changed file matches docs/*.md"),
        (
            "{push: {paths: ['**', '!src/**', '!**.md']}}",
            {},
            "on: push: paths: no changed file matches **, !src/**, !**.md",
        ),
        ("{push: {paths-ignore: ['**.md']}}", {}, ""),
        ("{push: {paths-ignore: ['src/**', 'README.md']}}", {}, "on: push: paths-ignore: all changed files match"),
        (
            "{pull_request: {types: [labeled]}}",
            {"LOOM_EVENT": "pull_request"},
            "types: labeled; this one is synchronize",
        ),
        ("{release: {types: [published]}}", {"LOOM_EVENT": "release", "CI_COMMIT_TAG": "v1"}, ""),
        ("{schedule: [{cron: '0 0 * * *'}]}", {"LOOM_EVENT": "schedule"}, ""),
        ("{workflow_dispatch: }", {"LOOM_EVENT": "web"}, ""),
    ],
)
def test_an_event_and_its_filters_decide_about_a_file(
    planned: Planned, on: str, event: dict[str, str], why: str
) -> None:
    files = {
        "a.yml": f"on: {on}\njobs: {{x: {{{JOB}}}}}",
        "other.yml": f"on: [{event.get('LOOM_EVENT', 'push')}, pull_request, web]\njobs: {{y: {{{JOB}}}}}",
    }
    files["other.yml"] = (
        files["other.yml"].replace("merge_request,", "").replace("[web,", "[workflow_dispatch,").replace(", web]", "]")
    )
    changed = lambda base: ["src/x/a.py", "README.md"] if base == "b" * 40 else None  # noqa: E731
    plan = planned(files, known=event, changed=changed)
    assert reasons(plan).get("a.x", "").endswith(why) if why else "a.x" in ids(plan)
    assert "a.x" in ids(planned(files, "a.x", known=event, changed=changed))


def test_the_reason_is_told_where_no_job_is_left(planned: Planned) -> None:
    with pytest.raises(RequestError) as caught:
        planned(f"on: {{pull_request: , schedule: [{{cron: 5 4 * * sun}}]}}\njobs: {{x: {{{JOB}}}}}")
    assert caught.value.message.endswith("runs for push: x: on: pull_request, schedule; the event is push")
    assert (
        caught.value.hint
        == "Other events: --event schedule, --event pull_request. A job that you name runs all the same."
    )


MATRIX = """
on: push
jobs:
  test:
    name: T ${{ matrix.os }}
    runs-on: ${{ matrix.os }}
    strategy:
      fail-fast: ${{ github.event_name != 'push' }}
      max-parallel: 2
      matrix:
        os: [ubuntu-latest, windows-latest]
        v: [1.10, "2"]
        exclude: [{os: windows-latest, v: "2"}]
        include:
          - {os: ubuntu-latest, v: 1.10, more: {deep: [a, b]}}
          - {color: red}
          - {os: ubuntu-latest, v: 9}
    steps: [{run: echo}]
  after: {needs: test, runs-on: ubuntu-latest, steps: [{run: echo}]}
"""


def test_a_matrix_becomes_jobs(planned: Planned) -> None:
    plan = planned(MATRIX)
    assert ids(plan) == ["test.ubuntu-latest-1.1-a-b-red", "test.ubuntu-latest-2-red", "test.ubuntu-latest-9", "after"]
    assert list(reasons(plan)) == ["test.windows-latest-1.1-red"]
    first = late(plan.jobs[0])
    assert first.contexts["matrix"] == {"os": "ubuntu-latest", "v": 1.1, "more": {"deep": ["a", "b"]}, "color": "red"}
    assert first.contexts["strategy"] == {"fail-fast": False, "max-parallel": 2.0, "job-index": 0.0, "job-total": 4.0}
    assert [late(job).contexts["strategy"]["job-index"] for job in plan.jobs[:3]] == [0, 1, 3]
    assert (first.fail_fast, first.max_parallel, first.group) == (False, 2, "test")
    assert plan.jobs[0].matrix == {"os": "ubuntu-latest", "v": "1.1", "more": "Object", "color": "red"}
    after = late(plan.jobs[-1])
    assert after.needs[0].jobs == tuple(ids(plan)[:3])  # the one for Windows is no reason to leave it out
    assert ids(planned({}, "test")) == ids(plan)[:3]


@pytest.mark.parametrize("name", ["T windows-latest", "test.windows-latest-1.1-red"])
def test_a_job_of_another_system_never_runs_here(planned: Planned, name: str) -> None:
    with pytest.raises(RequestError, match="its label windows-latest is of Windows; ") as caught:
        planned(MATRIX, name, "after")
    assert "--image LABEL=IMAGE" in (caught.value.hint or "")
    assert len(ids(planned({}, name, config={"images": {"Windows-Latest": "win"}}))) == 1


def test_images_are_those_of_the_jobs_that_can_run_here(tmp_path: Path) -> None:
    write(
        tmp_path,
        """
on: push
jobs:
  unit: {runs-on: ubuntu-latest, steps: [{run: x}]}
  win: {runs-on: windows-latest, steps: [{run: x}]}
  after: {runs-on: ubuntu-latest, needs: win, steps: [{run: x}]}
""",
    )
    facts = ResolveContext(predefined=PUSH, config=Config())
    workflows = load(tmp_path / ".github/workflows", tmp_path, lambda: facts)
    every = JobSelection(jobs=tuple(workflows.jobs), if_possible=True, container=True)
    assert ids(resolve(workflows, every, facts)) == ["unit"]


def test_a_list_of_an_expression_stands_for_its_elements(planned: Planned) -> None:
    matrix = "{v: ['${{ fromJSON(''[1, 2]'') }}', [3, 4], 5]}"
    plan = planned(f"on: push\njobs: {{x: {{{JOB}, strategy: {{matrix: {matrix}}}}}}}")
    assert [late(job).contexts["matrix"]["v"] for job in plan.jobs] == [1, 2, [3, 4], 5]


def test_an_if_that_the_event_decides_leaves_the_job_out(planned: Planned) -> None:
    text = f"""
on: push
jobs:
  pr: {{if: github.event_name == 'pull_request', {JOB}}}
  dead: {{if: "${{{{ false }}}}", {JOB}}}
  main: {{if: "startsWith(github.ref, 'refs/heads/')", {JOB}}}
  failed: {{if: failure(), {JOB}}}
  first: {{if: github.run_attempt == 1, {JOB}}}
  said: {{if: success() && github.ref && github.event_name == 'pull_request', {JOB}}}
  late: {{if: success() && github.ref && github.run_attempt == 1, {JOB}}}
  after: {{needs: [pr, main], if: always(), {JOB}}}
"""
    plan = planned(text)
    assert ids(plan) == ["main", "failed", "first", "late", "after"]
    event = "github.event_name is 'push'"
    assert reasons(plan) == {
        "pr": f"its `if` is false ({event})",
        "dead": "its `if` is false",
        "said": f"its `if` is false (github.ref is 'refs/heads/main', {event})",
    }
    assert [(need.name, need.jobs, need.result) for need in late(plan.jobs[-1]).needs] == [
        ("pr", (), "skipped"),
        ("main", ("main",), "success"),
    ]
    assert late(planned(text, "pr").jobs[0]).condition == ""
    assert late(planned(text, "failed").jobs[0]).condition == "failure()"
    assert late(plan.jobs[1]).condition == "failure()"


def test_a_called_workflow_becomes_jobs(planned: Planned) -> None:
    files = {
        "ci.yml": f"""
on: push
jobs:
  first: {{{JOB}}}
  call:
    needs: first
    if: "needs.first.result == 'success'"
    strategy: {{matrix: {{level: [1, 2]}}}}
    uses: ./.github/workflows/called.yml
    with: {{level: "${{{{ matrix.level }}}}", late: "${{{{ needs.first.outputs.x }}}}", flag: true}}
    secrets: {{inner: "${{{{ secrets.OUTER }}}}"}}
  last: {{needs: call, {JOB}}}
""",
        "called.yml": """
on:
  workflow_call:
    inputs: {level: {type: number}, late: {type: string}, flag: {type: boolean}, other: {type: string, default: x}}
    secrets: {inner: {required: true}}
    outputs: {o: {value: "${{ jobs.b.outputs.o }}"}}
jobs:
  a: {runs-on: ubuntu-latest, steps: [{run: "echo ${{ secrets.inner }} ${{ secrets.OUTER }}"}]}
  b: {needs: a, runs-on: ubuntu-latest, steps: [{run: echo}]}
""",
    }
    plan = planned(files, github={"secrets": {"OUTER": "env://OUTER"}})
    assert [(job.id, job.name) for job in plan.jobs] == [
        ("first", "first"),
        ("call.1.a", "call (1) / a"),
        ("call.1.b", "call (1) / b"),
        ("call.2.a", "call (2) / a"),
        ("call.2.b", "call (2) / b"),
        ("last", "last"),
    ]
    inner = plan.job("call.2.b")
    assert {need.job for need in inner.needs or ()} == {"first", "call.2.a"}
    caller = late(inner).caller
    assert caller is not None
    assert caller.condition == "needs.first.result == 'success'"
    assert caller.inputs == {"level": 2.0, "late": "${{ needs.first.outputs.x }}", "flag": True, "other": "x"}
    assert [need.jobs for need in caller.needs] == [("first",)]
    assert late(inner).needs[0].jobs == ("call.2.a",)
    assert ids(planned(files, "call")) == [job.id for job in plan.jobs if job.id != "last"]
    assert ids(planned(files, "call.2")) == ["first", "call.2.a", "call.2.b"]
    secret = plan.job("call.1.a")
    assert late(secret).secrets == {"INNER": "OUTER"}
    assert [(one.name, one.ref) for one in secret.secrets] == [("OUTER", "env://OUTER")]
    need = late(plan.job("last")).needs[0]
    assert set(need.jobs) == {"call.1.a", "call.1.b", "call.2.a", "call.2.b"}
    assert need.outputs == {"o": "${{ jobs.b.outputs.o }}"}


def test_jobs_are_found_where_they_are_written(tmp_path: Path) -> None:
    call = "uses: ./.github/workflows/called.yml"
    write(
        tmp_path,
        {
            "ci.yml": f"on: push\njobs:\n  a: {{strategy: {{matrix: {{v: [1/2, x]}}}}, {call}}}\n  b: {{{JOB}}}",
            "called.yml": f"on: workflow_call\njobs:\n  c: {{{JOB}}}\n  d: {{uses: ./.github/workflows/inner.yml}}",
            "inner.yml": f"on: workflow_call\njobs:\n  e: {{{JOB}}}",
        },
    )
    facts = ResolveContext(predefined=PUSH)
    workflows = load(tmp_path / ".github/workflows", tmp_path, lambda: facts)
    plan = resolve(workflows, JobSelection(container=True), facts)
    found = {job.id: workflows.entry_of(job.name) for job in plan.jobs}
    assert workflows.entry_of("a") is not None
    assert workflows.entry_of("a (1/2) / none") == workflows.entry_of("a"), "the job that calls"
    assert workflows.entry_of("none") is None
    assert all(entry and entry.node == entry.merged == entry.file.jobs[entry.job] for entry in found.values())
    assert {job_id: entry and entry.key.position for job_id, entry in found.items()} == {
        "a.1-2.c": ".github/workflows/called.yml:3:3",
        "a.1-2.d.e": ".github/workflows/inner.yml:3:3",
        "a.x.c": ".github/workflows/called.yml:3:3",
        "a.x.d.e": ".github/workflows/inner.yml:3:3",
        "b": ".github/workflows/ci.yml:4:3",
    }
    explained = sources(workflows, plan.job("a.x.d.e"), JobSelection())
    assert [(one.key, one.by) for one in explained][:3] == [("id", "job"), ("runs-on", "job"), ("steps[0].run", "job")]


def test_a_jobs_own_combination_and_the_origin_of_its_image_are_told(tmp_path: Path) -> None:
    job = "runs-on: '${{ matrix.os }}', steps: [{run: echo}], strategy: {matrix: {os: [big, ubuntu-latest], v: [1]}}"
    write(tmp_path, f"on: push\njobs:\n  a: {{{job}}}\n  b: {{container: alpine, timeout-minutes: 3, {JOB}}}")
    user = ValueOrigin(layer="user", source="c.yml:1:1")
    settings = Config(images={"big": "big:1"}, job_timeout=60.0, origins={"images": user})
    facts = ResolveContext(predefined=PUSH, config=settings)
    workflows = load(tmp_path / ".github/workflows", tmp_path, lambda: facts)
    plan = resolve(workflows, JobSelection(container=True), facts)
    big, other, boxed = plan.jobs
    told = {one.key: (one.value, one.by) for one in sources(workflows, big, JobSelection())}
    assert (told["matrix.os"], told["matrix.v"]) == (("big", "matrix"), ("1", "matrix"))
    position = next(one.position for one in sources(workflows, big, JobSelection()) if one.key == "matrix.os")
    assert position.startswith(".github/workflows/ci.yml:3:")
    assert "strategy.matrix.os[0]" not in told
    assert (big.sources["image"], big.sources["timeout"]) == (
        "`images`, user (c.yml:1:1)",
        "`job_timeout`, built-in",
    )
    assert other.sources["image"] == "`default_image`, built-in"
    assert [one.timeout_s for one in plan.jobs] == [6 * 3600.0, 6 * 3600.0, 180.0]
    settings = Config(images=settings.images, job_timeout=60.0, origins={"job_timeout": user})
    facts = ResolveContext(predefined=PUSH, config=settings)
    found = resolve(workflows, JobSelection(container=True), facts)
    assert [one.timeout_s for one in found.jobs] == [60.0, 60.0, 180.0]
    assert (boxed.sources["image"], boxed.sources["timeout"]) == (".github/workflows/ci.yml:4",) * 2


def test_workflows_of_other_repositories_are_called(planned: Planned, tmp_path: Path) -> None:
    folder = "server/o/r/v1/.github/workflows"
    call = "uses: ./.github/workflows/inner.yml"
    files = {
        "ci.yml": f"""
on: push
jobs:
  far: {{uses: o/r/.github/workflows/a.yml@v1, with: {{x: 1}}}}
  none: {{uses: o/r/.github/workflows/a.yml@v2}}
  missing: {{uses: o/r/.github/workflows/b.yml@v1}}
  wrong: {{uses: o/r/.github/workflows/wrong.yml@v1}}
  after: {{needs: far, {JOB}}}
""",
        f"{folder}/a.yml": f"on: {{workflow_call: {{inputs: {{x: {{type: number}}}}}}}}\njobs: {{a: {{{JOB}}}, b: {{{call}}}}}",
        f"{folder}/inner.yml": f"on: workflow_call\njobs: {{c: {{{JOB}}}}}",
        f"{folder}/wrong.yml": "on: workflow_call\njobs: {c: {}}",
    }
    plan = planned(files, repositories=lambda: Server(tmp_path / "server"))
    assert ids(plan) == ["far.a", "far.b.c", "none", "missing", "wrong", "after"]
    far = plan.job("far.b.c")
    assert (far.name, far.steps[0].file) == ("far / b / c", "o/r/.github/workflows/inner.yml@v1")
    here = load(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    told = sources(here, far, JobSelection())
    assert told[0] == ValueSource(key="id", value="far.b.c", by="job", position=".github/workflows/ci.yml:4:3")
    assert late(plan.job("after")).needs[0].jobs == ("far.a", "far.b.c")
    for job, reason in {
        "none": "uses: o/r has no v2",
        "missing": "uses: o/r has no .github/workflows/b.yml at v1: no such file or directory",
        "wrong": "o/r/.github/workflows/wrong.yml@v1:2:8: GH_INVALID /jobs/c: c: `runs-on` is missing",
    }.items():
        assert reason in plan.job(job).refused[0]


def test_a_step_whose_condition_is_false_for_the_event_needs_no_action(planned: Planned, tmp_path: Path) -> None:
    text = """
on: [push, pull_request]
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - {uses: o/none@v1, if: github.event_name == 'pull_request'}
      - {run: echo, if: always()}
"""
    server = {"repositories": lambda: Server(tmp_path / "server")}
    plan = planned(text, **server)
    job = plan.job("a")
    assert (job.refused, [step.script for step in job.steps]) == ((), ["o/none@v1", "o/none@v1", "echo"])
    assert job.steps[0].condition == "github.event_name == 'pull_request'"
    for changed in (text.replace("== 'pull", "!= 'pull"), text.replace("github.event_name", "env.X")):
        with pytest.raises(WorkflowError, match="o/none has no v1"):
            planned(changed, **server)
    # `loom check` knows no event.
    workflows = load(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    (told,) = rehearse(workflows, Config(), server["repositories"])[0]
    assert "o/none has no v1 (a run refuses a when its turn comes)" in told.message
    assert rehearse(workflows)[0] == []


def test_a_server_that_does_not_answer_ends_the_run_before_its_first_job(planned: Planned, tmp_path: Path) -> None:
    class Silent:
        def at(self, repository: str, ref: str) -> Fetched:
            raise Unreachable("https://s can't be reached: x")

    use = "steps: [{run: x}, {uses: STEP}]"
    text = f"on: push\njobs: {{a: {{runs-on: ubuntu-latest, {use}}}, b: {{{JOB}}}}}"
    for step, what in {
        "o/r@v1": "o/r@v1: ",
        "actions/checkout@v4, with: {repository: o/r}": "actions/checkout@v4: repository: ",
    }.items():
        with pytest.raises(InfrastructureError) as caught:
            planned(text.replace("STEP", step), repositories=Silent)
        assert caught.value.exit_code == 3
        assert caught.value.message == f".github/workflows/ci.yml:2:61: uses: {what}https://s can't be reached: x"
        (told,) = rehearse(load(tmp_path / ".github/workflows", tmp_path, ResolveContext), None, Silent)[0]
        assert "can't be reached: x (a run refuses a when its turn comes)" in told.message
        assert ids(planned(text.replace("STEP", step), "b", repositories=Silent)) == ["b"]
    assert ids(planned(text.replace("STEP", "o/r@v1, if: github.actor == 'x'"), repositories=Silent)) == ["a", "b"]
    with pytest.raises(
        InfrastructureError, match=r":2:\d+: uses: o/q@v2\n\S+: uses: o/r@v1: https://s can't be reached: x$"
    ):
        planned(text.replace("{run: x}", "{uses: o/q@v2}", 1).replace("STEP", "o/r@v1"), repositories=Silent)
    text = f"on: push\njobs: {{a: {{uses: o/r/.github/workflows/c.yml@v1}}, b: {{{JOB}}}}}"
    with pytest.raises(InfrastructureError, match=r"ci\.yml:2:18: uses: https://s can't be reached: x$"):
        planned(text, repositories=Silent)
    assert ids(planned(text, "b", repositories=Silent)) == ["b"]


def test_inputs_that_an_action_does_not_have_are_a_warning(planned: Planned, tmp_path: Path) -> None:
    files = {
        "ci.yml": """
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - {uses: actions/checkout@v4, with: {Path: x, fetch_depth: 0}}
      - {uses: ./act, with: {WHO: x}}
      - {uses: ./act, with: {whom: x, args: y}}
      - {uses: ./box, with: {args: x, entrypoint: y, other: z}}
      - {uses: "docker://alpine", with: {any: x}}
      - {uses: o/unread@v1, with: {any: x}}
""",
        "act/action.yml": "inputs: {who: {}}\nruns: {using: composite, steps: [{uses: ./box, with: {deep: 1}}]}",
        "box/action.yml": "runs: {using: docker, image: docker://alpine}",
    }
    steps = planned(files).job("a").steps
    said = [step.unexpected for step in steps if step.unexpected]
    assert said[0].startswith("Unexpected input(s) 'fetch_depth', valid inputs are ['repository', 'ref', ")
    deep = "Unexpected input(s) 'deep', valid inputs are ['entryPoint', 'args']"
    assert said[1:] == [
        deep,
        "Unexpected input(s) 'whom', 'args', valid inputs are ['who']",
        deep,
        deep.replace("deep", "other"),
    ]
    told = rehearse(load(tmp_path / ".github/workflows", tmp_path, ResolveContext))[0]
    assert [(one.line, one.severity, one.message.split(":")[1].strip()) for one in told] == [
        (7, "warning", "actions/checkout@v4"), (9, "warning", "./act"), (10, "warning", "./box"),
    ]  # fmt: skip


def test_the_variables_of_the_command_line_are_those_of_the_context_vars(planned: Planned) -> None:
    text = f"on: push\njobs: {{a: {{if: vars.A == 'given', {JOB}}}, b: {{if: vars.B == 'own', {JOB}}}}}"
    plan = planned(text, github={"vars": {"A": "own", "B": "own"}}, given={"A": "given"})
    assert ids(plan) == ["a", "b"]
    assert late(plan.job("a")).contexts["vars"] == {"A": "given", "B": "own"}


def test_a_script_of_windows_is_one_of_its_shell(planned: Planned, tmp_path: Path) -> None:
    job = "steps: [{run: x}, {run: x, shell: bash}]"
    write(tmp_path, f"on: push\njobs: {{w: {{runs-on: windows-latest, {job}}}, m: {{runs-on: macos-latest, {job}}}}}")
    jobs = rehearse(load(tmp_path / ".github/workflows", tmp_path, ResolveContext))[1]
    assert [[step.shell for step in job.steps] for _, job in jobs] == [["pwsh", "bash"], ["", "bash"]]


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("${{ secrets.A }}", "A"),
        ("${{ secrets[matrix.name] }}", "B"),
        ("${{ matrix.name == 'A' && secrets.A || secrets.B }}", "B"),
        ("${{ secrets.nope || '' }}", None),
        ("${{ github.token }}", None),
        ("${{ needs.x.outputs.y }}", "S: ${{ needs.x.outputs.y }} is not known before the run, and no secret alone"),
        ("x-${{ secrets.A }}", "and no secret alone"),
    ],
)
def test_secrets_are_passed_to_a_called_workflow(planned: Planned, written: str, given: str | None) -> None:
    files = {
        "ci.yml": f"""
on: push
jobs:
  x: {{{JOB}}}
  call:
    needs: x
    strategy: {{matrix: {{name: [B]}}}}
    uses: ./.github/workflows/called.yml
    secrets: {{S: "{written}"}}
""",
        "called.yml": 'on: {workflow_call: {secrets: {s: }}}\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: "echo ${{ secrets.S }}"}]}}',
    }
    job = planned(files, github={"secrets": {"A": "env://A", "B": "env://B"}}).jobs[-1]
    if given is not None and len(given) > 1:
        assert given in job.refused[0]
    else:
        assert (late(job).secrets, job.refused) == ({"S": given} if given else {}, ())


def test_a_text_is_passed_as_a_secret_too(planned: Planned) -> None:
    call = "on: {workflow_call: {secrets: {S: }}}\njobs: {a: {uses: ./.github/workflows/%s.yml, secrets: %s}}"
    files = {
        "ci.yml": f"on: push\njobs: {{x: {{uses: ./.github/workflows/b.yml, secrets: {{S: 'a ${{{{ github.ref_name }}}}'}}}}, y: {{{JOB}}}}}",
        "b.yml": call % ("c", "inherit"),
        "c.yml": call % ("d", "{T: '${{ secrets.S }}', U: '${{ secrets.S }}!'}"),
        "d.yml": f"on: {{workflow_call: {{secrets: {{T: , U: }}}}}}\njobs: {{z: {{{JOB}}}}}",
    }
    plan = planned(files, github={"secrets": {"S": "env://S"}})
    assert late(plan.job("x.a.a.z")).contexts["secrets"] == {"T": "a main", "U": "a main!"}
    assert "secrets" not in late(plan.job("y")).contexts
    assert plan.job("x.a.a.z").refused == ()


@pytest.mark.parametrize(
    ("with_", "at", "message"),
    [
        ("{}", "/uses", "uses: .github/workflows/called.yml requires the input level"),
        (
            "{level: 1, nope: 2}",
            "/with/nope",
            "with: .github/workflows/called.yml has no input nope; its inputs: level",
        ),
        ("{level: text}", "/with/level", "with: level is a number, not 'text'"),
    ],
)
def test_inputs_of_a_call_are_checked(planned: Planned, with_: str, at: str, message: str) -> None:
    files = {
        "ci.yml": f"on: push\njobs: {{call: {{uses: ./.github/workflows/called.yml, with: {with_}}}}}",
        "called.yml": f"on: {{workflow_call: {{inputs: {{level: {{type: number, required: true, default: 3}}}}}}}}\njobs: {{a: {{{JOB}}}}}",
    }
    with pytest.raises(WorkflowError) as caught:
        planned(files)
    assert [(one.pointer, one.message) for one in caught.value.problems] == [(f"/jobs/call{at}", message)]


def test_inputs_come_from_the_command_line(planned: Planned) -> None:
    text = f"""
on: {{workflow_dispatch: {{inputs: {{level: {{type: choice, options: [a, b], default: a}}, dry: {{type: boolean}}, n: {{type: number, default: 3}}}}}}}}
jobs: {{x: {{{JOB}}}}}
"""
    event: dict[str, Any] = {"known": {"LOOM_EVENT": "workflow_dispatch"}}
    found = late(planned(text, inputs={"level": "b"}, **event).jobs[0]).contexts
    assert found["inputs"] == {"level": "b", "dry": False, "n": 3.0}
    assert found["github"]["event"]["inputs"] == {"level": "b", "dry": "false", "n": "3"}
    given = late(planned(text, event_payload={"inputs": {"level": "b", "dry": "true"}}, **event).jobs[0]).contexts
    assert given["inputs"] == {"level": "b", "dry": True, "n": 3.0}
    with pytest.raises(WorkflowError, match="--input level: c is none of a, b"):
        planned(text, inputs={"level": "c"}, **event)
    with pytest.raises(
        RequestError, match="--input lvel: no workflow takes it from workflow_dispatch; did you mean level"
    ):
        planned(text, inputs={"lvel": "c"}, **event)
    with pytest.raises(RequestError, match="--input level: no workflow takes it from push") as caught:
        planned(text, inputs={"level": "a"})
    assert caught.value.hint == "--event workflow_dispatch takes inputs"
    plan = planned(
        {
            "ci.yml": text.replace("default: a", "required: true"),
            "b.yml": f"on: workflow_dispatch\njobs: {{y: {{{JOB}}}}}",
        },
        **event,
    )
    assert reasons(plan) == {"ci.x": "its input level is required: --input level=VALUE"}


def test_inputs_of_a_manual_run_are_checked_without_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        f"on: {{workflow_dispatch: {{inputs: {{level: {{type: choice, options: [a]}}}}}}}}\njobs: {{x: {{{JOB}}}}}",
    )
    workflows = cast(Workflows, load(tmp_path / ".github/workflows", tmp_path, ResolveContext))
    assert problems_of_inputs(workflows, {"level": "a"}) == []
    assert "--input level: b is none of a" in str(problems_of_inputs(workflows, {"level": "b"}))
    with pytest.raises(RequestError, match="--input lvel: no workflow takes it"):
        problems_of_inputs(workflows, {"lvel": "a"})


@pytest.mark.parametrize(
    ("known", "payload", "expected"),
    [
        (
            {},
            {},
            {"ref": "refs/heads/main", "ref_name": "main", "ref_type": "branch", "event_name": "push", "base_ref": ""},
        ),
        ({"CI_COMMIT_TAG": "v1"}, {}, {"ref": "refs/tags/v1", "ref_name": "v1", "ref_type": "tag"}),
        (
            {"LOOM_EVENT": "merge_request", "CI_COMMIT_BRANCH": "", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic"},
            {},
            {"ref": "refs/pull/1/merge", "head_ref": "topic", "base_ref": "main", "event_name": "pull_request"},
        ),
        (
            {"LOOM_EVENT": "pull_request"},
            {"number": 7, "pull_request": {"head": {"ref": "h"}, "base": {"ref": "dev"}}},
            {"ref": "refs/pull/7/merge", "ref_name": "7/merge", "head_ref": "h", "base_ref": "dev"},
        ),
        ({}, {"ref": "refs/heads/x/y"}, {"ref": "refs/heads/x/y", "ref_name": "x/y"}),
        ({"LOOM_EVENT": "schedule"}, {}, {"event_name": "schedule", "ref": "refs/heads/main"}),
        ({"LOOM_EVENT": "schedule"}, {"schedule": "1 * * * *"}, {"event_name": "schedule"}),
        ({"LOOM_EVENT": "schedule"}, {}, {"schedule": "0 0 * * *"}),
        ({"CI_PROJECT_PATH": ""}, {}, {"repository": "local/project", "repository_owner": "local"}),
    ],
)
def test_the_github_context(
    planned: Planned, known: dict[str, str], payload: dict[str, Any], expected: dict[str, Any]
) -> None:
    text = f"name: CI\non: {{push: , pull_request: , schedule: [{{cron: 0 0 * * *}}]}}\njobs: {{x: {{{JOB}}}}}"
    found = late(planned(text, known=known, event_payload=payload).jobs[0]).contexts["github"]
    assert {name: {**found["event"], **found}[name] for name in expected} == expected
    assert (found["workflow"], found["job"], found["sha"]) == ("CI", "x", PUSH["CI_COMMIT_SHA"])
    assert found["event"].items() >= payload.items()
    assert b": 1.0" not in encode_file(found["event"]).replace(b" ", b"").replace(b":", b": ")


@pytest.mark.parametrize(
    ("labels", "image", "held"),
    [
        ("ubuntu-latest", "debian:trixie-slim", ""),
        ("ubuntu-22.04", "mine:22", ""),
        ("[self-hosted, linux, gpu]", None, "runners of your own"),
        ("[self-hosted, big]", "big:1", ""),
        ("depot-ubuntu-24.04-4", "debian:trixie-slim", ""),
        ("windows-2022", None, "Windows"),
        ("namespace-profile-macos-15", None, "macOS"),
        ("ubuntu-24.04-arm", None, "arm64"),
        ("quantum", None, "no known runner"),
        ("[8]", None, "its label 8 is of no known runner"),
        ("ubuntu-20.04", None, "a retired runner"),
        ("ubuntu-26.04", "debian:trixie-slim", ""),
        ("ubuntu-28.04", "debian:trixie-slim", ""),
        ("my-ubuntu-latest-8", "debian:trixie-slim", ""),
        ("ubuntu-large", "debian:trixie-slim", ""),
        ("ubuntu-latst", None, "would wait for one; did you mean ubuntu-latest? `--image ubuntu-latst=IMAGE`"),
        ("Ubuntu_Latest", None, "did you mean ubuntu-latest?"),
        ("ubuntu-2404", None, "did you mean ubuntu-24.04?"),
        ("widnows-latest", None, "did you mean windows-latest?"),
        ("{group: fast, labels: [ubuntu-22.04]}", "mine:22", ""),
        ("{group: fast}", "debian:trixie-slim", ""),
    ],
)
def test_labels_choose_an_image(planned: Planned, labels: str, image: str | None, held: str) -> None:
    text = f"on: push\njobs: {{x: {{runs-on: {labels}, steps: [{{run: echo}}]}}, other: {{{JOB}}}}}"
    plan = planned(text, config={"images": {"Ubuntu-22.04": "mine:22", "big": "big:1"}})
    if held:
        assert held in reasons(plan)["x"]
    else:
        found = plan.job("x").image
        assert found is not None
        assert found.name == image


def test_jobs_with_an_environment_wait_for_deploy(planned: Planned) -> None:
    text = f"on: push\njobs: {{x: {{environment: prod, {JOB}}}, y: {{needs: x, {JOB}}}, z: {{{JOB}}}}}"
    plan = planned(text)
    assert ids(plan) == ["z"]
    assert reasons(plan)["x"] == "it deploys; --deploy or its name runs it"
    with_all = planned(text, config={"deploy": True})
    assert ids(with_all) == ["x", "y", "z"]
    assert [job.deploys for job in with_all.jobs] == [True, False, False]


@pytest.mark.parametrize(
    ("job", "told"),
    [
        ("steps: [{run: 'apt-get -y install x'}]", "sudo apt-get"),
        ('steps: [{uses: a/b@v1}, {run: "echo\\n  apt update"}]', "sudo apt"),
        ("steps: [{run: 'sudo apt-get install x'}]", ""),
        ('steps: [{run: "sudo timeout 3 \\\\\\n  apt-get install x"}]', ""),
        ("steps: [{run: \"docker run x sh -c '\\napt-get install x'\"}]", ""),
        ("steps: [{run: apt-get --version}]", ""),
        ("container: a, steps: [{run: apt-get install x}]", ""),
    ],
)
def test_commands_of_root_are_told_where_github_has_another_user(
    planned: Planned, tmp_path: Path, job: str, told: str
) -> None:
    write(tmp_path, f"on: push\njobs: {{x: {{runs-on: ubuntu-latest, strategy: {{matrix: {{a: [1, 2]}}}}, {job}}}}}")
    found = rehearse(load(tmp_path / ".github/workflows", tmp_path, ResolveContext))[0]
    said = [each.message for each in found if each.severity == "warning" and "root" in each.message]
    assert said == ([f"on GitHub's machines steps are not root, as they are here: write `{told}`"] if told else [])


def test_an_empty_environment_deploys_nothing(planned: Planned, tmp_path: Path) -> None:
    assert ids(planned(f'on: push\njobs: {{x: {{environment: "", {JOB}}}}}')) == ["x"]
    workflows = load(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    assert rehearse(workflows)[0] == []  # nor does `loom check` call it left out


def test_a_container_and_its_services(planned: Planned) -> None:
    plan = planned(
        """
on: push
env: {DB: "16"}
jobs:
  x:
    runs-on: ubuntu-latest
    timeout-minutes: ${{ fromJSON('7') }}
    continue-on-error: true
    concurrency: {group: "deploy-${{ github.ref_name }}", cancel-in-progress: true}
    container:
      image: docker://node:${{ github.ref_name == 'main' && 20 || 18 }}
      env: {A: "${{ github.job }}"}
      options: --user 1000:1000 --cpus 1.5 --memory=512m --init
    env: {B: b}
    services:
      db:
        image: postgres:16
        env: {POSTGRES_PASSWORD: "${{ secrets.PW }}", V: "${{ env.DB }}", NONE: "${{ secrets.NOT_GIVEN }}"}
        ports: [5432:5432]
        options: >-
          --health-cmd "pg_isready -U x"
          --health-interval 10s --health-timeout 5s --health-retries 5
      none: {image: "${{ github.event_name == 'x' && 'redis' || '' }}"}
    steps: [{run: echo}]
""",
        github={"secrets": {"PW": "env://PW"}},
    )
    job = plan.jobs[0]
    assert job.image is not None
    assert (job.image.name, job.image.user) == ("node:20", "1000:1000")
    assert (job.resources.cpus, job.resources.memory, job.timeout_s, job.allow_failure.always) == (
        1.5,
        512 << 20,
        420,
        True,
    )
    assert job.resource_group == "deploy-main"
    assert late(job).env == {"DB": "16", "B": "b"}
    assert late(job).container_env == {"A": "${{ github.job }}"}
    (service,) = job.services
    assert (service.name, service.aliases, service.ready.command) == ("db", ("db",), ("sh", "-c", "pg_isready -U x"))
    assert service.variables == {"V": "16", "NONE": ""}
    assert (service.ports, job.services_at_localhost) == ((5432,), False)
    assert [(one.name, one.ref) for one in service.secrets] == [("POSTGRES_PASSWORD", "env://PW")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("container: {image: a, volumes: [/x:/y]}", "container: volumes: /x:/y: a container gets no directory"),
        ("container: {image: a, options: --cap-add ALL}", "container: options: --cap-add is not supported"),
        (
            "services: {db: {image: a, volumes: ['/x:/y']}}",
            "services: db: volumes: /x:/y: a container gets no directory",
        ),
        (
            "services: {db: {image: a, ports: ['81:80']}}",
            "ports: here, port 80 of db is 80 at localhost too; write 80:80, or give the job a `container`, which finds db:80",
        ),
        ("services: {db: {image: a, ports: ['80:80']}, e: {image: b, ports: ['80:80']}}", "two services have port 80"),
        ("services: {db: {image: a, ports: [80]}}", "80 alone is any free port at GitHub's localhost"),
        ("services: {db: {image: a, ports: [http]}}", "expected HOST:CONTAINER or a port, found http"),
        ("snapshot: x", "snapshot is not supported"),
        ("container: 'UPPER:1:2'", "container: "),
        (
            "steps: [{uses: actions/cache/save@v2.1}]",
            "uses: actions/cache/save@v2.1: GitHub fails each job that uses it",
        ),
        ("steps: [{uses: Actions/upload-artifact@v3}]", "GitHub fails each job that uses it"),
        ("steps: [{uses: ./nope}]", "uses: ./nope: the project has no nope/action.yml"),
        (
            "steps: [{uses: actions/checkout@v4, with: {repository: o/r, ref: '${{ github.ref }}'}}]",
            "uses: actions/checkout@v4: repository: o/r: its `ref` is not known before the job runs; write it",
        ),
        (
            "strategy: {matrix: '${{ fromJSON(needs.y.outputs.m) }}'}, needs: y, uses: ./.github/workflows/called.yml",
            "uses: a matrix that needs results of other jobs can't call a workflow here",
        ),
    ],
)
def test_what_a_job_can_not_have_refuses_it_alone(planned: Planned, keys: str, message: str) -> None:
    steps = "" if "steps" in keys or "uses" in keys else ", steps: [{run: echo}]"
    runs_on = "" if "called.yml" in keys else "runs-on: ubuntu-latest, "
    planned({"called.yml": f"on: [push, workflow_call]\njobs: {{z: {{{JOB}}}}}"})
    text = f"on: push\njobs: {{x: {{{runs_on}{keys}{steps}}}, y: {{{JOB}}}}}"
    plan = planned(text)
    names = {job.name.removeprefix("ci / "): job for job in plan.jobs}
    assert message in names["x"].refused[0]
    assert not names["y"].refused
    with pytest.raises(WorkflowError, match=re.escape(message)):
        planned(text, "x")


def test_the_image_of_a_container_may_come_late_or_be_none(planned: Planned) -> None:
    plan = planned("""
on: push
jobs:
  a: {runs-on: ubuntu-latest, outputs: {i: x}, steps: [{run: echo}]}
  late: {needs: a, runs-on: ubuntu-latest, container: {image: "${{ needs.a.outputs.i }}"}, steps: [{run: echo}]}
  m:
    runs-on: ubuntu-latest
    strategy: {matrix: {c: ["", "node:20"]}}
    container: ${{ matrix.c }}
    services: {db: {image: redis, ports: [1]}, other: {image: redis}}
    steps: [{run: "${{ job.services.db.ports[1] }}"}]
  without: {runs-on: ubuntu-latest, services: {db: {image: redis}}, steps: [{run: echo}]}
""")
    without = plan.job("without")
    assert (len(without.services), without.services_at_localhost) == (1, False)  # GitHub publishes no port
    assert late(plan.job("late")).image == "${{ needs.a.outputs.i }}"
    found = {job.id: (job.image and job.image.name, job.services_at_localhost) for job in plan.jobs if job.name == "m"}
    assert found == {"m.1": ("debian:trixie-slim", True), "m.node-20": ("node:20", False)}


COMPOSITE = """
name: C
inputs: {who: {default: you}, Token: {default: "${{ github.token }}"}}
outputs: {o: {value: "${{ steps.z.outputs.q }}"}}
runs:
  using: composite
  steps:
    - {id: z, run: "echo ${{ inputs.who }}", shell: bash}
    - {uses: ./js, if: always()}
"""
JS = """
inputs: {level: {default: 1}}
runs: {using: node16, pre: pre.js, main: dist/index.js, post: post.js, post-if: success()}
"""
DOCKER = """
runs: {using: docker, image: Dockerfile, args: [a, "${{ inputs.x }}"], env: {E: e, F: f}, post-entrypoint: /end.sh}
"""


def test_steps_are_one_list(planned: Planned) -> None:
    plan = planned(
        {
            "ci.yml": """
on: push
defaults: {run: {shell: sh, working-directory: w}}
jobs:
  x:
    runs-on: ubuntu-latest
    defaults: {run: {shell: bash}}
    steps:
      - uses: actions/checkout@v4
        with: {path: sub}
      - run: |
          echo 1
          echo 2
        if: success() || failure()
      - {id: mine, uses: ./composite, with: {WHO: me, token: t}, env: {A: a}}
      - {uses: ./docker, with: {x: "1"}, env: {F: g}}
      - {uses: ./composite}
""",
            "composite/action.yml": COMPOSITE,
            "js/action.yaml": JS,
            "docker/action.yml": DOCKER,
        }
    )
    steps = plan.jobs[0].steps
    assert [(step.kind, step.stage, step.scope) for step in steps] == [
        ("checkout", "main", ()),
        ("run", "main", ()),
        ("enter", "main", ()),
        ("run", "main", ("mine",)),
        ("node", "main", ("mine",)),
        ("leave", "main", ()),
        ("docker", "main", ()),
        ("enter", "main", ()),
        ("run", "main", ("composite",)),
        ("node", "main", ("composite",)),
        ("leave", "main", ()),
        ("node", "post", ("composite",)),
        ("docker", "post", ()),
        ("node", "post", ("mine",)),
    ]
    assert [step.id for step in steps] == [f"script/{number:02d}" for number in range(1, 15)]
    assert [steps[n].main for n in (11, 12, 13)] == ["script/10", "script/07", "script/05"]
    run, enter, inner, node, leave, docker = (steps[n] for n in (1, 2, 3, 4, 5, 6))
    assert (run.shell, run.working_directory, run.condition) == ("bash", "w", "success() || failure()")
    assert (steps[1].script, steps[1].line, steps[1].literal) == ("echo 1\necho 2\n", 12, True)
    assert enter.inputs == leave.inputs == {"who": "me", "Token": "t"}
    assert (enter.key, leave.outputs) == ("mine", {"o": "${{ steps.z.outputs.q }}"})
    assert (inner.shell, inner.working_directory) == ("bash", "")
    assert node.action is not None
    assert (node.action.using, node.action.entry, node.condition, node.inputs) == (
        "node20",
        "dist/index.js",
        "always()",
        {"level": "1"},
    )
    assert docker.action is not None
    assert (docker.action.args, docker.action.env, docker.env) == (
        ("a", "${{ inputs.x }}"),
        {"E": "e", "F": "f"},
        {"F": "g"},
    )
    assert steps[13].condition == "success()"
    assert steps[0].inputs == {"path": "sub"}


def test_an_action_below_the_path_of_a_checkout_is_read_where_its_files_are(planned: Planned, tmp_path: Path) -> None:
    plan = planned(
        {
            "ci.yml": """
on: push
jobs:
  x:
    runs-on: ubuntu-latest
    steps:
      - {uses: actions/checkout@v4, with: {path: ./self}}
      - {uses: actions/checkout@v4, with: {path: far, repository: o/r, ref: v1}}
      - {uses: ./self}
      - {uses: ./self/js}
      - {uses: ./far/deep}
      - {uses: ./js}
      - {uses: actions/checkout@v4, with: {repository: o/r, ref: v1}}
      - {uses: actions/checkout@v4, with: {path: self}}
      - {uses: ./deep}
      - {uses: ./self/js}
      - {uses: actions/checkout@v4}
      - {uses: ./js}
  y: {runs-on: ubuntu-latest, steps: [{uses: ./self/js}]}
""",
            "./action.yml": JS,
            "js/action.yaml": JS,
            "server/o/r/v1/deep/action.yml": DOCKER,
        },
        repositories=lambda: Server(tmp_path / "server"),
    )
    actions = [step.action for step in plan.job("x").steps if step.stage == "main"][2:]
    assert [(one.uses, one.path, one.using, one.directory) for one in actions if one] == [
        ("./self", "self", "node20", ""),
        ("./self/js", "self/js", "node20", ""),
        ("./far/deep", "far/deep", "docker", ""),
        ("./js", "js", "node20", ""),
        ("o/r@v1", "", "", str(tmp_path / "server/o/r/v1")),
        ("./deep", "deep", "docker", ""),
        ("./self/js", "self/js", "node20", ""),
        ("./js", "js", "node20", ""),
    ]
    assert "uses: ./self/js: the project has no self/js/action.yml" in plan.job("y").refused[0]


def test_a_checkout_without_a_ref_has_the_newest_commit_of_its_repository(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "server/o/r/HEAD").mkdir(parents=True)
    steps = "steps: [{uses: actions/checkout@v4, with: {repository: o/r, path: x}}]"
    plan = planned(
        f"on: push\njobs: {{x: {{runs-on: ubuntu-latest, {steps}}}}}", repositories=lambda: Server(tmp_path / "server")
    )
    action = plan.jobs[0].steps[0].action
    assert action is not None
    assert (action.uses, action.ref, action.commit) == ("o/r@HEAD", "HEAD", "c" * 40)
    assert action.directory == str(tmp_path / "server/o/r/HEAD")


def test_an_action_that_no_step_can_have_written_refuses_its_job(planned: Planned) -> None:
    x = "x: {runs-on: ubuntu-latest, steps: [{run: make it}, {uses: ./made}]}"
    plan = planned(
        f"on: push\njobs:\n  {x}\n  y: {{runs-on: ubuntu-latest, steps: [{{uses: ./made}}, {{run: make it}}]}}\n"
    )
    assert plan.job("x").refused == ()
    assert plan.job("x").steps[1].kind == "written"
    assert "uses: ./made: the project has no made/action.yml" in plan.job("y").refused[0]


def test_a_job_gets_the_secrets_that_its_texts_name(planned: Planned) -> None:
    text = """
on: push
env: {W: "${{ secrets.of_workflow }}"}
jobs:
  a: {runs-on: ubuntu-latest, steps: [{run: "echo ${{ github.token }} ${{ secrets.MISSING }}"}]}
  b: {runs-on: ubuntu-latest, steps: [{run: "echo ${{ toJSON(secrets) }}"}]}
  c: {runs-on: ubuntu-latest, steps: [{run: "echo ${{ github.sha }} ${{ toJSON(github) }} ${{ env.token }}"}]}
"""
    given = {"OF_WORKFLOW": "env://A", "GITHUB_TOKEN": "env://B", "other": "env://C"}
    plan = planned(text, github={"secrets": given})
    assert late(plan.job("a")).secrets == {"OF_WORKFLOW": "OF_WORKFLOW", "GITHUB_TOKEN": "GITHUB_TOKEN"}
    assert late(plan.job("b")).secrets == {
        "OF_WORKFLOW": "OF_WORKFLOW",
        "GITHUB_TOKEN": "GITHUB_TOKEN",
        "OTHER": "other",
    }
    assert late(plan.job("c")).secrets == {"OF_WORKFLOW": "OF_WORKFLOW"}
    assert [secret.ref for secret in plan.job("c").secrets] == ["env://A"]
    assert planned(text).job("a").secrets == ()


@pytest.mark.parametrize(
    "keys",
    [
        "outputs: {o: SECRET}, steps: [{run: x}]",
        "env: {A: SECRET}, steps: [{run: x}]",
        "steps: [{run: SECRET}]",
        "steps: [{run: x, name: SECRET}]",
        "steps: [{run: x, working-directory: SECRET}]",
        "steps: [{run: x, timeout-minutes: SECRET}]",
        "steps: [{run: x, continue-on-error: SECRET}]",
        "steps: [{run: x, env: {A: SECRET}}]",
        "steps: [{uses: ./node, with: {a: SECRET}}]",
        "steps: [{uses: ./all, with: {a: SECRET}}]",
    ],
)
def test_a_secret_is_given_for_each_text_that_names_it(planned: Planned, keys: str) -> None:
    files = {
        "ci.yml": f"on: push\njobs: {{a: {{runs-on: ubuntu-latest, {keys}}}}}".replace("SECRET", '"${{ secrets.A }}"'),
        "node/action.yml": "inputs: {a: {}}\nruns: {using: node20, main: a.js}\n",
        "all/action.yml": "inputs: {a: {}}\nruns: {using: composite, steps: [{run: x, shell: sh}]}\n",
    }
    (job,) = planned(files, github={"secrets": {"A": "env://A", "B": "env://B"}}).jobs
    assert late(job).secrets == {"A": "A"}


def test_a_plan_can_be_kept(planned: Planned) -> None:
    plan = planned(MATRIX)
    assert msgspec.json.decode(encode_file(plan), type=Plan) == plan


@pytest.mark.parametrize(
    ("keys", "where", "message"),
    [
        ("name: \"${{ fromJSON('{') }}\"", "2:20 /jobs/x/name", "fromJSON: not valid JSON"),
        ("if: \"fromJSON('[')\"", "2:16 /jobs/x/if", "fromJSON: not valid JSON"),
        (
            "strategy: {matrix: {v: [1], exclude: \"${{ fromJSON('3') }}\"}}",
            "2:31 /jobs/x/strategy/matrix",
            "matrix: exclude is not a list of mappings",
        ),
    ],
)
def test_an_invalid_value_is_a_problem_of_the_event_that_needs_it(
    planned: Planned, keys: str, where: str, message: str
) -> None:
    text = f"on: push\njobs: {{x: {{{keys}, {JOB}}}}}"
    with pytest.raises(WorkflowError) as caught:
        planned(text)
    (problem,) = caught.value.problems
    assert problem.message.startswith(message)
    assert f"{problem.line}:{problem.column} {problem.pointer}" == where
    plan = planned(
        {
            "ci.yml": text.replace("push", "{schedule: [{cron: 5 4 * * sun}]}", 1),
            "b.yml": f"on: push\njobs: {{y: {{{JOB}}}}}",
        }
    )
    assert ids(plan) == ["b.y"]


def test_a_file_that_is_only_called_can_be_named(planned: Planned) -> None:
    text = f"on: {{workflow_call: {{inputs: {{a: {{type: string, default: x}}}}}}}}\njobs: {{a: {{{JOB}}}}}"
    assert late(planned(text).jobs[0]).contexts["inputs"] == {"a": "x"}


@pytest.mark.parametrize(("levels", "message"), [(9, ""), (10, "uses: more than 10 workflows call each other")])
def test_calls_have_a_limit_of_levels(planned: Planned, levels: int, message: str) -> None:
    call = "uses: ./.github/workflows/"
    files = {f"c{n}.yml": f"on: workflow_call\njobs: {{c: {{{call}c{n + 1}.yml}}}}" for n in range(1, levels)}
    files |= {
        "ci.yml": f"on: push\njobs: {{c: {{{call}c1.yml}}}}",
        f"c{levels}.yml": f"on: workflow_call\njobs: {{a: {{{JOB}}}}}",
    }
    if not message:
        assert ids(planned(files)) == [f"{'c.' * levels}a"]
        return
    with pytest.raises(WorkflowError) as caught:
        planned(files)
    assert [(problem.pointer, problem.message) for problem in caught.value.problems] == [("/jobs/c/uses", message)]


def test_a_workflow_that_is_not_made_to_be_called_is_a_problem(planned: Planned) -> None:
    said = "/jobs/c/uses: uses: .github/workflows/other.yml is not made to be called: it has no `on: workflow_call`"
    with pytest.raises(WorkflowError, match=said):
        planned(
            {
                "ci.yml": "on: push\njobs: {c: {uses: ./.github/workflows/other.yml}}",
                "other.yml": f"on: push\njobs: {{a: {{{JOB}}}}}",
            }
        )


def test_composite_actions_have_a_limit_of_levels(planned: Planned) -> None:
    with pytest.raises(WorkflowError, match=r"uses: ./a: more than 9 composite actions use each other"):
        planned(
            {
                "ci.yml": "on: push\njobs: {x: {runs-on: ubuntu-latest, steps: [{uses: ./a}]}}",
                "a/action.yml": "runs: {using: composite, steps: [{uses: ./a}]}\n",
            }
        )


def test_a_matrix_whose_names_are_expressions_comes_late(planned: Planned) -> None:
    plan = planned(f"on: push\njobs: {{x: {{strategy: {{matrix: {{\"${{{{ 'n' }}}}\": [1]}}}}, {JOB}}}}}")
    assert late(plan.jobs[0]).strategy == {"matrix": {"${{ 'n' }}": [1.0]}}


def test_a_file_with_mistakes_stops_a_run_that_asks_for_it(planned: Planned) -> None:
    files = {
        "good.yml": f"on: push\njobs: {{test: {{{JOB}}}, same: {{{JOB}}}}}",
        "release.yml": "on: release\njobs: {deploy: {runs-on: ubuntu-latest, stepz: []}}",
        "requests.yml": "on: pull_request\njobs: {same: {runs-on: ubuntu-latest, steps: [{run: '${{ no( }}'}]}}",
    }
    plan = planned(files)
    assert ids(plan) == ["good.test", "good.same"]
    assert set(reasons(plan)) == {"release", "requests"}
    assert reasons(plan)["release"].endswith("; loom check tells its mistakes")
    asked = {"known": {"LOOM_EVENT": "pull_request"}}
    assert ids(planned(files, "good.test", **asked)) == ["good.test"]
    for names in ((), ("requests",), ("requests.same",), ("requests / same",), ("same",)):
        with pytest.raises(WorkflowError, match="there is no function no") as caught:
            planned(files, *names, **asked)
        assert [problem.file for problem in caught.value.problems] == [".github/workflows/requests.yml"]
        assert (
            caught.value.hint == "a file without a mistake runs alone: loom run --workflow .github/workflows/good.yml"
        )


def test_only_an_environment_that_has_a_name_holds_a_job(planned: Planned) -> None:
    names = {"a": '{name: "${{ github.head_ref }}"}', "b": "{name: prod}", "c": "prod", "d": '"${{ github.head_ref }}"'}
    jobs = ", ".join(f"{key}: {{environment: {name}, {JOB}}}" for key, name in names.items())
    plan = planned(f"on: push\njobs: {{{jobs}}}")
    assert (ids(plan), list(reasons(plan))) == (["a", "d"], ["b", "c"])


def test_calls_whose_combinations_look_alike_share_a_prefix(planned: Planned) -> None:
    call = "{strategy: {matrix: {v: [1/2, 1-2]}}, uses: ./.github/workflows/called.yml}"
    plan = planned(
        {"ci.yml": f"on: push\njobs: {{c: {call}}}", "called.yml": f"on: workflow_call\njobs: {{a: {{{JOB}}}}}"}
    )
    assert ids(plan) == ["c.1-2.a", "c.1-2.a-2"]


def test_inputs_that_nobody_takes_are_refused_with_those_that_are_known(planned: Planned) -> None:
    event = {"known": {"LOOM_EVENT": "workflow_dispatch"}}
    with pytest.raises(RequestError) as caught:
        planned(f"on: workflow_dispatch\njobs: {{x: {{{JOB}}}}}", inputs={"a": "c"}, **event)
    assert caught.value.hint == "the inputs: none"


def test_a_hardened_run_refuses_a_job_that_asks_for_more(planned: Planned) -> None:
    job = "runs-on: ubuntu-latest, container: {image: alpine, options: --privileged}, steps: [{run: echo}]"
    with pytest.raises(WorkflowError) as caught:
        planned(f"on: push\njobs: {{x: {{{job}}}}}", config={"hardened": True})
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.pointer) == (2, 8, "/jobs/x")


def test_a_named_job_of_a_file_that_the_event_does_not_start_says_what_it_needs(planned: Planned) -> None:
    files = {
        "a.yml": f"on: pull_request\njobs:\n  y: {{{JOB}}}\n  x: {{needs: y, {JOB}}}",
        "b.yml": f"on: push\njobs: {{z: {{{JOB}}}}}",
    }
    with pytest.raises(WorkflowError) as caught:
        planned(files, "x")
    reason = "a.y is not part of this run (on: pull_request; the event is push); name it too, or add --no-needs"
    (problem,) = caught.value.problems
    assert (problem.line, problem.column, problem.pointer, problem.message) == (4, 14, "/jobs/x/needs", reason)
    assert ids(planned(files, "x", "y")) == ["a.y", "a.x"]


def test_a_check_names_all_jobs_and_a_refusal_the_first_of_many(planned: Planned, tmp_path: Path) -> None:
    several = lambda count, keys: ", ".join(f"j{number}: {{{keys}, {JOB}}}" for number in range(1, count + 1))  # noqa: E731
    write(tmp_path, f"on: push\njobs: {{{several(6, 'environment: prod')}}}")
    (found,), _ = rehearse(load(tmp_path / ".github/workflows", tmp_path, lambda: ResolveContext(predefined=PUSH)))
    assert found.message == "a run leaves out j1, j2, j3, j4, j5, j6 (deployments without --deploy)"
    (tmp_path / ".github/workflows/ci.yml").unlink()
    files = {f"{number}.yml": f"on: {{push: {{branches: [b{number}]}}}}\njobs: {{j: {{{JOB}}}}}" for number in range(6)}
    with pytest.raises(RequestError) as caught:
        planned(files)
    said = [f"{number}.j: on: push: branches: b{number}; this is main" for number in range(5)]
    assert caught.value.message.endswith("; ".join((*said, "and 1 more")))
    assert caught.value.hint == "A job that you name runs all the same."


@pytest.mark.parametrize(
    ("steps", "empty"),
    [
        ("{run: ls}", True),
        ("{uses: actions/checkout@v4}", False),
        ("{uses: actions/checkout@v4, with: {Path: ./, ref: v1}}, {run: ls}", False),
        ("{run: ls}, {uses: actions/checkout@v4}", True),
        ("{uses: actions/checkout@v4, if: github.ref_name == 'x'}", True),
        ("{uses: actions/checkout@v4, with: {path: a}}", True),
        ("{uses: actions/checkout@v4, with: {sparse-checkout: a}}", True),
        ("{uses: actions/checkout@v4, with: {repository: '${{ vars.X }}'}}", True),
        ("{uses: actions/checkout@v4}, {uses: actions/checkout@v4, with: {path: a}}", True),
    ],
)
def test_a_job_begins_empty_unless_its_first_step_brings_all_files(planned: Planned, steps: str, empty: bool) -> None:
    plan = planned(f"on: push\njobs: {{a: {{runs-on: ubuntu-latest, steps: [{steps}]}}}}")
    assert plan.jobs[0].no_checkout is empty


def test_a_check_counts_every_job_as_one_that_runs(tmp_path: Path) -> None:
    write(tmp_path, f"on: push\njobs:\n  a: {{environment: '${{{{ vars.WHERE }}}}', {JOB}}}\n  b: {{{JOB}}}\n")
    context = ResolveContext(predefined=PUSH)
    problems, jobs = rehearse(load(tmp_path / ".github/workflows", tmp_path, lambda: context))
    assert [problem.message for problem in problems] == ["a run leaves out a (deployments without --deploy)"]
    assert [job.id for _, job in jobs] == ["a", "b"]


def test_jobs_have_the_names_of_githubs_pages(planned: Planned) -> None:
    files = {
        "ci.yml": f"""
on: push
jobs:
  plain: {{{JOB}}}
  named: {{name: "All (checks)", {JOB}}}
  each: {{strategy: {{matrix: {{v: [1, 2]}}}}, {JOB}}}
  told: {{name: "Test py${{{{ matrix.v }}}} (${{{{ matrix.os }}}})", strategy: {{matrix: {{v: ["3.12"], os: [linux]}}}}, {JOB}}}
  call: {{name: Build, strategy: {{matrix: {{v: [a]}}}}, uses: ./.github/workflows/called.yml}}
""",
        "called.yml": f"on: workflow_call\njobs: {{in: {{name: Inner, {JOB}}}}}",
    }
    plan = planned(files)
    assert [late(job).shown for job in plan.jobs] == [
        *("plain", "All (checks)", "each (1)", "each (2)", "Test py3.12 (linux)", "Build (a) / Inner")
    ]
    for name in ("All (checks)", "each (2)", "Test py3.12 (linux)", "Build (a) / Inner"):
        assert [late(job).shown for job in planned(files, name).jobs] == [name]


def test_images_of_containers_services_and_actions_are_replaced(planned: Planned) -> None:
    job = "container: 'node:14', services: {db: {image: 'pg:12'}}, steps: [{uses: 'docker://node:14'}]"
    text = f"on: push\njobs: {{a: {{runs-on: big, {job}}}, b: {{{JOB}}}}}"
    replaced = {"node:14": "node:22", "pg:12": "pg:16", "big": "big:1", "ubuntu-latest": "u:1"}
    a, b = planned(text, config={"images": replaced}).jobs
    action = a.steps[0].action
    assert (a.image and a.image.name, a.services[0].image.name, action and action.image) == (
        "node:22",
        "pg:16",
        "docker://node:22",
    )
    assert b.image == Image(name="u:1")


@pytest.mark.parametrize(
    ("written", "unknown"),
    [
        ("vars.X == 'yes'", ("vars.X",)),
        ("vars.GIVEN == 'yes'", ()),
        ("github.ref == 'refs/heads/other' && vars.X == 'yes'", ()),
        ("vars.X == 'yes' && github.ref == 'refs/heads/other'", ()),
        ("!(github.ref != 'x' || vars.X)", ()),
        ("!(github.ref == 'x' || !vars.X)", ("vars.X",)),
        ("contains(vars['X'], 'a') && vars[github.ref]", ("vars.X", "vars")),
        ("github.actor == 'somebody'", ("github.actor",)),
        ("github.actor == 'dependabot[bot]'", ()),
        ("github.event.repository.fork", ("github.event.repository.fork",)),
        ("github.event.pull_request.draft", ()),
        ("github.event.organization.login == 'x'", ("github.event.organization.login",)),
        ("github.repository == 'other/project'", ()),
        ("contains(toJSON(github), 'xyz')", ("github",)),
    ],
)
def test_a_job_that_is_left_out_names_what_only_the_server_knows(
    planned: Planned, tmp_path: Path, written: str, unknown: tuple[str, ...]
) -> None:
    job = {"runs-on": "ubuntu-latest", "steps": [{"run": "echo", "if": "vars.X != 'no'"}]}
    jobs: dict[str, Any] = {"free": job, "job": {**job, "if": written}}
    found = planned(json.dumps({"on": "push", "jobs": jobs}), github={"vars": {"given": ""}})
    assert {one.id: one.unknown for one in found.left_out} == {"job": unknown}
    write(tmp_path, {"called.yml": json.dumps({"on": "workflow_call", "jobs": {"inner": job}})})
    calling: dict[str, Any] = {"free": job, "call": {"uses": "./.github/workflows/called.yml", "if": written}}
    found = planned(json.dumps({"on": "push", "jobs": calling}), github={"vars": {"given": ""}})
    assert {one.id: one.unknown for one in found.left_out} == {"call.inner": unknown}
    calling["call"] |= {"needs": "free", "if": f"needs.free.outputs.x && ({written})"}
    found = planned(json.dumps({"on": "push", "jobs": calling}), github={"vars": {"given": ""}})
    assert unknown_of(found.job("call.inner"), skipped=True) == unknown
    jobs["job"] |= {"needs": "free", "if": f"needs.free.outputs.x && ({written})"}
    found = planned(json.dumps({"on": "push", "jobs": jobs}), github={"vars": {"given": ""}})
    assert unknown_of(found.job("job"), skipped=True) == unknown
    assert unknown_of(found.job("job"), skipped=False) == ()
    job["steps"] = [{"run": "echo", "if": "env.A && env.C != 'd'", "env": {"A": "a ${{ env.B }}", "C": "c"}}]
    text = json.dumps({"on": "push", "env": {"B": f"${{{{ {written} }}}}"}, "jobs": {"job": job}})
    assert unknown_of(planned(text, github={"vars": {"given": ""}}).job("job"), skipped=False) == unknown
