"""What the reader of GitHub's workflows says of their files: errors with a place, notices, inputs."""

import re
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.errors import RequestError, WorkflowError
from loom.plan.model import ResolveContext
from loom.plan.resolve import rehearse
from loom.util.yaml_file import fields_of
from loom.workflow import patterns as searches
from loom.workflow.dialects import examine, load
from loom.workflow.github import events, loader
from loom.workflow.github.keywords import CONTEXTS, JOB, ROOT_KEYWORDS
from loom.workflow.github.shapes import GitHubShapes
from loom.workflow.github.workflows import FaultyFile, Workflows
from loom.workflow.loaded import LoadOutcome
from tests.support.plans import expect, problem_line

SOUND = "on: push\njobs: {x: {runs-on: ubuntu-latest, steps: [{run: echo}]}}\n"


def examined(root: Path, text: str, name: str = "ci.yml") -> LoadOutcome:
    folder = root / ".github/workflows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return examine(folder, root, ResolveContext)


def messages(found: LoadOutcome) -> list[str]:
    return [f"{problem.line}:{problem.column} {problem.pointer} {problem.message}" for problem in found.problems]


def job(*lines: str) -> str:
    return "\n".join(
        ["on: push", "jobs:", "  x:", "    runs-on: ubuntu-latest", *(f"    {line}" for line in lines), ""]
    )


STEPS = "steps: [{run: echo}]"


