"""Small pipelines whose outcome GitLab's documentation decides (docs.gitlab.com/ci/yaml)."""

from pathlib import Path
from typing import Any

import pytest

from loom.config import Config
from loom.errors import WorkflowError
from loom.plan.model import Job, JobSelection, Plan, ResolveContext, Retry
from loom.plan.resolve import resolve
from loom.workflow.dialects import load
from tests.support.gitlab import PUSH
from tests.support.plans import as_declared


def plan(tmp_path: Path, text: str, *jobs: str) -> Plan:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(text)
    context = ResolveContext(predefined=PUSH, config=Config(deploy=True), files=lambda: ["src/a.py", "Dockerfile"])
    return as_declared(resolve(load(path, tmp_path, lambda: context), JobSelection(container=True, jobs=jobs), context))


def job(tmp_path: Path, keywords: str, root: str = "") -> Job:
    return plan(tmp_path, f"{root}\njob: {{script: x, {keywords}}}").job("job")


@pytest.mark.parametrize(
    ("written", "retry"),
    [
        ("1", Retry(max=1)),
        ("{max: 1}", Retry(max=1)),
        # Without `max`: none, also for a reason that GitLab lists.
        ("{when: script_failure}", Retry(max=0, when=frozenset({"script_failure"}))),
        ("{exit_codes: 3}", Retry(max=0, exit_codes=frozenset({3}))),
        # `always` means nothing beside codes: only a code is tried again.
        ("{max: 1, exit_codes: [137]}", Retry(max=1, exit_codes=frozenset({137}))),
        ("{max: 1, exit_codes: 3, when: runner_system_failure}", Retry(max=1, when=frozenset({"provider_failure"}), exit_codes=frozenset({3}))),
        ("{max: 1, exit_codes: 3, when: always}", Retry(max=1)),
        ("{max: 1, when: stale_schedule}", Retry(max=1, when=frozenset())),
        ("{max: 1, exit_codes: 3, when: stale_schedule}", Retry(max=1, when=frozenset(), exit_codes=frozenset({3}))),
    ],
)  # fmt: skip
def test_a_retry_is_for_a_reason_or_a_code(tmp_path: Path, written: str, retry: Retry) -> None:
    assert job(tmp_path, f"retry: {written}").retry == retry


@pytest.mark.parametrize(
    ("keywords", "limit"),
    [
        ("timeout: 10m", (600.0, True)),
        ("timeout: 10m, variables: {RUNNER_SCRIPT_TIMEOUT: 5m}", (300.0, False)),
        ("timeout: 10m, variables: {RUNNER_SCRIPT_TIMEOUT: 20m}", (600.0, True)),
        ("tags: [a]", (3600.0, True)),
    ],
)
def test_after_script_runs_after_the_limit_of_the_script_alone(
    tmp_path: Path, keywords: str, limit: tuple[float, bool]
) -> None:
    found = job(tmp_path, keywords)
    assert (found.timeout_s, found.ends_at_timeout) == limit


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("pages: {script: x}", ("public",)),
        ("pages: {script: x, publish: site}", ("site",)),
        ("pages: {script: x, pages: false}", None),
        ("pages: {script: x, artifacts: {paths: [a]}}", ("a", "public")),
        ("pages: {script: x, artifacts: {paths: [public]}}", ("public",)),
        ("other: {script: x, pages: true}", ("public",)),
        ("other: {script: x, pages: {publish: out}}", ("out",)),
        ("other: {script: x}", None),
    ],
)
def test_what_pages_publish_is_an_artifact(tmp_path: Path, text: str, paths: tuple[str, ...] | None) -> None:
    (found,) = plan(tmp_path, text).jobs
    assert (found.artifacts and found.artifacts.paths) == paths


@pytest.mark.parametrize(
    ("workflow", "ends"),
    [
        ("{auto_cancel: {on_job_failure: all}}", True),
        ("{auto_cancel: {on_job_failure: none}}", False),
        ("{auto_cancel: {on_new_commit: none}}", False),
        ("{rules: [{when: always, auto_cancel: {on_job_failure: all}}]}", True),
        (
            "{auto_cancel: {on_job_failure: all}, rules: [{if: $CI_COMMIT_BRANCH, auto_cancel: {on_job_failure: none}}]}",
            False,
        ),
        ("{auto_cancel: {on_job_failure: all}, rules: [{if: $NOT}, {when: always}]}", True),
        ("{rules: [{if: $NOT, auto_cancel: {on_job_failure: all}}, {when: always}]}", False),
    ],
)
def test_a_failure_cancels_the_pipeline(tmp_path: Path, workflow: str, ends: bool) -> None:
    assert plan(tmp_path, f"workflow: {workflow}\njob: {{script: x}}").ends_at_failure is ends


