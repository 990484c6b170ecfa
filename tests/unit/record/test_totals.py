"""A list that is cut off says how many there are, wherever it is shown."""

import json

import pytest

from loom.record.event_files import count_output, last_lines
from loom.record.reader import Reading, lines_in_order
from loom.util.bounded import bounded, listed

from .conftest import Make

pytestmark = pytest.mark.slow

CASES = "".join(f'<testcase classname="c" name="t{number}"><failure>no</failure></testcase>' for number in range(61))
WORKFLOW = f"""
version: v1
stages: [test]
unit:
  stage: test
  script:
    - |
      cat > report.xml <<'END'
      <testsuite tests="61" failures="61">{CASES}</testsuite>
      END
      mkdir left; for number in $(seq 30); do mkfifo left/$number; done
    - "false"
  artifacts: {{paths: [left], reports: {{junit: [report.xml]}}, when: always}}
"""


def test_sixty_one_failing_tests_are_counted_as_such(make: Make) -> None:
    """The twenty that a record names were given as the count: "failing tests: 20 ... and 10 more"."""
    project = make(WORKFLOW)
    ran = project.loom("run", "--local", code=1)
    assert "25 more left out" in ran
    diagnosis = json.loads(project.loom("diagnose", "--json"))
    assert (len(diagnosis["failing_tests"]), diagnosis["failing_tests_total"]) == (20, 61)
    shown = project.loom("diagnose")
    assert "failing tests: 61" in shown
    assert "and 51 more" in shown
    assert "and 56 more failing tests" in project.loom("diagnose", "--format", "agent")
    assert "61, the first 20 below" in project.loom("report", "-o", "-")
    (manifest,) = [
        json.loads(path.read_text()) for path in project.home.glob("state/runs/*/logs/*/jobs/unit/manifest.json")
    ]
    assert (len(manifest["artifacts"]["skipped"]), manifest["artifacts"]["skipped_total"]) == (20, 30)
    annotated = project.loom("run", "--local", "--format", "github", code=1)
    assert "61 failures, 9 of them have annotations" in annotated


def test_lines_for_a_reader() -> None:
    assert listed(map(str, range(3)), 3) == ["0", "1", "2"]
    assert listed(map(str, range(5)), 3) == ["0", "1", "2", "and 2 more"]
    assert bounded("x", [1, 2, 3], 2) == {"x": [1, 2], "x_total": 3}


def test_a_failing_tests_position_comes_before_what_the_output_mentions(make: Make) -> None:
    """A line about a skipped test and lines of a library's log were named first, the failing test's own last or not at all."""
    project = make(
        """
version: v1
stages: [test]
unit:
  stage: test
  script:
    - |
      cat > report.xml <<'END'
      <testsuite tests="1" failures="1"><testcase classname="c" name="t" file="tests/test_b.py" line="7"><failure>no</failure></testcase></testsuite>
      END
      for line in 1 2 3 4 5 6; do echo "server.py:$line GET /"; done >log
      sh -c 'cat log; echo "SKIPPED [1] tests/test_a.py:273: not here"; exit 1'
  artifacts: {reports: {junit: report.xml}}
""",
        **{"server.py": "x\n" * 6, "tests/test_a.py": "x\n" * 273, "tests/test_b.py": "x\n" * 7},
    )
    project.loom("run", "--local", code=1)
    diagnosis = json.loads(project.loom("diagnose", "--json"))
    assert diagnosis["locations"][0] == {"file": "tests/test_b.py", "line": 7, "column": None, "one_of": []}
    assert len(diagnosis["locations"]) == 5


def test_the_last_lines_are_as_many_as_are_asked_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make("version: v1\nstages: [s]\na:\n  stage: s\n  script: [seq 5000]\n")
    project.loom("run", "--local")
    monkeypatch.setitem(last_lines.__kwdefaults__, "most_bytes", 100_000)
    units = Reading(project.last()).units("a")
    for asked in (10, 4000):
        texts = [event.text for _, event in lines_in_order(units, asked)][-asked:]
        assert texts == [str(number) for number in range(5001 - asked, 5001)]


def test_a_long_line_counts_once(make: Make) -> None:
    """A line that is recorded in pieces counted as many, so that line numbers after it were wrong."""
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n"
        "  script: [\"head -c 200000 /dev/zero | tr '\\\\0' x; echo; echo y; head -c 131072 /dev/zero | tr '\\\\0' z\"]\n"
    )
    project.loom("run", "--local")
    (events,) = project.home.glob("state/runs/*/logs/*/jobs/a/user/script/01/events.jsonl")
    assert json.loads(events.read_text().splitlines()[-1])["data"]["output"]["stdout_lines"] == 3
    assert count_output(events) == 3