MISTAKES = [
    ("", "1:1 / the file is empty"),
    ("- a\n", "1:1 / expected a mapping with `on` and `jobs`"),
    (
        "jobs: {x: {runs-on: a, steps: [{run: x}]}}",
        "1:1 / the key on is missing: write `on: push`",
    ),
    ("on: push\n", "1:1 / the key jobs is missing; add it"),
    ("on: push\njobs: {}\n", "2:7 /jobs expected at least one entry, found none; add one"),
    (f"{SOUND}job: x\n", "3:1 /job unknown key job; did you mean jobs?"),
    (SOUND.replace("push", "pusj"), "1:5 /on expected a mapping or one of the documented words or a list"),
    (
        "on: {push: {branch: main}}\njobs: {x: {runs-on: a, steps: [{run: x}]}}",
        "1:13 /on/push/branch unknown key branch",
    ),
    (
        "on: {push: {paths: [a], paths-ignore: [b]}}\njobs: {x: {runs-on: a, steps: [{run: x}]}}",
        "1:39 /on/push/paths-ignore paths and paths-ignore can't stand together",
    ),
    (
        "on: {push: {branches: ['+a']}}\njobs: {x: {runs-on: a, steps: [{run: x}]}}",
        "1:24 /on/push/branches/0 branches: + in +a stands after nothing that it could repeat",
    ),
    (
        SOUND.replace("on: push", "on: {push: {tags: [a, '!+b']}}"),
        "1:23 /on/push/tags/1 tags: + in +b stands after nothing that it could repeat",
    ),
    (
        (
            "on: {workflow_dispatch: {inputs: {a: {type: choice, default: x, options: [b]}}}}\n"
            "jobs: {x: {runs-on: a, steps: [{run: x}]}}"
        ),
        "default: a: x is none of b",
    ),
    (
        "on: push\njobs: {x: {runs-on: a, secrets: inherit, with: {a: b}, steps: [{run: x}]}}",
        "2:24 /jobs/x/secrets `secrets` is for a job with `uses`; this one has steps",
    ),
    (
        "on: {schedule: [{cron: '* *'}]}\njobs: {x: {runs-on: a, steps: [{run: x}]}}",
        "/on/schedule/0/cron cron: expected minute, hour, day, month and weekday, found * *",
    ),
    (
        "on: {workflow_dispatch: {inputs: {a: {type: choice}, b: {type: boolean, default: yes}}}}\njobs: {}",
        "1:38 /on/workflow_dispatch/inputs/a a: a choice needs `options`",
    ),
    (
        "on: {workflow_dispatch: {inputs: {b: {type: boolean, default: yes}}}}\njobs: {}",
        "/on/workflow_dispatch/inputs/b/default default: b is true or false, not 'yes'",
    ),
    (
        "on: {workflow_call: {inputs: {n: {type: number, default: few}}}}\njobs: {}",
        "/on/workflow_call/inputs/n/default default: n is a number, not 'few'",
    ),
    (SOUND.replace("on: push", "on: {push: {tags: ['[b-a]']}}"), "/on/push/tags/0 tags: [b-a] is no pattern: "),
    (SOUND.replace("{runs", "!x {runs"), "2:11 / tags are not allowed (!x); remove it, or quote the text"),
    (SOUND.replace("echo", "!!int 3"), "/ tags are not allowed (tag:yaml.org,2002:int)"),
    ("on: push\njobs: {x: 3}", "2:8 /jobs/x x: expected a job, a mapping with `runs-on` and `steps`"),
    (
        SOUND.replace("x:", "1x:"),
        "2:8 /jobs/1x 1x: a job's id has letters, digits, - and _; no digit, - or __ first",
    ),
    (job(), "3:3 /jobs/x x: `steps` is missing"),
    ("on: push\njobs: {x: {runs-on: a, steps: []}}", "2:8 /jobs/x x: `steps` is empty"),
    ("on: push\njobs: {x: {runs-on: '', steps: [run: a]}}", "2:21 /jobs/x/runs-on expected "),
    ("on: push\njobs: {x: {runs-on: [], steps: [run: a]}}", "2:8 /jobs/x x: `runs-on` is empty"),
    ("on: push\njobs: {x: {runs-on: {}, steps: [run: a]}}", "2:8 /jobs/x x: `runs-on` is empty"),
    (
        "on: push\njobs: {x: {uses: ./.github/workflows/a.yml@main}}",
        "2:18 /jobs/x/uses uses: expected ./.github/workflows/FILE.yml or owner/",
    ),
    (
        job("steps: [{run: echo, uses: ./x}]"),
        "5:13 /jobs/x/steps/0 the step has both `run` and `uses`; make two steps",
    ),
    (job("steps: [{name: a}]"), "5:13 /jobs/x/steps/0 the step has neither `run` nor `uses`"),
    (job("steps: [{uses: checkout}]"), "5:20 /jobs/x/steps/0/uses uses: expected owner/repository@ref"),
    (job("steps: [{uses: ./x, shell: bash}]"), "5:32 /jobs/x/steps/0/shell `shell` is for a step with `run`"),
    (
        job("steps: [{id: a, run: x}, {id: A, run: x}]"),
        "5:35 /jobs/x/steps/1/id id: A is a duplicate (of step 1)",
    ),
    (
        job("steps: [{run: x, timeout-minutes: soon}]"),
        "5:39 /jobs/x/steps/0/timeout-minutes expected a number",
    ),
    (job(STEPS, "secrets: {a: b}"), "6:5 /jobs/x/secrets `secrets` is for a job with `uses`; this one has steps"),
    (
        job("steps: [{uses: ./x, working-directory: w}]"),
        "5:44 /jobs/x/steps/0/working-directory `working-directory` is for a step with `run`",
    ),
    (
        job("steps: [{id: 1a, run: x}]"),
        "5:18 /jobs/x/steps/0/id id: 1a: letters, digits, - and _; no digit, - or __ first",
    ),
    ("on: push\njobs: {x: {steps: [{run: x}]}}", "2:8 /jobs/x x: `runs-on` is missing"),
    (job(STEPS, "needs: y"), "6:12 /jobs/x/needs needs: unknown job y"),
    (job(STEPS, "needs: [x]"), "needs: the jobs need each other in a cycle: x -> x; remove one"),
    (job(STEPS, "with: {a: 1}"), "6:5 /jobs/x/with `with` is for a job with `uses`; this one has steps"),
    (
        job(STEPS, "strategy: {matrix: {v: 3}}"),
        "6:28 /jobs/x/strategy/matrix/v matrix: v: expected a list of values",
    ),
    (job(STEPS, "strategy: {matrix: {v: []}}"), "matrix: v: the list is empty; give it a value"),
    (
        job(STEPS, "strategy: {matrix: {}}"),
        "matrix: it is empty, which GitHub refuses; give it a name with a list of values",
    ),
    (
        "on: push\njobs: {x: {uses: ./a.yml}}",
        "2:18 /jobs/x/uses uses: expected ./.github/workflows/FILE.yml or owner/",
    ),
    ("on: push\njobs: {x: {uses: ./.github/workflows/no.yml}}", "uses: .github/workflows/no.yml can't be read"),
    (
        "on: push\njobs: {x: {uses: a/b/.github/workflows/c.yml@v1, runs-on: a}}",
        "/jobs/x/runs-on `runs-on` can't stand in a job with `uses`",
    ),
    (
        job("steps: [{run: 'echo ${{ nope.x }}'}]"),
        "5:25 /jobs/x/steps/0/run there is no context nope here; there are env,",
    ),
    (job("steps: [{run: 'echo ${{ github.x'}]"), "5:25 /jobs/x/steps/0/run invalid expression: `${{` has no `}}`"),
    (
        job(STEPS, "if: secrets.A == 'x'"),
        "/jobs/x/if there is no context secrets here; there are github, inputs, needs, vars",
    ),
    (job(STEPS, "if: steps.a.outcome"), "/jobs/x/if there is no context steps here"),
    (job(STEPS, "env: {A: \"${{ hashFiles('x') }}\"}"), "/jobs/x/env/A hashfiles() can't be used here"),
    (job("steps: [{run: x, env: {A: '${{ success() }}'}}]"), "/jobs/x/steps/0/env/A success() can't be used here"),
    (
        job("steps: [{run: x, if: success('a') && !failure()}]"),
        "/jobs/x/steps/0/if success takes 0 arguments in a step",
    ),
    (job(STEPS, "if: success(1) || cancelled(1)"), "/jobs/x/if invalid expression: cancelled takes 0 arguments, not 1"),
    (job(STEPS, "needs: ['${{ x }}']"), "/jobs/x/needs/0 there are no expressions here; write the value itself"),
    (
        f"{SOUND}env: {{A: '${{{{ env.B }}}}'}}",
        "/env/A there is no context env here; there are github, inputs, secrets, vars",
    ),
    ("on: push\njobs: {x: *unknown}", "the alias *unknown is unknown"),
    ("on: push\njobs: &a {x: *a}", "the alias *a stands inside its own anchor"),
    ("on: push\nenv: {<<: {a: b}}\njobs: {}", "GitHub does not merge with <<; write the keys out"),
]


