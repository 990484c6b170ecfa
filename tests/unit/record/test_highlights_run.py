"""A diagnosis sees what a step printed long before its end, also of a run that goes on or that was killed; a secret stays hidden."""

import json
from pathlib import Path
from typing import Any

from tests.support.waiting import until

from .conftest import Make, Project

LONG = """\
version: v1
stages: [test]
long:
  stage: test
  secrets: {TOKEN: {ref: "env://MY_TOKEN", file: false}}
  script:
    - |
      echo start
      echo "ERROR: cannot log in with $TOKEN" >&2
      seq -f "ok %.0f" 2500
      printf 'Traceback (most recent call last):\\n  File "/workspace/src/x.py", line 3, in <module>\\n    main()\\nValueError: boo\\n'
      echo 'FAILED tests/test_x.py::test_a - ValueError: boo'
      seq -f "ok %.0f" 2500
      touch PLACE/printed
      test ! -d PLACE/wait || until test -e PLACE/go; do sleep 0.1; done
      exit 1
"""


def diagnosis(project: Project) -> dict[str, Any]:
    return json.loads(project.loom("diagnose", "--json"))


def test_an_error_far_from_the_end(make: Make, tmp_path: Path) -> None:
    project = make(LONG.replace("PLACE", str(tmp_path)))
    project.loom("run", "--local", "--trust", code=1, MY_TOKEN="hunter2hunter2")
    found = diagnosis(project)
    assert found["output_read"] == "highlights"
    assert "ERROR: cannot log in with [REDACTED:SECRET_TOKEN]" in found["lines"]
    assert "ValueError: boo" in found["lines"]
    assert {"file": "src/x.py", "line": 3, "column": None} in found["places"]
    assert [failure["test"] for failure in found["failures"]] == [None, "tests/test_x.py::test_a"]
    events = project.last().paths.job("long") / "user/script/01/events.jsonl"
    summary = json.loads(events.with_name("summary.json").read_text())
    lines = events.read_bytes().splitlines()
    for kept in summary["highlights"]["lines"]:
        event = json.loads(lines[kept["line"] - 1])
        assert (event["seq"], event["text"]) == (kept["seq"], kept["text"])
        assert events.read_bytes()[kept["offset"] :].startswith(lines[kept["line"] - 1])
    assert "hunter2" not in json.dumps(summary)


def test_a_run_that_was_killed(make: Make, tmp_path: Path) -> None:
    project = make(LONG.replace("PLACE", str(tmp_path)))
    (tmp_path / "wait").mkdir()
    run = project.start("run", "--local", "--trust", MY_TOKEN="hunter2hunter2")
    until((tmp_path / "printed").exists, while_runs=run)
    events = project.last().paths.job("long") / "user/script/01/events.jsonl"
    until(events.exists, while_runs=run)
    # The last line of each stream.
    until(lambda: "cannot log in" in (text := events.read_text()) and text.count('"ok 2500"') == 2, while_runs=run)
    run.kill()
    run.communicate()
    (tmp_path / "go").touch()
    found = diagnosis(project)
    assert (found["state"], found["output_read"]) == ("interrupted", "highlights")
    assert "ERROR: cannot log in with [REDACTED:SECRET_TOKEN]" in found["lines"]