VARIABLES: list[tuple[str, str, dict[str, str]]] = [
    ("variables: {A: root}", "variables: {A: job}", {"A": "job"}),
    ("variables: {A: root}", "inherit: {variables: false}, variables: {B: '[$A]'}", {"B": "[]"}),
    ("variables: {A: 1, B: 2}", "inherit: {variables: [B]}, variables: {C: '$A-$B'}", {"C": "-2"}),
    ("variables: {A: $B, B: $C, C: deep}", "tags: [a]", {"A": "deep"}),
    ("variables: {A: '$$B', B: x}", "tags: [a]", {"A": "$B"}),
    ("variables: {A: {value: $B, expand: false}, B: x}", "tags: [a]", {"A": "$B"}),
    ("variables: {A: {value: $B, expand: false}, B: x, C: $A}", "tags: [a]", {"C": "$B"}),
    ("variables: {A: '${B}x', B: b}", "tags: [a]", {"A": "bx"}),
    ("variables: {A: root}", "rules: [{if: $A == 'root', variables: {A: rule}}]", {"A": "rule"}),
    ("variables: {A: root}\nworkflow: {rules: [{when: always, variables: {A: flow}}]}", "tags: [a]", {"A": "flow"}),
    ("workflow: {rules: [{when: always, variables: {A: flow}}]}", "variables: {A: job}", {"A": "job"}),
    ("variables: {A: 017, B: true, C: 1.50}", "tags: [a]", {"A": "15", "B": "true", "C": "1.5"}),
    ("variables: {A: }", "tags: [a]", {"A": ""}),
    ("variables: {A: 'x y', B: \"$A\"}", "tags: [a]", {"B": "x y"}),
]


@pytest.mark.parametrize(("root", "keywords", "values"), VARIABLES)
def test_the_value_of_a_variable(tmp_path: Path, root: str, keywords: str, values: dict[str, str]) -> None:
    found = job(tmp_path, keywords, root).variables
    assert {name: found[name] for name in values} == values


RULES: list[tuple[str, Any]] = [
    ("rules: [{if: $NOT}, {when: always}]", "always"),
    ("rules: [{if: $CI_COMMIT_BRANCH, when: never}, {when: always}]", None),
    ("rules: [{exists: ['src/*.py']}]", "on_success"),
    ("rules: [{exists: ['*.py']}]", None),
    ("rules: [{exists: ['**/*.py']}]", "on_success"),
    ("rules: [{exists: [Dockerfile], if: $NOT}]", None),
    ("rules: [{if: '$CI_COMMIT_BRANCH && $NOT == null'}]", "on_success"),
    ("rules: [{if: '$CI_COMMIT_BRANCH =~ /^[a-z]+$/'}]", "on_success"),
    ("rules: [{if: '$NOT || $CI_COMMIT_BRANCH'}], when: on_failure", "on_failure"),
    ("rules: [{when: manual}]", "manual"),
    ("when: manual", "manual"),
    ("only: [tags]", None),
    ("only: [branches]", "on_success"),
    ("except: [branches]", None),
]


@pytest.mark.parametrize(("keywords", "when"), RULES)
def test_whether_a_job_runs(tmp_path: Path, keywords: str, when: Any) -> None:
    found = plan(tmp_path, f"job: {{script: x, {keywords}}}\nother: {{script: x}}")
    assert next((one.when for one in found.jobs if one.id == "job"), None) == when


@pytest.mark.parametrize(
    ("keywords", "artifacts"),
    [
        ("dependencies: [b, a]", ("a", "b")),
        ("dependencies: []", ()),
        ("stage: test", None),
        ("needs: [a, b], dependencies: [b]", ("b",)),
        ("needs: [{job: a, artifacts: false}, b], dependencies: [a, b]", ("b",)),
    ],
)
def test_dependencies_choose_among_the_artifacts_of_the_jobs_before(
    tmp_path: Path, keywords: str, artifacts: tuple[str, ...] | None
) -> None:
    before = "a: {stage: build, script: x}\nb: {stage: build, script: x}"
    assert job(tmp_path, keywords, before).artifacts_from == artifacts


def test_a_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_bytes(b"job: {script: \xff}\n")
    with pytest.raises(WorkflowError, match="UTF-8"):
        load(path, tmp_path, ResolveContext)


def problems(tmp_path: Path, text: str, **files: str) -> list[str]:
    for name, content in files.items():
        (tmp_path / f"{name}.yml").write_text(content)
    with pytest.raises(WorkflowError) as caught:
        plan(tmp_path, text)
    return [problem.message for problem in caught.value.problems]


def test_files_outside_the_project_are_not_included(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "out.yml").write_text("job: {script: x}")
    (project / "in.yml").symlink_to(tmp_path / "out.yml")
    said = f"in.yml is a link that points outside the project, to {tmp_path.resolve()}/out.yml; include a file of the project"
    assert any(said in message for message in problems(project, "include: in.yml"))
    assert any("none.yml can't be read: no such file" in message for message in problems(project, "include: none.yml"))