MORE_MISTAKES = [
    SOUND.replace("push", "!x [push]") + "env: !x [a]\ndefaults: !!str {}\n",
    SOUND.replace(
        "push", "{push: {branches: a, tags-ignore: ['v?', '!?v', '[]']}, pull_request: {types: [], tags: x}}"
    ),
    SOUND.replace(
        "push",
        "{workflow_call: {inputs: {a: {default: x}, b: {type: choice, options: [x]}}, secrets: {s: x}, outputs: {o: {}}}}",
    ),
    job(
        "steps: [{run: x, id: x, ID: y}, {uses: a/b@v1, with: [x], env: x, shell: y, working-directory: z, if: '${{'}, x]"
    ),
    job(
        STEPS,
        "strategy: {matrix: {include: x, a: {b: c}, b: '${{ secrets.A }}', c: []}, fail-fast: 1, max-parallel: x}",
    ),
    job(STEPS, "needs: [y, y, z]")
    + "  y: {runs-on: a, steps: []}\n  z: {runs-on: [], needs: x, steps: [{wait: a}, {run: x, wait: y}]}\n",
    job(
        STEPS,
        "container: {imag: x}",
        "services: {a: {image: ''}, b: x}",
        "env: {A: [x]}",
        "outputs: {o: '${{ runner.os }}'}",
    ),
    job(
        STEPS,
        "if: github.x ==",
        "name: '${{ 1 + 1 }}'",
        "timeout-minutes: " + "x" * 41,
        "continue-on-error: " + "y" * 40,
    ),
    job("uses: ./x", "steps: []", "if: a b", "secrets: x", "with: {a: '${{ nope }}'}"),
    "on: push\njobs: {x: &a {runs-on: x, steps: [{run: x}]}, X: *a, " + "a" * 101 + ": *a}\n",
    "on: []\njobs: [x]\n",
    (
        "on: {pull_request: {types: [opend]}, release: {types: Published}, create: {types: x}, push: {types: [x], tags: },"
        " repository_dispatch: {types: mine}, check_run: }\npermissions:\njobs: {x: {runs-on: a, steps: [{run: x}]}}"
    ),
    job("steps: [[{run: x}], {run: x, shell: ''}, {run: x, shell: '${{ env.A }}'}, {run: x, env: }]").replace(
        "on: push", "on: [[push]]"
    ),
    job(STEPS, "needs: ['']", "concurrency: ''", "timeout-minutes:", "container:").replace(
        "ubuntu-latest", "{labels: '', group: }"
    ),
    "on: &a [push]\njobs: *b\nother: *a\n",
    "on: push\nenv: &e {A: b}\njobs: {x: {runs-on: ubuntu-latest, steps: [{run: x, timeout-minutes: *e, shell: *e}]}}\n",
]
"""Files of which all problems are kept."""


