"""Every step knows its line of the workflow: on the screen, in the record, in a diagnosis."""

import json

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [test]
default:
  before_script:
    - 'true'
include:
  - local: .loom/templates/t.yml
.steps:
  script:
    - echo fine
    - |
      echo one

      frobnicate --now
    - echo never
a:
  extends: .steps
  stage: test
b:
  extends: .included
  stage: test
c:
  stage: test
  script: >
    exit
    7
"""
TEMPLATE = """\
.included:
  script:
    - "exit 5"
"""


def test_a_failing_step_is_named_by_its_line(make: Make) -> None:
    project = make(WORKFLOW)
    folder = project.root / ".loom/templates"
    folder.mkdir()
    (folder / "t.yml").write_text(TEMPLATE)
    shown = project.loom("run", "--local", code=1)
    assert "step script/02, exit code 127 (.loom/workflow.yml:12)" in shown
    assert "step script/01, exit code 5 (.loom/templates/t.yml:3)" in shown
    assert "step script/01, exit code 7 (.loom/workflow.yml:25)" in shown
    logs = project.last().paths.logs
    manifest = json.loads((logs / "jobs/a/manifest.json").read_text())
    assert [(step["step"], step["file"], step["line"], step["literal"]) for step in manifest["steps"]] == [
        ("before_script/01", ".loom/workflow.yml", 5, False),
        ("script/01", ".loom/workflow.yml", 10, False),
        ("script/02", ".loom/workflow.yml", 12, True),
    ]
    assert "failed: job a, step script/02 (.loom/workflow.yml:12), exit code 127" in project.loom(
        "diagnose", "last", "a"
    )
    assert " at .loom/workflow.yml:14 gave 127" in shown
    told = project.loom("diagnose", "last", "a", "--format", "agent")
    assert "step script/02 (.loom/workflow.yml:12)" in told
    assert "locations: .loom/workflow.yml:14" in told  # the line of the step that the shell names


def test_a_line_that_a_shell_names_is_the_workflows(make: Make) -> None:
    project = make(
        "version: v1\nstages: [t]\na:\n  stage: t\n  script:\n    - |\n      if true; then\n        echo a\n      done\n"
    )
    project.loom("run", "--local", code=1)
    diagnosis = json.loads(project.loom("diagnose", "--json"))
    assert diagnosis["step_location"] == ".loom/workflow.yml:7"
    assert diagnosis["locations"][0] == {"file": ".loom/workflow.yml", "line": 9, "column": None, "one_of": []}


def test_github_and_the_report_name_the_line_too(make: Make) -> None:
    project = make("version: v1\nstages: [t]\na:\n  stage: t\n  script:\n    - exit 3\n")
    shown = project.loom("run", "--local", "--format", "github", code=1)
    assert "::error file=.loom/workflow.yml,line=6,title=failed%3A job a%2C step script/01 " in shown
    project.loom("report", "-o", "report.html")
    assert ".loom/workflow.yml:6" in (project.root / "report.html").read_text()