@pytest.mark.parametrize("keyword", ["only", "except", "rules"])
def test_a_glob_that_stands_for_too_much_is_an_error(tmp_path: Path, keyword: str) -> None:
    changes = "{changes: ['" + "{a,b}" * 20 + "']}"
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(f"job: {{script: x, {keyword}: {f'[{changes}]' if keyword == 'rules' else changes}}}")
    context = ResolveContext(predefined=PUSH, changed=lambda _: ["a"])
    with pytest.raises(WorkflowError, match=r"the braces of the glob {a,b}{a,b}"):
        resolve(load(path, tmp_path, lambda: context), JobSelection(container=True), context)


def test_references_inside_what_is_referred_to_are_replaced(tmp_path: Path) -> None:
    text = """
.one: {script: [a, b]}
.two: {script: [!reference [.one, script], c], variables: !reference [.three, variables]}
.three: {variables: {V: "1"}}
job: {script: [!reference [.two, script, 0], !reference [.two, script]], variables: {V: !reference [.two, variables, V]}}
"""
    made = plan(tmp_path, text).job("job")
    assert [step.script for step in made.steps] == ["a", "b", "a", "b", "c"]
    assert made.variables["V"] == "1"


@pytest.mark.parametrize(
    ("written", "pull", "others"),
    [
        ("always", "always", ()),
        ("[if-not-present, always, never]", "missing", ("always", "never")),
        ("[]", "missing", ()),
    ],
)
def test_pull_policies_are_tried_in_turn(tmp_path: Path, written: str, pull: str, others: tuple[str, ...]) -> None:
    image = f"{{name: i, pull_policy: {written}}}"
    found = job(tmp_path, f"image: {image}, services: [{image}]")
    for one in (found.image, found.services[0].image):
        assert one is not None
        assert (one.pull, one.pull_else) == (pull, others)


@pytest.mark.parametrize(
    ("when", "runs"), [("always", "always"), ("on_failure", "on_failure"), ("manual", "on_success")]
)
def test_a_job_that_is_named_runs_as_it_would_without_its_rules(tmp_path: Path, when: str, runs: str) -> None:
    text = f"job: {{script: x, when: {when}, rules: [{{if: $NONE}}]}}\nother: {{script: x}}"
    assert plan(tmp_path, text, "job").job("job").when == runs


def test_a_pipeline_of_another_project_is_left_out_with_the_reason(tmp_path: Path) -> None:
    found = plan(tmp_path, "a: {script: x}\nb: {trigger: {project: o/p}}\nc: {trigger: o/p}\n")
    said = "it would start a pipeline of another project, which is not done here"
    assert [one.id for one in found.jobs] == ["a"]
    assert [(one.id, one.reason) for one in found.left_out] == [("b", said), ("c", said)]


@pytest.mark.parametrize(
    ("forward", "variables"),
    [
        ("", {"Y": "y", "Z": "written y"}),
        (", forward: {yaml_variables: true}", {"Y": "y", "Z": "written y"}),
        ("}, inherit: {variables: false", {"Y": "y"}),
        (", forward: {yaml_variables: false}", {}),
        (", forward: {yaml_variables: false, pipeline_variables: true}", {"G": "1", "Z": "given"}),
        (", forward: {pipeline_variables: true}", {"Y": "y", "G": "1", "Z": "given"}),
    ],
)
def test_the_variables_that_a_child_pipeline_is_given(tmp_path: Path, forward: str, variables: dict[str, str]) -> None:
    """GitLab's documentation of `trigger:forward`: a variable of the run itself is passed on only where that says so."""
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(
        f"variables: {{Z: written $Y}}\nd: {{variables: {{Y: y}}, trigger: {{include: child.yml{forward}}}}}\n"
    )
    context = ResolveContext(predefined=PUSH, files=lambda: ["child.yml"])
    given = JobSelection(variables={"G": "1", "Z": "given"})
    (made,) = resolve(load(path, tmp_path, lambda: context), given, context).jobs
    assert made.trigger is not None
    assert {
        name: made.trigger.variables[name] for name in ("Y", "G", "Z") if name in made.trigger.variables
    } == variables


def test_a_job_on_this_machine_has_the_projects_directory_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / ".gitlab-ci.yml"
    said = "variables: {D: $CI_PROJECT_DIR}, script: x}"
    path.write_text(f"a: {{{said}\nb: {{image: i, {said}\n")
    context = ResolveContext(predefined=PUSH, host_project_dir="/here")
    found = resolve(load(path, tmp_path, lambda: context), JobSelection(), context)
    assert [one.variables["D"] for one in found.jobs] == ["/here", "/workspace"]


def test_the_pattern_of_a_coverage_stands_between_slashes(tmp_path: Path) -> None:
    assert job(tmp_path, r"coverage: '/TOTAL (\d+)%/'").coverage == r"TOTAL (\d+)%"
