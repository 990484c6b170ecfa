"""A diagnosis in each of its forms."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.analysis.diagnosis import ChangedSince, Diagnosis, Evidence, Excerpt, OtherFailure, diagnose
from loom.analysis.evidence import excerpt_of
from loom.analysis.locations import Location
from loom.render.diagnosis import DiagnosisForm, lines
from loom.render.look import Look
from tests.unit.analysis.test_diagnosis import output


def diagnosis(*, printed: tuple[str, ...] = (), **job: Any) -> Diagnosis:
    manifest = {
        "job_id": "test",
        "status": "failure",
        "exit_code": 1,
        "error": "script/01 failed with exit code 1",
        "failing_step": "script/01",
        "failing_section": None,
        "failing_command": "make test",
        "failing_tests": [],
        "image": None,
        "allowed_failure": False,
        "steps": [{"step": "script/01", "attempt": 1, "command": "make test", "file": ".loom/workflow.yml", "line": 7}],
        **job,
    }
    receipt = {"command": ["loom", "run"], "repo_root": "/src", "duration_ms": 5.0}
    pipeline: dict[str, Any] = {"jobs": [], "failing_job_id": "test"}
    return diagnose(
        Evidence(run_id="1", state="failure", receipt=receipt, pipeline=pipeline, job=manifest, output=output(printed))
    )


def shown(form: str, found: Diagnosis) -> list[str]:
    return list(lines(form, found, Look(), now_ns=2))


@pytest.mark.parametrize("form", DiagnosisForm)
def test_each_form_renders_a_failure_and_a_success(form: DiagnosisForm) -> None:
    assert "src/a.c" in "\n".join(shown(form, diagnosis(printed=("src/a.c:3: error: no x",))))
    shown(form, diagnosis(status="success", failing_step=None, exit_code=0, error=None))


def test_github_gets_one_annotation_at_the_first_position() -> None:
    (line,) = shown("github", diagnosis(printed=("src/a.c:3:9: error: no x", "make: *** [all] Error 1")))
    assert line.startswith("::error file=src/a.c,line=3,col=9,title=failed%3A job test%2C step script/01 (")
    assert "%0A" in line
    assert "no x" in line


def test_github_gets_an_annotation_for_each_failing_test_and_one_for_the_step() -> None:
    tests = [{"name": f"t{n}", "message": "1 != 2\n::error::x", "file": "t.py", "line": n} for n in range(1, 31)]
    found = shown("github", diagnosis(failing_tests=tests, allowed_failure=True))
    assert len(found) == 10
    assert found[0].startswith("::warning file=t.py,line=1,title=t1::1 != 2%0A")
    assert found[-1].startswith("::warning file=.loom/workflow.yml,line=7,title=")
    assert "30 failures, 9 of them have annotations" in found[-1]


def test_failures_in_a_known_format_have_annotations_of_their_own() -> None:
    found = diagnosis(printed=("src/a.c:3:9: error: no x", "src/b.c:7:1: error: no y", "make: *** [all] Error 1"))
    annotations = shown("github", found)
    assert [line.partition(",title=")[0] for line in annotations] == [
        "::error file=src/a.c,line=3,col=9",
        "::error file=src/b.c,line=7,col=1",
        "::error file=.loom/workflow.yml,line=7",
    ]
    places = [each["location"]["path"] for each in json.loads("\n".join(shown("gitlab", found)))]
    assert places == ["src/a.c", "src/b.c", ".loom/workflow.yml"]


def test_annotations_are_escaped_and_hold_no_command() -> None:
    tests = [{"name": "n,m:o", "message": "100%\n::error::x\n##[group]", "file": "a,b:c.py", "line": 3}]
    line = shown("github", diagnosis(failing_tests=tests))[0]
    assert line == "::error file=a%2Cb%3Ac.py,line=3,title=n%2Cm%3Ao::100%25%0A| ::error::x%0A## [group]"


def test_gitlab_gets_a_code_quality_report() -> None:
    (finding,) = json.loads("\n".join(shown("gitlab", diagnosis(printed=("src/a.c:3: error: no x",)))))
    assert finding["location"] == {"path": "src/a.c", "lines": {"begin": 3}}
    assert finding["severity"] == "critical"
    assert len(finding["fingerprint"]) == 64
    tests = [{"name": "t", "message": None, "file": "t.py", "line": 4}, {"name": "u", "message": "no", "file": None}]
    found = json.loads("\n".join(shown("gitlab", diagnosis(failing_tests=tests))))
    assert [each["location"]["path"] for each in found] == ["t.py", ".loom/workflow.yml"]
    assert json.loads("\n".join(shown("gitlab", diagnosis(status="success", failing_step=None)))) == []


def test_the_source_around_the_first_position_is_shown_with_its_line_marked() -> None:
    excerpt = Excerpt(file="src/a.py", line=9, first_line=8, text="def f():\n    return x[1]\nf()")
    found = replace(diagnosis(printed=("src/a.py:9: error",)), excerpt=excerpt)
    for form in ("text", "agent"):
        lines_shown = [line.strip() for line in shown(form, found)]
        at = lines_shown.index("src/a.py:9")
        assert lines_shown[at + 1 : at + 4] == ["8 | def f():", ">  9 |     return x[1]", "10 | f()"]


def test_what_changed_in_the_checkout_since_is_named() -> None:
    found = replace(diagnosis(), changed_since=ChangedSince(head_sha="f" * 40, files=["a.py", "b.py"], files_total=9))
    said = "the checkout has changed since this run: HEAD is ffffffffffff; a.py, b.py and 7 more changed"
    assert said in shown("text", found)
    assert said in shown("agent", found)


def test_the_agents_lines_that_tell_outlast_the_others() -> None:
    noise = tuple(f"{number} {'x' * 150}" for number in range(8))
    long = f"error: {'y' * 130} expected 3, found 4"
    found = diagnosis(printed=(long, *noise, "make: done"))
    excerpt = Excerpt(file="a.py", line=1, first_line=1, text="\n".join(["z" * 150] * 4))
    text = "\n".join(shown("agent", replace(found, excerpt=excerpt)))
    assert len(text.encode()) < 2048
    assert long in text


@pytest.mark.parametrize("kind", ["file", "link out", "not text", "short"])
def test_an_excerpt_is_read_of_plain_text_below_the_workspace_alone(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("1\n2\n3\n")
    match kind:
        case "file":
            (root / "a.c").write_text("1\n2\n3\n4\n5\n6\n7\n8\n")
        case "link out":
            (root / "a.c").symlink_to(tmp_path / "secret")
        case "not text":
            (root / "a.c").write_bytes(b"\xff\n\xff\n\xff\n")
        case "short":
            (root / "a.c").write_text("1\n")
    found = excerpt_of(diagnosis(printed=("a.c:3: error",)), root)
    assert found == (Excerpt(file="a.c", line=3, first_line=1, text="1\n2\n3\n4\n5\n6") if kind == "file" else None)


def test_jobs_that_failed_in_the_same_way_at_the_same_place_are_named_once() -> None:
    found = diagnosis(printed=("src/a.c:3: error: no x after 4 s",))
    gave = [("five", 7, 4), ("six", 8, 5), ("seven", 7, 4)]
    commands = {name: f"`exit {code}` at ci.yml:{line} gave {code}" for name, code, line in gave}
    others = [
        OtherFailure(job_id=name, status="failure", manifest_path="", telling_line=line, location=at)
        for name, line, at in (
            ("two", "src/a.c:3: error: no x after 5 s", Location(file="src/a.c", line=3)),
            ("three", "assert 1 == 2", None),
            ("eight", "assert 1 == 3", None),
            ("four", None, None),
            *((name, command, None) for name, command in commands.items()),
            ("nine", "src/a.c:30: error: no x after 4 s", Location(file="src/a.c", line=30)),
        )
    ]
    failed = ["9 jobs failed:", "  test, two: src/a.c:3: error: no x after 4 s", "  three: assert 1 == 2"]
    failed += ["  eight: assert 1 == 3", "  four"]
    failed += ["  five, seven: `exit 7` at ci.yml:4 gave 7", "  six: `exit 8` at ci.yml:5 gave 8"]
    found = replace(found, others=others)
    for form in ("text", "agent"):
        printed = shown(form, found)
        first = printed.index(failed[0])
        told = printed[first : first + 8]
        assert told == [*failed, "  nine: src/a.c:30: error: no x after 4 s" if form == "text" else "  and 1 more job"]
    look_at = next(line for line in shown("text", found) if line.startswith("look at: "))
    assert look_at.endswith("(job test)")
    assert "jobs failed" not in "\n".join(shown("text", replace(found, others=[])))


def test_forms_for_a_ci_system_hold_all_failed_jobs() -> None:
    one, two = diagnosis(), diagnosis(job_id="lint")
    (report,) = lines("gitlab", one, Look(), now_ns=2, others=[two])
    assert [entry["check_name"] for entry in json.loads(report)] == ["loom test step", "loom lint step"]
    assert len(list(lines("github", one, Look(), now_ns=2, others=[two]))) == 2


def test_the_same_failure_of_two_jobs_is_one_annotation_that_names_both() -> None:
    one = diagnosis(printed=("src/a.c:3: error: no x",))
    two = replace(one, job_id="other")
    third = replace(diagnosis(printed=("src/b.c:3: error: no y",)), job_id="third")
    annotations = list(lines("github", one, Look(), now_ns=2, others=[two, third]))
    assert len(annotations) == 2
    assert "(also other)" in annotations[0]
    assert "also" not in annotations[1]
    found = json.loads("\n".join(lines("gitlab", one, Look(), now_ns=2, others=[two, third])))
    assert [each["location"]["path"] for each in found] == ["src/a.c", "src/b.c"]
    assert "(also other)" in found[0]["description"]


def test_a_single_finding_keeps_its_text_and_a_broken_report_is_named() -> None:
    problem = "junit.xml: it is not XML"
    found = diagnosis(
        printed=("the linter failed",),
        findings=[{"tool": "x", "file": "a.py", "line": 2, "message": "the text of the finding"}],
        test_reports={"problems": [problem, "out.xml: no such file"]},
    )
    assert found.unread_reports == [problem]
    assert "the text of the finding" in shown("github", found)[0]
    for form in ("text", "agent"):
        assert f"report not read: {problem}" in shown(form, found)
