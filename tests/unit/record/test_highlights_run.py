"""A diagnosis sees what a step printed long before its end, also of a run that goes on or that was killed; a secret stays hidden."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loom.analysis.evidence import diagnosis_of
from loom.record.highlights import Watch
from loom.record.reader import Reading, replay
from loom.record.recorder import Recorder
from loom.record.run_paths import RunPaths
from loom.record.run_record import RunRecord
from loom.record.store import entry_at
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
      echo "ERROR: cannot log in with $TOKEN"
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


@pytest.mark.slow
def test_an_error_far_from_the_end(make: Make, tmp_path: Path) -> None:
    project = make(LONG.replace("PLACE", str(tmp_path)))
    (project.root / "src").mkdir()
    (project.root / "src" / "x.py").write_text("def main():\n    ...\nmain()\n")
    project.loom("run", "--local", "--trust", code=1, MY_TOKEN="hunter2hunter2")
    found = diagnosis(project)
    assert found["output_read"] == "highlights"
    assert "ERROR: cannot log in with [REDACTED:SECRET_TOKEN]" in found["lines"]
    assert "ValueError: boo" in found["lines"]
    assert {"file": "src/x.py", "line": 3, "column": None, "one_of": []} in found["locations"]
    assert [failure["test"] for failure in found["failures"]] == [None, "tests/test_x.py::test_a"]
    events = project.last().paths.job("long") / "user/script/01/events.jsonl"
    lines = events.read_bytes().splitlines()
    end = json.loads(lines[-1])["data"]
    for kept in end["highlights"]["lines"]:
        event = json.loads(lines[kept["line"] - 1])
        assert (event["seq"], event["text"]) == (kept["seq"], kept["text"])
        assert events.read_bytes()[kept["offset"] :].startswith(lines[kept["line"] - 1])
    assert "hunter2" not in json.dumps(end)


@pytest.mark.slow
def test_a_run_that_was_killed(make: Make, tmp_path: Path) -> None:
    project = make(LONG.replace("PLACE", str(tmp_path)))
    (tmp_path / "wait").mkdir()
    run = project.start("run", "--local", "--trust", MY_TOKEN="hunter2hunter2")
    until((tmp_path / "printed").exists, while_runs=run)
    events = project.last().paths.job("long") / "user/script/01/events.jsonl"
    until(events.exists, while_runs=run)

    def printed() -> bool:
        """The last line of each stream; the script, in the file from the start, has the variable in place of the value."""
        text = events.read_text()
        return text.count('"ok 2500"') == 2 and "cannot log in with [REDACTED" in text

    until(printed, while_runs=run)
    run.kill()
    run.communicate()
    (tmp_path / "go").touch()
    found = diagnosis(project)
    assert (found["state"], found["output_read"]) == ("interrupted", "highlights")
    assert "ERROR: cannot log in with [REDACTED:SECRET_TOKEN]" in found["lines"]


@pytest.mark.slow
def test_whatever_moment_a_run_is_killed_at(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record a run again, and diagnose before each write what a kill at that moment would leave."""
    project = make(
        """\
version: v1
stages: [test]
long:
  stage: test
  retry: 1
  script:
    - 'echo "ERROR: cannot log in"; seq 500; exit 1'
"""
    )
    project.loom("run", "--local", code=1)
    done = project.last()
    paths = RunPaths(root=done.paths.root.with_name("1"), run_id="1")
    moments, told = 0, 0

    def killed_now() -> None:
        nonlocal moments, told
        if not paths.events.exists():
            return
        moments += 1
        found = diagnosis_of(Reading(entry_at(paths)))
        file = None if found.events_path is None else Path(found.events_path)
        if file is not None and file.exists() and '"ERROR: cannot log in"' in file.read_text():
            assert "ERROR: cannot log in" in found.lines
            told += 1

    def before(write: Callable[..., None]) -> Callable[..., None]:
        def writing(record: RunRecord, where: Any, data: Any) -> None:
            if not (isinstance(data, bytes) and b'"kind":"output"' in data):
                killed_now()
            write(record, where, data)

        return writing

    for name in ("_append", "publish", "set_attempt_aside"):
        monkeypatch.setattr(RunRecord, name, before(getattr(RunRecord, name)))
    record = RunRecord(paths)
    recorder = Recorder(record, Watch())
    with record.created({**done.identity, "run_id": "1"}):
        pass
    replay(Reading(done), recorder, every_line=True)
    record.close_all()
    assert (moments > 40, told > 10) == (True, True), (moments, told)