@pytest.mark.parametrize(("text", "expected"), MISTAKES)
def test_a_mistake_has_its_position(tmp_path: Path, text: str, expected: str) -> None:
    found = messages(examined(tmp_path, text))
    assert any(expected in one for one in found), found


def test_all_that_is_said_of_mistakes(tmp_path: Path) -> None:
    said = []
    for text in MORE_MISTAKES:
        found = examined(tmp_path, text)
        more = rehearse(found.workflow)[0] if found.workflow is not None else ()
        said += [f"-- {text!r}", *map(problem_line, found.sort([*found.problems, *more]))]
    expect(Path(__file__).with_name("mistakes.txt"), "".join(f"{line}\n" for line in said))


def test_any_scalar_is_a_key(tmp_path: Path) -> None:
    found = examined(tmp_path, SOUND + "env: {1: a, true: b, 1.10: c, ~: d}\n")
    assert messages(found) == []
    assert isinstance(found.workflow, Workflows)
    assert list(fields_of(found.workflow.workflows[0].root.get("env"))) == ["1", "true", "1.10", "~"]


def test_a_tag_says_that_a_value_is_text(tmp_path: Path) -> None:
    found = examined(tmp_path, SOUND.replace("push", "push\nenv: {A: !!str 1.10}"))
    assert messages(found) == []
    assert isinstance(found.workflow, Workflows)
    written = found.workflow.workflows[0].root.find("env", "A")
    assert written is not None
    assert written.value == "1.10"


