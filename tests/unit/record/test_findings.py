"""Reports of linters in the record and in each form of the diagnosis."""

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[1] / "storage/samples"
WORKFLOW = """
version: v1
stages: [test]
lint:
  stage: test
  script:
    - echo 'Found 4 errors.'
    - exit 1
  artifacts: {reports: {sarif: ruff.sarif.json, codequality: ["*.codequality.json", gone.json]}}
clean:
  stage: test
  script: ["true"]
  artifacts: {reports: {sarif: [bandit.sarif.json, broken.sarif]}}
"""


def manifest(project: Any, job: str) -> dict[str, Any]:
    (path,) = project.home.glob(f"state/runs/*/logs/*/jobs/{job}/manifest.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_findings_of_a_report_are_positions_of_a_failed_job(make: Make) -> None:
    project = make(WORKFLOW)
    for sample in SAMPLES.iterdir():
        (project.root / sample.name).write_bytes(sample.read_bytes().replace(b"file:///workspace/", b""))
    (project.root / "broken.sarif").write_text("{")
    (project.root / "app").mkdir()
    (project.root / "app/orders.py").write_text("".join(f"line {number}\n" for number in range(1, 30)))

    annotated = project.loom("run", "--local", "--format", "github", code=1)
    assert "::error file=app/orders.py,line=14,col=18,title=F821::Undefined name `discuont`" in annotated

    lint, clean = manifest(project, "lint"), manifest(project, "clean")
    # ruff's findings stand in both of its reports, eslint's in one.
    assert lint["finding_reports"]["findings"] == 8
    assert lint["finding_reports"]["problems"] == ["gone.json: no such file"]
    assert lint["findings"][0] == {
        "tool": "ruff", "test": None, "file": "app/orders.py", "line": 1, "column": 8, "message": "`os` imported but unused",
        "code": "F401",
    }  # fmt: skip
    assert clean["finding_reports"]["findings"] == 2
    assert clean["finding_reports"]["problems"][0].startswith("broken.sarif: it is not valid JSON")

    diagnosis = json.loads(project.loom("diagnose", "--json"))
    assert diagnosis["locations"][0] == {"file": "app/orders.py", "line": 1, "column": 8, "one_of": []}
    assert diagnosis["failures_total"] == 8
    assert (diagnosis["excerpt"]["file"], diagnosis["excerpt"]["line"]) == ("app/orders.py", 1)
    for form in ("text", "agent"):
        shown = project.loom("diagnose", "--format", form)
        assert "8 failures" in shown
        assert "Undefined name `discuont` (app/orders.py:14)" in shown
    (step, *_) = reversed(json.loads(project.loom("diagnose", "--format", "gitlab")))
    assert step["check_name"] == "loom lint step"
    found = json.loads(project.loom("diagnose", "--format", "gitlab"))
    assert ("app/orders.py", 14) in [(each["location"]["path"], each["location"]["lines"]["begin"]) for each in found]
    assert "Undefined name" in project.loom("report", "-o", "-")
    assert "nothing to diagnose" in project.loom("diagnose", "last", "clean")


def test_what_a_step_prints_comes_before_what_a_report_names(make: Make) -> None:
    project = make("""
version: v1
stages: [test]
lint:
  stage: test
  script:
    - |
      echo '[{"description":"x","location":{"path":"a.py","lines":{"begin":2}}},
             {"description":"again","location":{"path":"b.py","lines":{"begin":5}}}]' > q.json
    - "echo 'b.py:5:1: F401 `os` imported but unused'; exit 1"
  artifacts: {reports: {codequality: q.json}}
""")
    project.loom("run", "--local", code=1)
    failures = json.loads(project.loom("diagnose", "--json"))["failures"]
    assert [(each["file"], each["line"], each["code"]) for each in failures] == [("b.py", 5, "F401"), ("a.py", 2, None)]


def test_artifacts_and_caches_of_what_git_does_not_track(make: Make) -> None:
    project = make("")
    (project.root / ".gitlab-ci.yml").write_text("""
make:
  script:
    - ls .cache 2>/dev/null || true
    - mkdir -p out .cache && echo 1 > out/new && echo 2 > out/x.o && echo 3 > .cache/c && echo 4 >> kept.txt
  artifacts: {untracked: true, exclude: ["**/*.o"]}
  cache: {key: k, untracked: true}
""")
    (project.root / ".gitignore").write_text("*.o\nout/\n.cache/\n")
    (project.root / "kept.txt").write_text("not committed, but part of the snapshot\n")
    project.loom("run", "--local", "--workflow", ".gitlab-ci.yml")
    assert "cache saved: k" in project.loom("logs", "last", "make", "--system")
    listed = json.loads(project.loom("artifacts", "last", "make", "--json"))
    assert sorted(file["path"] for job in listed["jobs"] for file in job["files"]) == [".cache/c", "out/new"]
    project.loom("run", "--local", "--workflow", ".gitlab-ci.yml")
    assert "cache hit: k" in project.loom("logs", "last", "make", "--system")


def test_each_failed_job_has_the_source_and_the_change(make: Make) -> None:
    """Only the job that failed first got them."""
    jobs = "\n".join(f'{name}: {{stage: test, script: ["sh {name}.sh"]}}' for name in ("one", "two"))
    project = make(f"version: v1\nstages: [test]\n{jobs}\n")
    for name in ("one", "two"):
        (project.root / f"{name}.sh").write_text("true\n")
    project.loom("run", "--local")
    for name in ("one", "two"):
        (project.root / f"{name}.sh").write_text(f"# changed\necho '{name}.sh:2:1: error: no'; exit 1\n")
    project.loom("run", "--local", code=1)
    for name in ("one", "two"):
        (project.root / f"{name}.sh").write_text("another content, after the run\n")
        diagnosis = json.loads(project.loom("diagnose", "last", name, "--json"))
        assert diagnosis["excerpt"]["text"].startswith("# changed"), name
        (changed,) = [file for file in diagnosis["since_green"]["files"] if file["path"] == f"{name}.sh"]
        assert "+# changed" in changed["hunk"], name
