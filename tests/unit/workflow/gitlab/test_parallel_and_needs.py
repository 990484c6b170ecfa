"""Instances of jobs, and what they need."""

import pytest

from loom.workflow import instances as of_jobs
from loom.workflow.gitlab import needs
from loom.workflow.gitlab.shapes import JOB_TABLE, GitLabShapes
from loom.workflow.instances import Instance
from loom.workflow.job_ids import MOST
from loom.workflow.messages import Problems
from tests.support.gitlab import entry, node, pipeline

ALONE = Instance(id="job", title="job")


def instances(text: str) -> dict[str, list[Instance]]:
    return of_jobs.instances({name: value.get("parallel") for name, value in node(text).value.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{build: {script: x}}", [("build", "build")]),
        ("{test: {parallel: 2}}", [("test.1", "test 1/2"), ("test.2", "test 2/2")]),
        (
            "{test: {parallel: {matrix: [{OS: [linux, mac], ARCH: [x64, arm]}, {OS: win}]}}}",
            [
                ("test.linux-x64", "test: [linux, x64]"),
                ("test.linux-arm", "test: [linux, arm]"),
                ("test.mac-x64", "test: [mac, x64]"),
                ("test.mac-arm", "test: [mac, arm]"),
                ("test.win", "test: [win]"),
            ],
        ),
        (
            "{test: {parallel: {matrix: [{V: [1, 1.10, true]}]}}}",
            [("test.1", "test: [1]"), ("test.1.1", "test: [1.1]"), ("test.true", "test: [true]")],
        ),
        ("{test: {parallel: {matrix: [{}, {V: [a, a]}, {W: []}, {V: a}]}}}", [("test.a", "test: [a]")]),
        (
            "{test: {parallel: {matrix: [{V: [a/b, a:b]}]}}}",
            [("test.a-b", "test: [a/b]"), ("test.a-b-2", "test: [a:b]")],
        ),
        (
            "{test: {parallel: {matrix: [{V: [" + "x" * 33 + "], W: [y], X: [" + "z" * 32 + "]}]}}}",
            [(f"test.{'x' * 32}-y-{'z' * 32}", f"test: [{'x' * 33}, y, {'z' * 32}]")],
        ),
        (
            "{'build app': {}, build-app: {}, 'build:app': {}}",
            [("build-app-2", "build app"), ("build-app", "build-app"), ("build-app-3", "build:app")],
        ),
        ("{Test: {}, test: {}}", [("Test", "Test"), ("test-2", "test")]),
        ("{'☃': {}, '../x': {}}", [("x", "☃"), ("x-2", "../x")]),
        ("{test.1: {}, test: {parallel: 1}}", [("test.1", "test.1"), ("test.1-2", "test 1/1")]),
    ],
)
def test_titles_are_gitlabs_and_ids_are_safe_and_unique(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(one.id, one.title) for several in instances(text).values() for one in several] == expected


def test_no_more_is_made_of_too_many_than_says_so() -> None:
    numbers = list(range(300))
    for parallel in (f"{{matrix: [{{A: {numbers}}}]}}", f"{{matrix: [{{A: {numbers}, B: {numbers}}}]}}", "100000"):
        assert len(instances(f"{{test: {{parallel: {parallel}}}}}")["test"]) == MOST + 1


def test_an_instance_knows_its_position() -> None:
    first, second = instances("{test: {parallel: {matrix: [{A: [x, y]}]}}}")["test"]
    assert (first.matrix, first.index, first.total) == ({"A": "x"}, 1, 2)
    assert (second.matrix, second.index, second.total) == ({"A": "y"}, 2, 2)
    assert instances("{test: {}}")["test"][0].index is None


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{parallel: 200}", False),
        ("{parallel: 0}", True),
        ("{parallel: {}}", True),
        ("{parallel: {matrix: []}}", True),
        ("{parallel: 99999999999999999999}", True),
        (
            "{parallel: {matrix: [{A: [1, 2, 3, 4, 5, 6, 7, 8, 9], B: [1, 2, 3, 4, 5, 6, 7, 8, 9], C: [1, 2, 3, 4]}]}}",
            True,
        ),
        ("{parallel: {matrix: [{A: [1, 2]}]}}", False),
    ],
)
def test_a_number_of_instances_has_limits(text: str, wrong: bool) -> None:
    problems = GitLabShapes()
    problems.fields(node(text), "", JOB_TABLE)
    assert bool(problems.found) is wrong