def test_problems_of_all_files_are_told_in_their_order(tmp_path: Path) -> None:
    examined(tmp_path, SOUND.replace("run:", "ran:"), "b.yml")
    found = examined(tmp_path, SOUND.replace("echo", "x, run: y"), "a.yaml")
    assert [problem.file.rpartition("/")[2] for problem in found.problems] == ["a.yaml", "b.yml", "b.yml"]
    assert examine(tmp_path / ".github/workflows/b.yml", tmp_path, ResolveContext).problems[0].file.endswith("b.yml")
    with pytest.raises(WorkflowError) as caught:
        load(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    assert len(caught.value.problems) == 3
    found = examined(tmp_path, SOUND, "c.yml")
    assert (len(found.problems), found.rest is None) == (3, False)


def test_a_file_runs_alone_that_calls_none_with_a_mistake_on_any_level(tmp_path: Path) -> None:
    calls = "jobs: {{c: {{uses: ./.github/workflows/{}.yml}}}}\n"
    for name, called in (("one", "two"), ("two", "three"), ("other", "sound")):
        examined(tmp_path, "on: [push, workflow_call]\n" + calls.format(called), f"{name}.yml")
    examined(tmp_path, SOUND.replace("push", "workflow_call"), "sound.yml")
    found = examined(tmp_path, SOUND.replace("push", "workflow_call") + "job: x\n", "three.yml")
    assert len(found.problems) == 1
    assert isinstance(found.rest, Workflows)
    assert [file.label for file in found.rest.workflows] == ["other"]


def test_of_several_files_those_without_mistakes_can_be_loaded(tmp_path: Path) -> None:
    examined(tmp_path, "on: push\njobs: {x: {uses: ./.github/workflows/called.yml}}", "calls.yml")
    examined(tmp_path, "on: workflow_call\njobs: {y: {runs-on: a, stepz: []}}", "called.yml")
    examined(tmp_path, "on: {push: {x: 1}}\njobs: {x: {runs-on: a, steps: [{run: x}]}}", "on.yml")
    examined(tmp_path, "a: [", "broken.yml")
    examined(tmp_path, SOUND, "sound.yml")
    loaded = load(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    assert isinstance(loaded, Workflows)
    assert [file.label for file in loaded.workflows] == ["sound"]
    assert {entry.file.label for entry in loaded.entries.values()} == {"sound"}
    known = {one.label: (one.file is not None, len(one.problems)) for one in loaded.faulty}
    assert known == {"broken": (False, 1), "calls": (True, 2), "on": (False, 1)}
    assert len(loaded.files) == 5


def test_a_faulty_file_is_asked_for_by_its_stage_and_its_jobs() -> None:
    faulty = FaultyFile(label="a", problems=(), file=None)
    assert [faulty.is_asked_for([name]) for name in ("a", "a.x", "a / x", "x", "b / a")] == [True] * 3 + [False] * 2
    reading = loader.WorkflowReader()
    reading.read("a.yml", SOUND.encode())
    assert replace(faulty, file=reading.found["a.yml"]).is_asked_for(["y", "x"])


def test_a_called_workflow_is_read_with_its_caller(tmp_path: Path) -> None:
    examined(tmp_path, "on: workflow_call\njobs: {y: {runs-on: a, stepz: []}}", "called.yml")
    examined(tmp_path, "on: push\njobs: {x: {uses: ./.github/workflows/called.yml}}")
    found = examine(tmp_path / ".github/workflows/ci.yml", tmp_path, ResolveContext)
    assert [problem.file for problem in found.problems] == [".github/workflows/called.yml"] * 2
    assert found.workflow is not None
    assert list(found.workflow.jobs) == ["x"]


def test_a_directory_without_workflows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    with pytest.raises(RequestError, match="has no workflow file") as error:
        examine(tmp_path / ".github/workflows", tmp_path, ResolveContext)
    assert error.value.code == "WF_NOT_FOUND"


def test_calls_are_followed_and_each_file_is_read_once(tmp_path: Path) -> None:
    call = "on: [push, workflow_call]\njobs: {{x: {{uses: ./.github/workflows/{}.yml}}, y: {{uses: $/.github/workflows/{}.yml}}}}"
    for name, calls in (("ci", "ab"), ("a", "bc"), ("b", "cc"), ("c", "cd")):
        examined(tmp_path, call.format(*calls), f"{name}.yml")
    found = examine(tmp_path / ".github/workflows/ci.yml", tmp_path, ResolveContext)
    assert [(one.file, one.line, one.column, one.pointer, one.message) for one in found.problems] == [
        (
            *(".github/workflows/c.yml", 2, 56, "/jobs/y/uses"),
            "uses: .github/workflows/d.yml can't be read: no such file or directory",
        )
    ]
    assert isinstance(found.workflow, Workflows)
    assert sorted(one.name for one in found.workflow.files) == [
        f".github/workflows/{name}.yml" for name in ("a", "b", "c", "ci")
    ]
    assert list(found.workflow.entries) == ["x", "y"]


def test_files_of_one_name_have_their_endings_in_the_names_of_their_jobs(tmp_path: Path) -> None:
    for name in ("one.yaml", "one.yml", "two.yml"):
        found = examined(tmp_path, SOUND, name)
    assert found.workflow is not None
    assert list(found.workflow.jobs) == ["one / x", "one.yml / x", "two / x"]


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("main", ["main"], ["mains", "a/main"]),
        ("feature/*", ["feature/a"], ["feature/a/b", "feature"]),
        ("feature/**", ["feature/a", "feature/a/b"], ["features/a"]),
        ("*", ["a"], ["a/b"]),
        ("**", ["a", "a/b"], []),
        ("*.jsx?", ["a.js", "a.jsx"], ["a.jsxx"]),
        ("v[12].[0-9]+.x", ["v1.10.x", "v2.0.x"], ["v3.1.x", "v1..x"]),
        ("**/docs/**", ["docs/a", "x/docs/a/b"], ["docs"]),
        ("**.js", ["a.js", "x/y.js"], ["a.jsx"]),
        ("**/*-post.md", ["my-post.md", "a/b/my-post.md"], ["post.md"]),
        ("a{b,c}", ["a{b,c}"], ["ab"]),
        (r"\*a", ["*a"], ["ba"]),
        ("releases/v?", ["releases/", "releases/v"], ["releases/vv"]),
    ],
)
def test_filter_patterns_are_githubs(pattern: str, matching: list[str], others: list[str]) -> None:
    assert [name for name in [*matching, *others] if events.included(name, [pattern])] == matching


