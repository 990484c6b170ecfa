"""What a run on this machine leaves out of a GitLab pipeline, though CI runs it: what deploys, and what needs another system."""

from pathlib import Path

import pytest

from loom.config import Config
from loom.config.pools import Pool
from loom.errors import RequestError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.plan.selection import held_back
from loom.workflow.dialects import load
from tests.support.gitlab import PUSH
from tests.support.plans import as_declared

FILE = """\
stages: [build, deploy, verify]
build: {stage: build, script: x}
deploy: {stage: deploy, script: x, environment: production}
on call: {stage: deploy, script: x, environment: production, when: manual}
stop: {stage: deploy, script: x, environment: {name: production, action: stop}}
look: {stage: deploy, script: x, environment: {name: production, action: verify}}
tag: {stage: deploy, script: x, release: {tag_name: v1, description: x}}
other: {stage: deploy, script: x, environment: production, rules: [{if: $NOT}]}
win: {stage: build, script: x, tags: [shared-windows, big]}
after: {stage: verify, script: x, needs: [deploy]}
after that: {stage: verify, script: x, needs: [after]}
maybe: {stage: verify, script: x, needs: [{job: deploy, optional: true}, build]}
late: {stage: verify, script: x}
"""


def plan(tmp_path: Path, config: Config | None = None, *, text: str = FILE, **selection: object) -> Plan:
    path = tmp_path / ".gitlab-ci.yml"
    path.write_text(text)
    context = ResolveContext(predefined=PUSH, config=config or Config(), files=lambda: ["a/b/c.yml"])
    return as_declared(
        resolve(load(path, tmp_path, lambda: context), JobSelection(container=True, **selection), context)
    )  # type: ignore[arg-type]


def names(found: Plan) -> list[str]:
    return [job.name for job in found.jobs]


def test_what_deploys_and_what_needs_it_is_left_out_and_said_in_one_line(tmp_path: Path) -> None:
    found = plan(tmp_path)
    assert names(found) == ["build", "on call", "look", "maybe", "late"]
    (line,) = held_back(found)
    assert line == (
        "left out: win (its tag shared-windows is of runners with Windows; jobs run on Linux here); "
        "deploy, stop, tag (deployments without --deploy); after, after-that (what needs them)"
    )
    assert {one.id: one.reason for one in found.left_out}["other"] == "none of its rules matches: $NOT is not set"
    assert found.job("maybe").needs is not None
    assert [need.job for need in found.job("maybe").needs or ()] == ["build"]


@pytest.mark.parametrize(
    ("rules", "unknown"),
    [
        ("rules: [{if: $X}]", "X"),
        ('rules: [{if: \'$X == "a" && $Y == "b"\'}]', "X Y"),
        ("rules: [{if: '$X =~ /^v/ && $Y !~ /bb/'}]", "X"),
        ("rules: [{if: '$X && $CI_COMMIT_BRANCH == \"other\"'}]", ""),
        ("rules: [{if: $X, exists: [none]}]", ""),
        ("rules: [{exists: [$X]}]", "X"),
        ("rules: [{exists: {paths: [none, a/$X/c.yml]}}]", "X"),
        ("rules: [{exists: [$X/none, $SET/c.yml]}]", ""),
        ("rules: [{if: '$X != \"1\"', when: never}, {when: on_success}]", "X"),
        ("rules: [{if: '$X != null && $X != \"off\"'}]", "X"),
        ("rules: [{if: '$X != null && $X == \"on\"'}]", "X"),
        ("rules: [{if: $X == null, when: never}, {when: on_success}]", "X"),
        ("rules: [{if: $X, when: manual}, {when: never}]", ""),
        ("rules: [{if: $CI_COMMIT_TAG}]", ""),
        ("rules: [{if: '$CI_PROJECT_VISIBILITY == \"public\"'}]", "CI_PROJECT_VISIBILITY"),
        ("rules: [{if: $CI_MERGE_REQUEST_LABELS}]", ""),
        ("rules: [{if: '$GITLAB_USER_LOGIN == \"root\"'}]", "GITLAB_USER_LOGIN"),
        ("rules: [{if: $CI_OPEN_MERGE_REQUESTS}]", "CI_OPEN_MERGE_REQUESTS"),
        ("rules: [{if: $SET}]", ""),
        ("rules: [{if: '$A || $B || $C || $D || $E'}]", "A B C D E"),
        ("only: {variables: [$X]}", "X"),
        ("except: {variables: ['$X != \"1\"']}", "X"),
        ("only: [tags]", ""),
    ],
)
def test_a_job_that_is_left_out_names_what_only_the_server_knows(rules: str, unknown: str, tmp_path: Path) -> None:
    found = plan(tmp_path, text=f"variables: {{SET: ''}}\njob: {{script: x, {rules}}}\n").left_out
    assert [one.unknown for one in found] == [tuple(unknown.split())]
    text = f"workflow: {{rules: [{{if: $W}}]}}\nfree: {{script: x}}\njob: {{script: x, {rules}}}\n"
    of_workflow = {one.id: one.unknown for one in plan(tmp_path, text=text).left_out}
    assert of_workflow["free"] == ("W",)


