"""`loom check`, `compile`, `schema` and `config`, from the command line to the exit code."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from loom.cli.boundary import run_app
from tests.support.repository import commit_all, git

GOOD = """\
version: v1
stages: [build, test]
variables: {LEVEL: yes}
build: {stage: build, script: make, image: "gcc:14"}
test:
  stage: test
  needs: [build]
  parallel: {matrix: [{PYTHON: ["3.11", "3.12"]}]}
  image: python:$PYTHON
  script: pytest
docs:
  stage: test
  script: make docs
  rules: [{changes: [docs/**]}]
"""
Loom = Callable[..., tuple[int, str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a workflow, and a home of its own; the current directory is a folder below."""
    home, root = tmp_path / "home", tmp_path / "project"
    (root / ".loom").mkdir(parents=True)
    (root / "src").mkdir()
    home.mkdir()
    (root / ".loom/workflow.yml").write_text(GOOD)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(root / "src")
    commit_all(root)
    return root


@pytest.fixture
def loom(capsys: pytest.CaptureFixture[str]) -> Loom:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_app(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_good_workflow(project: Path, loom: Loom) -> None:
    code, out, err = loom("check")
    assert code == 0
    assert out.splitlines()[-1] == ".loom/workflow.yml: ok, 3 jobs in 2 stages"
    assert err == ""
    document = json.loads(loom("check", "--format", "json")[1])
    assert (document["kind"], document["jobs"], document["files"]) == ("loom-check", 3, [".loom/workflow.yml"])
    assert not (project.parent / "home/.local/state").exists()


def test_a_broken_workflow_with_the_source_and_a_marker(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text(
        "version: v1\nstages: [test]\na:\n  stage: test\n  scirpt: x\n  timeout: 10\n"
    )
    code, out, err = loom("check")
    assert (code, err) == (2, "")
    assert out.splitlines() == [
        ".loom/workflow.yml:5:3: WF_SCHEMA_V1 /a/scirpt: unknown key scirpt; did you mean script?",
        "    5 |   scirpt: x",
        "      |   ^^^^^^",
        ".loom/workflow.yml:6:12: WF_SCHEMA_V1 /a/timeout: expected a duration with its unit, such as 10s or 10m, found '10'",
        "    6 |   timeout: 10",
        "      |            ^^",
        ".loom/workflow.yml: 2 errors",
    ]


def test_warnings_count_when_strict(project: Path, loom: Loom) -> None:
    (project / "w.yml").write_text("version: v1\nstages: [test]\na: {stage: test, script: cd x}\n")
    assert loom("check", "-f", "../w.yml")[0] == 0
    code, out, _ = loom("check", "-f", "../w.yml", "--strict")
    assert code == 1
    assert out.startswith("w.yml:3:26: warning: WF_STEP_LOST /a/script: ")


def test_formats_for_machines(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text("version: v1\nstages: [test]\na: {stage: test, script: x, image: 5}\n")
    code, out, _ = loom("check", "--format", "json")
    document = json.loads(out)
    assert (code, document["errors"], document["warnings"]) == (2, 1, 0)
    assert document["problems"][0] | {"message": ""} == {
        "code": "WF_SCHEMA_V1",
        "severity": "error",
        "file": ".loom/workflow.yml",
        "line": 3,
        "column": 36,
        "length": 1,
        "pointer": "/a/image",
        "message": "",
        "source": "a: {stage: test, script: x, image: 5}",
    }
    _, out, _ = loom("check", "--format", "github")
    assert out.startswith(
        "::error file=.loom/workflow.yml,line=3,col=36,endColumn=37,title=WF_SCHEMA_V1::/a/image: expected an image's name"
    )


def test_secrets_are_judged_as_a_run_would(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text(
        "version: v1\nstages: [test]\na:\n  stage: test\n  script: [set -x; deploy]\n  secrets:\n    A: evn://hunter2\n    B: hunter2\n"
    )
    code, out, _ = loom("check")
    assert code == 2
    assert "hunter2" not in out
    (project / ".loom/workflow.yml").write_text(
        "version: v1\nstages: [test]\na:\n  stage: test\n  script: [set -x; deploy]\n  secrets:\n    A: evn://hunter2\n"
    )
    code, out, _ = loom("check")
    assert code == 2
    assert "hunter2" not in out
    assert ".loom/workflow.yml:7:8: SECRETS_REF_INVALID /a/secrets/A: no provider for evn:// is installed" in out
    assert ".loom/workflow.yml:5:12: SECRETS_UNSAFE_DEBUG_TRACE /a/script/0: 'set -x; deploy' prints every" in out


def test_all_errors_are_told_at_once(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text(
        """\
version: v1
stages: [test]
variables: {CI_DEBUG_TRACE: "1"}
a: {stage: test, extends: .gone, script: [x]}
b: {stage: test, secrets: {T: {ref: "keepas://x"}}, script: [x]}
c:
  stage: tset
  variables: {CI_DEBUG_TRACE: "0"}
  secrets: {T: {ref: "env://T"}}
  before_script: set -x
  script:
    - |
      echo one

      bash -xe run
d: {stage: test, script: [x], timeout: 1 day}
e: {stage: test, script: [x], variables: {A: $B, B: $A}}
"""
    )
    code, out, _ = loom("check")
    assert code == 2
    trace = "SECRETS_UNSAFE_DEBUG_TRACE"
    assert [
        line.split(": ")[:2]
        for line in out.splitlines()
        if line.startswith(".loom/workflow.yml:") and "notice: " not in line
    ][:-1] == [
        [".loom/workflow.yml:3:29", f"{trace} /variables/CI_DEBUG_TRACE"],
        [".loom/workflow.yml:4:27", "WF_SCHEMA_V1 /a/extends"],
        [".loom/workflow.yml:5:37", "SECRETS_REF_INVALID /b/secrets/T/ref"],
        [".loom/workflow.yml:7:10", "WF_SCHEMA_V1 /c/stage"],
        [".loom/workflow.yml:10:18", f"{trace} /c/before_script"],
        [".loom/workflow.yml:15:7", f"{trace} /c/script/0"],
        [".loom/workflow.yml:16:40", "WF_SCHEMA_V1 /d/timeout"],
        [".loom/workflow.yml:17:46", "WF_SCHEMA_V1 /e/variables/A"],
    ]
    assert out.splitlines()[-1] == ".loom/workflow.yml: 8 errors, 1 notice"
    assert "did you mean keepass://?" in out


def test_each_file_has_its_own_count(project: Path, loom: Loom) -> None:
    (project / ".loom/config.yml").write_text("bogus: 1\njobs: many\n")
    code, out, _ = loom("check")
    assert code == 2
    assert out.splitlines()[-2:] == [
        ".loom/workflow.yml: ok, 3 jobs in 2 stages",
        ".loom/config.yml: 2 errors",
    ]


@pytest.mark.parametrize("command", [["compile"], ["run", "--dry-run"]])
def test_a_base_that_git_does_not_know_is_an_error(project: Path, loom: Loom, command: list[str]) -> None:
    assert loom(*command, "--changes-base", "main")[0] == 0
    code, out, err = loom(*command, "--changes-base", "no-such-branch")
    assert (code, out) == (2, "")
    assert err.startswith("loom: --changes-base no-such-branch: git knows no such branch, tag or commit here\n")


def test_a_broken_configuration_is_an_error_of_the_check(project: Path, loom: Loom) -> None:
    (project / ".loom/config.yml").write_text("bogus: 1\n")
    code, out, err = loom("check")
    assert code == 2
    assert ".loom/config.yml:1:1: CONFIG_INVALID /bogus: unknown setting bogus" in out
    assert err == ""


def test_the_workflow_that_a_first_use_is_told_to_write(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").unlink()
    code, _, err = loom("check")
    first, advice, *_ = err.splitlines()
    assert (code, first) == (2, "loom: .loom/workflow.yml: workflow file not found")
    assert loom(*advice.rpartition(": loom ")[2].split())[0] == 0
    assert loom("check", "--strict")[0] == 0


def test_no_workflow(project: Path, loom: Loom) -> None:
    code, out, err = loom("check", "-f", "gone.yml")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "loom: src/gone.yml: workflow file not found",
        "  The path is relative to the working directory.",
    ]


@pytest.mark.parametrize("other", [".gitlab-ci.yaml", ".loom/workflow.yaml"])
def test_a_workflow_with_another_ending_is_found(project: Path, loom: Loom, other: str) -> None:
    (project / ".loom/workflow.yml").rename(project / other)
    advice = f"There is {other}: rename it to {Path(other).stem}.yml, or name it with --workflow"
    assert advice in loom("check")[2]


@pytest.mark.slow
def test_the_plan_is_the_same_in_every_format(project: Path, loom: Loom) -> None:
    as_yaml = yaml.safe_load(loom("compile")[1])
    as_json = json.loads(loom("compile", "--format", "json")[1])
    ids = ["build", "test.3.11", "test.3.12"]
    assert [job["id"] for job in as_yaml["jobs"]] == [job["id"] for job in as_json["jobs"]] == ids
    assert as_json["left_out"] == [
        {"id": "docs", "reason": "none of its rules matches: 0 changed files, none matches docs/**"}
    ]
    assert as_json["jobs"][1]["image"]["name"] == "python:3.11"
    assert as_json["jobs"][1]["needs"] == [{"job": "build", "optional": False, "artifacts": True}]


@pytest.mark.slow
def test_changes_are_those_of_the_work_tree(project: Path, loom: Loom) -> None:
    def left_out(*arguments: str) -> list[str]:
        return [item["id"] for item in json.loads(loom("compile", "--format", "json", *arguments)[1])["left_out"]]

    assert left_out() == ["docs"]
    (project / "docs").mkdir()
    (project / "docs/new.md").write_text("untracked")
    assert left_out() == []
    for words in (["checkout", "-q", "-b", "topic"], ["add", "-A"], ["commit", "-q", "-m", "docs"]):
        git(project, *words)
    assert left_out() == ["docs"]
    assert left_out("--changes-base", "main") == []


def test_selection_and_explanation(project: Path, loom: Loom) -> None:
    code, out, _ = loom("compile", "test", "--matrix", "PYTHON=3.12", "--var", "LEVEL=2", "--explain", "test")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["id"] == ["test.3.12", "job", "(.loom/workflow.yml:5:1)"]
    assert rows["image"] == ["python:3.12", "job", "(.loom/workflow.yml:9:10)"]
    assert rows["variables.LEVEL"] == ["2", "--var"]
    assert rows["variables.PYTHON"] == ["3.12", "matrix", "(.loom/workflow.yml:8:41)"]
    code, _, err = loom("compile", "--explain", "docs")
    assert (code, err.splitlines()[0]) == (
        2,
        "loom: docs is not in the plan: none of its rules matches: 0 changed files, none matches docs/**",
    )
    code, _, err = loom("compile", "--var", "oops")
    assert (code, err) == (2, "loom: --var oops: expected NAME=value\n")
    code, _, err = loom("compile", "tset")
    assert (code, err.splitlines()[0]) == (2, "loom: unknown job tset; did you mean test?")


def test_the_branch_is_known_to_conditions(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text(
        'version: v1\nstages: [test]\na: {stage: test, script: x, image: "app:$CI_COMMIT_SHORT_SHA", rules: [{if: $CI_COMMIT_BRANCH == "main"}]}\n'
    )
    sha = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, cwd=project, capture_output=True, text=True
    ).stdout.strip()
    (job,) = json.loads(loom("compile", "--format", "json")[1])["jobs"]
    assert job["image"]["name"] == f"app:{sha[:8]}"


def test_the_schema_is_a_schema(loom: Loom) -> None:
    code, out, _ = loom("schema")
    assert code == 0
    assert json.loads(out)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_configuration_is_shown_with_its_origin(project: Path, loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".loom/config.yml").write_text("jobs: 3\n")
    monkeypatch.setenv("LOOM_GRACE", "3s")
    _, out, _ = loom("config", "show", "--origin")
    lines = {line.split(":")[0]: line.split("# ")[1] for line in out.splitlines()}
    assert lines["jobs"] == "project (.loom/config.yml:1:7)"
    assert lines["grace"] == "environment (LOOM_GRACE)"
    assert lines["pull"] == "built-in"
    assert loom("config", "show", "jobs")[1] == "3\n"
    assert json.loads(loom("config", "show", "--format", "json")[1])["settings"]["jobs"]["value"] == "3"
    assert loom("config", "show", "job")[0] == 2


def test_what_a_shell_cannot_read_is_an_error_at_its_line(project: Path, loom: Loom) -> None:
    (project / ".loom/workflow.yml").write_text("""\
version: v1
stages: [test]
.shared:
  before_script:
    - |
      echo fine
      if true; then
        echo a
      done
a: {extends: .shared, stage: test, script: ['echo "open']}
b: {extends: .shared, stage: test, script: ['shopt -s extglob; ls !(x)', 'a=(1 2); [[ x =~ (a|b) ]]']}
c: {stage: test, shell: sh, script: ['a=(1 2)']}
d: {stage: test, shell: python3, script: ['for x in y: pass']}
""")
    code, said, _ = loom("check")
    assert code == 2
    assert (
        ".loom/workflow.yml:9:7: WF_SHELL_SYNTAX /.shared/before_script/0: bash can't read it: syntax error near"
        in said
    )
    assert said.count("before_script") == 1
    assert ".loom/workflow.yml:10:" in said
    assert "unexpected EOF while looking for matching" in said
    assert "/b/" not in said
    assert "/c/script/0: sh can't read it: Syntax error" in said
    assert "/d/" not in said


def test_steps_of_githubs_workflows_are_read_by_their_shells(
    project: Path, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".loom/workflow.yml").unlink()
    (project / ".github/workflows").mkdir(parents=True)
    (project / ".github/workflows/ci.yml").write_text("""\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - run: |
          if [ ${{ github.ref
                || 'x' }} ]; then
            echo "${{ contains('a)', ')') }}"
          fi
      - {run: "if x", shell: sh}
      - {run: "if x", shell: python}
      - uses: actions/checkout@v4
      - run: |
          echo ok
          fi
""")
    code, out, _ = loom("check")
    assert code == 0
    assert [line.split(" ")[0] for line in out.splitlines() if "WF_SHELL_SYNTAX" in line] == [
        ".github/workflows/ci.yml:11:15:",
        ".github/workflows/ci.yml:16:11:",
    ]
    (project / "bin").mkdir()
    said = '[{"message":"m","filepath":".github/workflows/ci.yml","line":3,"column":2,"kind":"k","snippet":"","end_column":3}]'
    (project / "bin/actionlint").write_text(
        f"#!/bin/sh\n[ \"$4\" = .github/workflows/ci.yml ] && echo '{said}'; exit 1\n"
    )
    (project / "bin/actionlint").chmod(0o755)
    monkeypatch.setenv("PATH", f"{project}/bin:{os.environ['PATH']}")
    assert ".github/workflows/ci.yml:3:2: warning: GH_ACTIONLINT /: m [k]" in loom("check")[1]


def test_what_is_wrong_is_told_also_where_the_user_gives_secrets(
    project: Path, loom: Loom, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / ".loom/workflow.yml").unlink()
    (project / ".github/workflows").mkdir(parents=True)
    (project / ".github/workflows/ci.yml").write_text("""\
on: push
jobs:
  a:
    runs-on: ubuntu-latest
    steps:
      - {name: "${{ x( }}", run: "echo ${{ secrets.A", env: {A: "${{ 1 + }}"}}
      - {uses: ./none, with: {a: "${{ secrets.A"}}
      - {uses: o/r@v1}
""")
    config = project / "config/loom/config.yml"
    config.parent.mkdir(parents=True)
    config.write_text(f"github: {{secrets: {{A: 'env://A'}}, server: 'file://{project}/no'}}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config.parents[1]))
    code, out, _ = loom("check")
    told = [
        line.split(" /")[1].split(":")[0] for line in out.splitlines() if line.startswith(".github/workflows/ci.yml:")
    ]
    steps = "jobs/a/steps"
    assert (code, told) == (
        2,
        [
            f"{steps}/0/name",
            f"{steps}/0/run",
            f"{steps}/0/env/A",
            f"{steps}/1/uses",
            f"{steps}/1/with/a",
            f"{steps}/2/uses",
        ],
    )


def test_githubs_workflows_are_checked_where_there_is_no_other(project: Path, loom: Loom) -> None:
    (project / ".github/workflows").mkdir(parents=True)
    (project / ".github/workflows/ci.yml").write_text("on: push\njobs: {test: {runs-on: ubuntu-latest}}\n")
    assert ".github" not in loom("check")[1]
    (project / ".loom/workflow.yml").unlink()
    code, out, _ = loom("check")
    assert code == 2
    assert ".github/workflows/ci.yml:2:8: GH_INVALID /jobs/test: test: `steps` is missing" in out
    (project / ".github/workflows/ci.yml").unlink()
    code, _, said = loom("check")
    assert code == 2
    assert ".loom/workflow.yml: workflow file not found" in said


def test_gitlabs_file_is_the_workflow_where_there_is_none_of_looms(project: Path, loom: Loom) -> None:
    (project / ".gitlab-ci.yml").write_text("test: {script: x, stge: y}\n")
    assert ".loom/workflow.yml: ok" in loom("check")[1]
    (project / ".loom/workflow.yml").unlink()
    code, out, _ = loom("check")
    assert code == 2
    assert ".gitlab-ci.yml:1:19: GL_INVALID /test/stge: unknown key stge; did you mean stage?" in out
    (project / ".gitlab-ci.yml").write_text("test: {script: ['if true; then', x, fi, done]}\n")
    told = [line for line in loom("check")[1].splitlines() if "WF_SHELL_SYNTAX" in line]
    assert [line.split(" ")[0] for line in told] == [".gitlab-ci.yml:1:41:"], "what is one command is read as one"


DISPATCHED = """\
on:
  workflow_dispatch:
    inputs:
      who: {required: true}
      n: {type: number, default: 1}
jobs: {a: {runs-on: ubuntu-latest, steps: [{run: echo}]}}
"""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["who=x", "n=2"], []),
        (
            ["n=x"],
            [
                "4:12: GH_INVALID /on/workflow_dispatch/inputs/who: who is required: --input who=VALUE",
                "5:10: GH_INVALID /on/workflow_dispatch/inputs/n: --input n is a number",
            ],
        ),
        (
            ["wo=x"],
            ["--input wo: no workflow takes it from workflow_dispatch; did you mean who?", "the inputs: n, who"],
        ),
    ],
)
def test_inputs_of_githubs_workflows_are_checked(project: Path, loom: Loom, given: list[str], said: list[str]) -> None:
    file = project / ".github/workflows/ci.yml"
    file.parent.mkdir(parents=True)
    file.write_text(DISPATCHED)
    code, out, err = loom("check", "--workflow", str(file), *(f"--input={one}" for one in given))
    assert code == (2 if said else 0), out + err
    assert [text for text in said if text not in out + err] == []


def test_files_in_conflict(project: Path, loom: Loom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_AUTO_CLEAN", "no")

    (project / ".loom/workflow.yml").write_text("version: v1\nstages: [a]\na: {stage: a, script: cat a.txt}\n")
    for branch in ("one", "two"):
        git(project, "checkout", "-q", "-b", branch, "main")
        (project / "a.txt").write_text(f"{branch}\n")
        git(project, "add", "-A")
        git(project, "commit", "-q", "-m", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git(project, "merge", "-q", "one")
    code, _, err = loom("run", "--no-container")
    assert (code, "in conflict, which git would not commit: a.txt\n" in err) == (2, True)
    assert not list((project.parent / "home").rglob("receipts"))
    assert "a.txt" in loom("snapshot")[1]
    code, out, _ = loom("check", "--json")
    assert [(one["file"], one["code"], one["severity"]) for one in json.loads(out)["problems"]] == [
        ("a.txt", "UNMERGED", "warning")
    ]
    assert (code, loom("run", "--dry-run")[0]) == (0, 0)
    assert loom("run", "--no-container", "--allow-unmerged")[0] == 0
    git(project, "add", "-A")
    assert loom("run", "--no-container")[0] == 0