@pytest.mark.parametrize("pattern", ["?", "+a", "a?+", "a++", "a+?", "*+", "**?", "a/*?"])
def test_a_repeat_of_nothing_is_no_pattern(pattern: str) -> None:
    with pytest.raises(events.BadPattern, match=re.escape(f" in {pattern} stands after nothing that it could repeat")):
        events.compiled(pattern)
    assert events.included("ab1", ["a+b?[0-9]+"])
    assert not events.included("ab", ["a+b?[0-9]+"])


def test_a_file_that_was_read_is_sound_or_has_a_first_mistake() -> None:
    reading = loader.WorkflowReader()
    reading.read("a.yml", SOUND.encode())
    assert reading.sound("a.yml") is reading.found["a.yml"]
    reading.read("b.yml", SOUND.replace("run:", "ran:").replace("jobs", "job").encode())
    assert reading.sound("b.yml") == "b.yml:2:1: GH_INVALID /job: unknown key job; did you mean jobs?"
    other = loader.WorkflowReader()
    other.read("c.yml", b"")
    other.read("d.yml", b"- x")
    assert other.sound("d.yml") == "c.yml:1:1: GH_INVALID /: the file is empty"


def test_a_pattern_that_would_take_hours_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "MAX_SEARCH_S", 0.05)
    with pytest.raises(RequestError, match="took longer than"):
        events.included("a" * 4000, ["*a" * 12 + "b"])


def test_later_patterns_win() -> None:
    wanted = ["releases/**", "!releases/**-alpha", "releases/x-alpha"]
    assert [events.included(f"releases/{name}", wanted) for name in ("10", "b-alpha", "x-alpha")] == [
        True,
        False,
        True,
    ]


def test_the_table_is_whole() -> None:
    names = {one.name for one in JOB} | {f"root:{one.name}" for one in ROOT_KEYWORDS}
    assert {name for name in CONTEXTS if name not in names} == set()
    assert all(
        name.rpartition(":")[0] in {one.name for one in table}
        for table in (JOB, ROOT_KEYWORDS)
        for name in (one.name for one in table)
        if ":" in name
    )