def test_what_needs_say() -> None:
    text = """
needs:
  - build
  - job: lint
    artifacts: false
    optional: true
  - job: test
    parallel: {matrix: [{OS: linux, V: [1, 2]}]}
  - pipeline: $PARENT
    job: x
  - project: other/one
    job: y
    ref: main
"""
    problems = Problems()
    found = needs.wanted(entry(text), ALONE, None, problems)
    assert found is not None
    assert [(one.job, one.artifacts, one.optional, one.matrix) for one in found] == [
        ("build", True, False, ()),
        ("lint", False, True, ()),
        ("test", True, False, ({"OS": "linux", "V": "1"}, {"OS": "linux", "V": "2"})),
    ]
    assert not problems.found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{script: x}", None),
        ("{needs: []}", []),
        ("{needs: ~}", None),
        ("{needs: [{project: a/b, job: x}]}", []),
        ("{needs: {job: build}}", ["build"]),
    ],
)
def test_without_needs_a_job_waits_for_stages(text: str, expected: list[str] | None) -> None:
    found = needs.wanted(entry(text), ALONE, None, Problems())
    assert (None if found is None else [one.job for one in found]) == expected


@pytest.mark.parametrize(("of_rule", "job"), [("[b]", "b"), ("null", "a")])
def test_needs_of_a_rule_replace_those_of_the_job(of_rule: str, job: str) -> None:
    found = needs.wanted(entry("{needs: [a]}"), ALONE, node(f"{{needs: {of_rule}}}").get("needs"), Problems())
    assert [one.job for one in found or ()] == [job]


def test_expressions_name_the_jobs_own_matrix() -> None:
    text = "needs: [{job: build, parallel: {matrix: [{OS: '$[[ matrix.OS ]]', TAG: ['v-$[[matrix.OS]]']}]}}]"
    own = Instance(id="job.linux", title="job: [linux]", matrix={"OS": "linux"}, index=1, total=1)
    problems = Problems()
    (found,) = needs.wanted(entry(text), own, None, problems) or ()
    assert found.matrix == ({"OS": "linux", "TAG": "v-linux"},)
    assert not problems.found
    needs.wanted(entry(text), ALONE, None, problems)
    several = Instance(id="x", title="x", matrix={"A": "a", "B": "b"}, index=1, total=1)
    needs.wanted(entry(text), several, None, problems)
    none = "none: the job has no parallel:matrix"
    assert [(one.column, one.pointer, one.message) for one in problems.found] == [
        (41, "/needs/0/parallel/matrix", f"needs:parallel:matrix: the job's matrix has no OS; it has {known}")
        for known in (none, "A, B")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{a: {stage: build}, b: {stage: test, needs: [a]}}", []),
        ("{a: {stage: test}, b: {stage: test, needs: [a]}}", []),
        (
            "{a: {stage: test, needs: [deplo]}, deploy: {stage: test}}",
            ["needs: unknown job deplo; did you mean deploy?"],
        ),
        ("{a: {stage: test, needs: [{job: gone, optional: true}]}}", []),
        (
            "{a: {stage: build, needs: [b]}, b: {stage: test}}",
            ["needs: b is in a later stage (test) than a (build); need a job of the same or an earlier stage"],
        ),
        (
            "{a: {stage: test, needs: [b]}, b: {stage: test, needs: [a]}}",
            ["needs: the jobs need each other in a cycle: a -> b -> a; remove one"],
        ),
        ("{a: {stage: test, needs: [a]}}", ["needs: the jobs need each other in a cycle: a -> a; remove one"]),
        ("{a: {stage: build, parallel: 2}, b: {stage: test, needs: ['a 2/2']}}", []),
        ("{a: {stage: test, rules: [{if: $A, needs: [gone]}]}}", ["needs: unknown job gone"]),
        (
            "{a: {stage: test, needs: [{project: x/y, job: z}]}}",
            [],
        ),
        ("{a: {stage: build}, b: {stage: test, dependencies: [a]}}", []),
        ("{a: {stage: build}, b: {stage: test, dependencies: [gone]}}", ["dependencies: unknown job gone"]),
        (
            "{a: {stage: test}, b: {stage: test, dependencies: [a]}}",
            ["dependencies: a is not in an earlier stage, so its artifacts are not there yet"],
        ),
        (
            "{a: {stage: build}, c: {stage: build}, b: {stage: test, needs: [c], dependencies: [a]}}",
            ["dependencies: a must be one of the job's needs too"],
        ),
        ("{a: {stage: test}, b: {stage: test, needs: [a], dependencies: [a]}}", []),
        (
            (
                "{a: {stage: build, parallel: {matrix: [{V: [x, y]}]}}, b: {stage: test, needs: [{job: a, parallel:"
                " {matrix: [{V: x}]}}, {job: a, parallel: {matrix: [{V: y}]}}]}}"
            ),
            [],
        ),
    ],
)
def test_needs_that_can_not_be_are_named_with_the_keyword(text: str, expected: list[str]) -> None:
    problems = Problems()
    needs.check(pipeline(text), problems)
    assert [one.message for one in problems.found] == expected


def test_dependencies() -> None:
    assert needs.dependencies(entry("{script: x}")) is None
    assert needs.dependencies(entry("{dependencies: []}")) == []
    assert needs.dependencies(entry("{dependencies: [a, b]}")) == ["a", "b"]
