"""`loom run --repeat`: how often a job fails, by which test, and what the failing runs print that no other does."""

import json
from pathlib import Path

import jsonschema
import pytest

from loom.analysis.repetition import wilson
from loom.commands.record.schema import record_schema
from tests.unit.commands.test_gitlab_runs import Project
from tests.unit.commands.test_gitlab_runs import project as project

pytestmark = pytest.mark.slow

WORKFLOW = """
test:
  script:
    - echo "collected 3 items at $(date +%T)"
    - n=0; until mkdir {counter}/$n 2>/dev/null; do n=$((n+1)); done
    - |
      case $n in
        *2|*5|*8) echo "FAILED tests/test_net.py::test_timing - assert 3 == 4"; exit 3 ;;
      esac
    - echo 3 passed
"""


def flaky(project: Project, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.mkdir()
    project.write(gitlab=WORKFLOW.format(counter=counter))


def test_a_flaky_test_is_found_and_named_with_its_rate(project: Project, tmp_path: Path) -> None:
    flaky(project, tmp_path)
    code, out, err = project.loom("run", "--no-container", "test", "--repeat", "20", "--json", "-j", "2")
    assert code == 1, err
    found = json.loads(out)
    jsonschema.validate(found, record_schema("output"))
    assert (found["rate"]["count"], found["rate"]["of"], found["exit_codes"]) == (6, 20, {"3": 6})
    assert (found["rate"]["low"], found["rate"]["high"]) == (0.1455, 0.519)
    assert [(test["name"], test["rate"]["count"]) for test in found["tests"]] == [("tests/test_net.py::test_timing", 6)]
    assert (found["parting"]["line"], found["parting"]["runs"]) == (1, 6)
    assert found["parting"]["text"].startswith("FAILED tests/test_net.py::test_timing")
    runs = project.runs()
    assert [run["child_of"] for run in runs] == [None, *[found["run_id"]] * 20]
    assert len({run["tree_sha"] for run in runs}) == 1
    assert json.loads(project.loom("show", "--json")[1])["run_id"] == found["run_id"]


def test_the_files_of_all_are_those_of_the_first_moment(project: Project, tmp_path: Path) -> None:
    project.write(gitlab=f"test: {{script: ['cat word.yml; echo other > {project.root}/word.yml']}}", word="same")
    code, out = project.run("test", "--repeat", "3", "-j", "1")
    assert code == 0, out
    assert "failed: 0 of 3, 0 %" in out
    runs = [run["run_id"] for run in project.runs()[1:]]
    shown = project.loom("diff", "test (1 of 3)", "test (3 of 3)", "--json")[1]
    assert {json.loads(shown)[key] for key in ("run_a", "run_b")} == {runs[0], runs[2]}
    assert [project.output("test", run).strip() for run in runs] == ["same"] * 3
    code, shown, _ = project.loom("rerun")
    assert (code, "is a repetition of an earlier command" in shown) == (1, True), shown


def test_what_can_not_be_repeated_is_refused(project: Project) -> None:
    project.write(gitlab="test: {script: [ls]}")
    code, out = project.run("--repeat", "3", "--stop-at", "pause")
    assert (code, "--repeat runs without" in out) == (2, True)


def test_the_interval_is_wilsons() -> None:
    assert (wilson(0, 20).low, wilson(0, 20).high) == (0.0, 0.1611)
    assert (wilson(10, 20).low, wilson(10, 20).high) == (0.2993, 0.7007)
    assert wilson(0, 0).high == 1.0