SPECIAL = {"always()", "success()", "failure()", "cancelled()", "hashFiles()"}
CONTEXT_NAMES = "github inputs vars needs strategy matrix env secrets steps job runner jobs"
EVERYTHING = {*CONTEXT_NAMES.split(), *SPECIAL}
EVERYWHERE = """
on: {workflow_call: {inputs: {i: {type: string, default: "ALL"}}, outputs: {o: {value: "ALL"}}}}
run-name: "ALL"
concurrency: {group: "ALL"}
env: {A: "ALL"}
defaults: {run: {shell: "ALL"}}
jobs:
  x:
    name: "ALL"
    if: "ALL"
    runs-on: "ALL"
    snapshot: "ALL"
    environment: {name: "ALL", url: "ALL"}
    concurrency: "ALL"
    outputs: {o: "ALL"}
    env: {A: "ALL"}
    defaults: {run: {shell: "ALL"}}
    timeout-minutes: "ALL"
    strategy: {matrix: {a: ["ALL"]}, fail-fast: "ALL"}
    continue-on-error: "ALL"
    container: {image: "ALL", credentials: {username: "ALL", password: x}, env: {A: "ALL"}}
    services: {s: {image: "ALL", credentials: {username: "ALL", password: x}, env: {A: "ALL"}}}
    steps: [{id: "ALL", if: "ALL", run: "ALL"}, {uses: "ALL", with: {a: "ALL"}}]
  y: {uses: ./.github/workflows/z.yml, with: {a: "ALL"}, secrets: {a: "ALL"}}
"""
AVAILABLE = {
    "/on/workflow_call/inputs/i/default": "github inputs vars",
    "/on/workflow_call/outputs/o/value": "github inputs vars jobs",
    "/run-name": "github inputs vars",
    "/concurrency/group": "github inputs vars",
    "/env/A": "github inputs vars secrets",
    "/defaults/run/shell": "github inputs vars env",
    "/jobs/x/name": "github inputs vars needs strategy matrix",
    "/jobs/x/if": "github inputs vars needs always() success() failure() cancelled()",
    "/jobs/x/runs-on": "github inputs vars needs strategy matrix",
    "/jobs/x/snapshot": "github inputs vars needs strategy matrix",
    "/jobs/x/environment/name": "github inputs vars needs strategy matrix",
    "/jobs/x/environment/url": "github inputs vars needs strategy matrix env steps job runner",
    "/jobs/x/concurrency": "github inputs vars needs strategy matrix",
    "/jobs/x/outputs/o": "github inputs vars needs strategy matrix env secrets steps job runner",
    "/jobs/x/env/A": "github inputs vars needs strategy matrix secrets",
    "/jobs/x/defaults/run/shell": "github inputs vars needs strategy matrix env",
    "/jobs/x/timeout-minutes": "github inputs vars needs strategy matrix",
    "/jobs/x/strategy/matrix/a/0": "github inputs vars needs",
    "/jobs/x/strategy/fail-fast": "github inputs vars needs",
    "/jobs/x/continue-on-error": "github inputs vars needs strategy matrix",
    "/jobs/x/container/image": "github inputs vars needs strategy matrix",
    "/jobs/x/container/credentials/username": "github inputs vars needs strategy matrix env secrets",
    "/jobs/x/container/env/A": "github inputs vars needs strategy matrix env secrets job runner",
    "/jobs/x/services/s/image": "github inputs vars needs strategy matrix",
    "/jobs/x/services/s/credentials/username": "github inputs vars needs strategy matrix env secrets",
    "/jobs/x/services/s/env/A": "github inputs vars needs strategy matrix env secrets job runner",
    "/jobs/x/steps/0/id": "",
    "/jobs/x/steps/0/if": (
        "github inputs vars needs strategy matrix env steps job runner"
        " always() success() failure() cancelled() hashFiles()"
    ),
    "/jobs/x/steps/0/run": "github inputs vars needs strategy matrix env secrets steps job runner hashFiles()",
    "/jobs/x/steps/1/uses": "",
    "/jobs/x/steps/1/with/a": "github inputs vars needs strategy matrix env secrets steps job runner hashFiles()",
    "/jobs/y/with/a": "github inputs vars needs strategy matrix",
    "/jobs/y/secrets/a": "github inputs vars needs strategy matrix secrets",
}


def test_what_expressions_may_read_is_as_in_githubs_table(tmp_path: Path) -> None:
    called = {name: "hashFiles('a')" if name == "hashFiles()" else name for name in SPECIAL}
    every = " || ".join(called.get(name, f"{name}.a") for name in sorted(EVERYTHING))
    refused: dict[str, set[str]] = {}
    for problem in examined(tmp_path, EVERYWHERE.replace("ALL", f"${{{{ {every} }}}}")).problems:
        one = re.match(
            r"there is no context (\w+) here|(\w+)\(\) can't be used|there are no (expressions) here", problem.message
        )
        if one is not None:
            names = EVERYTHING if one[3] else {one[1] or f"{one[2]}()".replace("hashfiles", "hashFiles")}
            refused.setdefault(problem.pointer, set()).update(names)
    assert {pointer: EVERYTHING - names for pointer, names in refused.items()} == {
        pointer: set(names.split()) for pointer, names in AVAILABLE.items()
    }