def test_an_include_that_is_left_out_names_what_only_the_server_knows(tmp_path: Path) -> None:
    (tmp_path / "more.yml").write_text("more: {script: x}\n")
    for rule, unknown in {
        "{if: $X}": ("X",),
        "{if: $CI_COMMIT_TAG}": None,
        "{if: $X == null}": None,
        "{exists: [$X]}": ("X",),
    }.items():
        text = f"include: [{{local: more.yml, rules: [{rule}]}}]\njob: {{script: x}}\n"
        found = {one.id: one.unknown for one in plan(tmp_path, text=text).left_out}
        assert found == ({"include more.yml": unknown} if unknown else {})


def test_a_job_that_is_left_out_tells_its_artifacts(tmp_path: Path) -> None:
    text = "a: {stage: build, script: x, artifacts: {paths: [dist/, x.log]}}\nb: {stage: test, script: x}\n"
    found = plan(tmp_path, text=text, from_job="b")
    assert [(one.id, one.artifacts) for one in found.left_out] == [("a", ("dist/", "x.log"))]


def test_images_are_those_of_the_jobs_that_can_run_here(tmp_path: Path) -> None:
    text = "a: {script: x}\nwin: {script: x, tags: [windows]}\nafter: {script: x, needs: [win]}\n"
    assert names(plan(tmp_path, text=text, jobs=("a", "win", "after"), if_possible=True)) == ["a"]


def test_the_setting_runs_them(tmp_path: Path) -> None:
    found = plan(tmp_path, Config(deploy=True))
    assert [one.id for one in found.left_out] == ["win", "other"]
    assert found.job("on-call").when == "manual"


def test_a_name_runs_the_job_and_no_other(tmp_path: Path) -> None:
    assert names(plan(tmp_path, jobs=("deploy",))) == ["deploy"]
    assert names(plan(tmp_path, jobs=("deploy", "after"))) == ["deploy", "after"]
    with pytest.raises(RequestError, match="after needs deploy, which is left out") as refused:
        plan(tmp_path, jobs=("after",))
    assert refused.value.hint == "Name that job too, or add --deploy or --no-needs."
    assert names(plan(tmp_path, jobs=("after",), with_needs=False)) == ["after"]
    assert names(plan(tmp_path, stages=("deploy",), with_needs=False)) == ["on call", "look"]


@pytest.mark.parametrize(
    ("tag", "runs"),
    [
        ("windows", False), ("saas-windows-medium-amd64", False), ("Windows-2019", False), ("macos", False), ("osx", False),
        ("saas-macos-medium-m1", False), ("mac-mini", False), ("ios", False), ("win10", False), ("freebsd", False),
        ("linux", True), ("machine", True), ("winner", True), ("saas-linux-small-amd64", True), ("docker", True),
    ],
)  # fmt: skip
def test_a_tag_that_names_another_system(tmp_path: Path, tag: str, runs: bool) -> None:
    found = plan(tmp_path, text=f"a: {{script: x, tags: [{tag}]}}\nb: {{script: x}}")
    assert names(found) == (["a", "b"] if runs else ["b"])
    config = Config(pools={tag: Pool(name=tag, provider="docker")})
    assert names(plan(tmp_path, config, text=f"a: {{script: x, tags: [{tag}]}}")) == ["a"]


def test_check_says_it_once_for_each_reason(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text(FILE)
    problems, _ = rehearse(load(tmp_path / ".gitlab-ci.yml", tmp_path, ResolveContext))
    assert [(one.line, one.message) for one in problems] == [
        (3, "a run leaves out deploy, on call, stop, tag, other (deployments without --deploy)"),
        (9, "a run leaves out win (Windows)"),
    ]


def test_no_pipeline_is_made_of_jobs_before_and_after_all_stages(tmp_path: Path) -> None:
    text = "a: {stage: .pre, script: x}\nb: {stage: .post, script: x}\n"
    found = plan(tmp_path, text=text + "c: {script: x, rules: [{if: $NOT}]}")
    alone = "GitLab makes no pipeline of jobs in .pre and .post alone"
    assert [one.id for one in found.left_out if one.reason == alone] == ["a", "b"]
    assert (names(found), names(plan(tmp_path, text=text + "c: {script: x}"))) == ([], ["a", "c", "b"])