def test_a_file_has_a_limit_of_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = "on: push\njobs: {x: {runs-on: a, env: {A: 1, B: 2}, steps: [{run: x}]}}\n"
    monkeypatch.setattr(loader, "GitHubShapes", partial(GitHubShapes, _left=4))
    assert any("the file has more than 500000 values" in one for one in messages(examined(tmp_path, several)))
    monkeypatch.setattr(loader, "GitHubShapes", partial(GitHubShapes, _left=40))
    assert messages(examined(tmp_path, several)) == []


def test_of_values_that_aliases_repeat_what_is_below_them_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = ", ".join(f"A{number}: x" for number in range(30))
    steps = ", ".join(["{run: x, env: *e}"] * 30)
    text = f"on: push\njobs: {{x: {{runs-on: a, env: &e {{{values}}}, steps: [{steps}]}}}}\n"
    monkeypatch.setattr(loader, "GitHubShapes", partial(GitHubShapes, _left=300))
    assert messages(examined(tmp_path, text)) == []


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        *((f"{key}: x", True) for key in ("name", "if", "concurrency")),
        *(
            (one, True)
            for one in (
                "permissions: {contents: read}",
                "strategy: {matrix: {a: [1]}}",
                "with: {a: b}",
                "secrets: inherit",
            )
        ),
        *((f"{key}: x", False) for key in ("runs-on", "container", "environment")),
        *((f"{key}: {{a: x}}", False) for key in ("env", "outputs")),
        ("defaults: {run: {shell: sh}}", False),
        ("steps: [{run: x}]", False),
        ("timeout-minutes: 3", False),
        ("continue-on-error: true", False),
    ],
)
def test_keys_that_a_job_with_uses_may_have(tmp_path: Path, key: str, allowed: bool) -> None:
    text = f"on: push\njobs: {{x: {{uses: a/b/.github/workflows/c.yml@v1, {key}}}}}"
    name = key.partition(":")[0]
    said = f"2:50 /jobs/x/{name} `{name}` can't stand in a job with `uses`"
    assert (said in messages(examined(tmp_path, text))) is not allowed


@pytest.mark.parametrize(
    ("cron", "wrong"),
    [
        *(
            (cron, "")
            for cron in ("0 000 001 * *", "28 5,*/4,6-8 * JAN-dec *", "20/15 4-4 2-4/5 * SUN-2", " 59 23 31 12 7 ")
        ),
        ("0 0 * * * *", "minute, hour, day, month and weekday"),
        *((f"{cron} * * * *", "a minute from 0 to 59") for cron in ("60", "-1", "1-", "/1", "1/", ",1", "12-4", "*/0")),
        *(
            (f"0 {cron} * * *", "an hour from 0 to 23")
            for cron in ("24", "2/4-5", "2-4-6", "*/*", "**", "*-4", "1/30", "?")
        ),
        *((f"0 0 {cron} * *", "a day from 1 to 31") for cron in ("0", "32", "L")),
        *((f"0 0 * {cron} *", "a month from 1 to 12") for cron in ("0", "13", "SUN")),
        *((f"0 0 * * {cron}", "a weekday from 0 to 7") for cron in ("8", "BUN", "FRI-TUE", "5#3", "*/TUE")),
    ],
)
def test_times_of_a_schedule(tmp_path: Path, cron: str, wrong: str) -> None:
    found = messages(examined(tmp_path, SOUND.replace("push", f"{{schedule: [{{cron: '{cron}'}}]}}")))
    assert found == ([f"1:24 /on/schedule/0/cron cron: expected {wrong}, found {cron}"] if wrong else [])
