"""The data of the report: logs in pieces, graph, headline."""

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.analysis.diagnosis import Diagnosis, Evidence, diagnose
from loom.analysis.diff import Pair
from loom.analysis.history import ChangedFile, SameInput, SinceGreen
from loom.analysis.html_report import logs
from loom.analysis.html_report.logs import Log, ReadBudget, key_of, numbered, read_log
from loom.analysis.html_report.overview import columns_of
from loom.analysis.html_report.page import WORDS, counts, headline, template
from loom.analysis.patterns import FailureGroup
from loom.record.event_files import count_output
from loom.record.events import OutputEvent, PhaseEvent, encode
from loom.record.fold import JobState, RunFold
from loom.record.sections import CommandReader, SectionReader
from loom.status import Failure, Status
from tests.support.report_page import unpacked

BEGAN = "2026-11-26T05:00:00.000000Z"


def written(path: Path, lines: list[str], **more: Any) -> Path:
    events = [
        OutputEvent(seq=number, ts=f"2026-11-26T05:00:0{number % 10}.000000Z", stream="stdout", text=text, **more)
        for number, text in enumerate(lines, 1)
    ]
    path.write_bytes(b"".join(map(encode, events)))
    return path


def rows(log: Log) -> list[tuple[int, str]]:
    return [(piece.first + at, text) for piece in log.pieces for at, (_, _, text) in enumerate(unpacked(piece.data))]


def test_a_log_is_whole_and_keeps_its_times_streams_and_colours(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = [
        OutputEvent(seq=2, ts="2026-11-26T05:00:01.500000Z", stream="stdout", text="\x1b[31mred\x1b[0m \x1b[2Jx\ny"),
        OutputEvent(seq=3, ts="2026-11-26T05:00:01.500000Z", stream="stderr", text="half ", partial=True),
        OutputEvent(seq=4, ts="2026-11-26T05:00:01.750000Z", stream="stderr", text="a line"),
        OutputEvent(seq=5, ts="2026-11-26T05:00:01.750000Z", stream="stdout", text="no end", partial=True),
    ]
    path.write_bytes(b"".join(map(encode, events)))
    log = read_log(path, ReadBudget(), began=BEGAN, total=3, wanted=["no end", "…"])
    assert unpacked(log.pieces[0].data) == [
        ("1", 1500, "\x1b[31mred\x1b[0m x y"),
        ("2", 250, "half a line"),
        ("1", 0, "no end"),
    ]
    assert (log.total, log.left_out, log.numbers) == (3, 0, {"no end": [3]})
    assert count_output(path) == 3


def test_of_a_log_that_is_too_long_the_page_has_the_end_rightly_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_LINES", 1000)
    path = written(tmp_path / "events.jsonl", [str(number) for number in range(1, 5001)])
    for total in (5000, None):
        log = read_log(path, ReadBudget(), began=BEGAN, total=total)
        assert (log.left_out, log.total) == (4000, 5000)
        assert [number for number, _ in rows(log)] == [*range(4001, 5001)]
        assert all(text == str(number) for number, text in rows(log))
    assert read_log(written(path, ["x"] * 1000), ReadBudget(), began=BEGAN, total=1000).left_out == 0


def test_many_long_logs_share_what_a_page_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_BYTES", 1_000_000)
    monkeypatch.setattr(logs, "LEAST_BYTES", 100_000)
    path = written(tmp_path / "events.jsonl", [f"{number} {'x' * 200}" for number in range(1, 3001)])
    share = ReadBudget()
    found = [read_log(path, share, began=BEGAN, total=3000) for _ in range(3)]
    assert [log.left_out == 0 for log in found] == [True, False, False]
    for log in found:
        assert all(text.startswith(f"{number} ") for number, text in rows(log))
        assert rows(log)[-1][0] == 3000
    assert len(rows(found[2])) < 600


def test_a_line_without_an_end_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LONGEST_LINE", 10)
    ((_, text),) = rows(read_log(written(tmp_path / "e.jsonl", ["y" * 25]), ReadBudget(), began=BEGAN, total=1))
    assert text == f"{'y' * 10} … (15 more characters are in the record)"
    assert key_of("  x" * 300) == key_of(f"{('  x' * 300)[:210]} … end")


def _mark(text: str) -> str:
    return f"\x1b[0Ksection_{text}\r\x1b[0K"


def folds(log: Log) -> list[tuple[int, int, str, bool, str]]:
    return sorted((fold.first, fold.last, fold.section.title, fold.section.collapsed, fold.took) for fold in log.folds)


def test_sections_of_the_output_are_ranges_of_lines(tmp_path: Path) -> None:
    start, end = "start:1:", "end:3:"
    lines = [
        _mark(f"{start}a") + "A", _mark(f"{start}b[collapsed=true]"), "x", _mark(f"{end}b") + _mark(f"{start}c") + "C", "y",
        _mark(f"{end}a"), "section_start:1:d", _mark(f"{end}nobody"), _mark(f"{start}e") + "\x1b[1mE\x1b[0m", "z",
    ]  # fmt: skip
    reader = SectionReader()
    log = read_log(written(tmp_path / "e", lines), ReadBudget(), began=BEGAN, total=10, sections=reader)
    assert [text for _, text in rows(log)] == ["A", "b", "x", "C", "y", "", "section_start:1:d", "", "E", "z"]
    assert folds(log) == [
        (1, 6, "A", False, "2.0 s"), (2, 3, "b", True, "2.0 s"), (4, 6, "C", False, "2.0 s"), (9, 10, "E", False, ""),
    ]  # fmt: skip
    assert [section.title for section in reader.open] == ["E"]
    later = written(tmp_path / "later", ["in the next step", _mark("end:62:e")])
    assert folds(read_log(later, ReadBudget(), began=BEGAN, total=2, sections=reader)) == []
    assert folds(log)[-1] == (9, 10, "E", False, "1 min 01 s")


def test_a_section_that_began_in_lines_that_are_left_out_is_none_and_their_number_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MOST_LINES", 1000)
    lines = [_mark("start:1:a") + "A", *["x"] * 4998, _mark("end:2:a")]
    reader = SectionReader()
    list(reader.parts(_mark("start:1:of an earlier step")))
    log = read_log(written(tmp_path / "e", lines), ReadBudget(), began=BEGAN, total=5000, sections=reader)
    assert (folds(log), reader.open) == ([], [])
    monkeypatch.setattr(logs, "MOST_FOLDS", 3)
    log = read_log(written(tmp_path / "e", lines[:1] * 9), ReadBudget(), began=BEGAN, total=9)
    assert [fold[:2] for fold in folds(log)] == [(1, 9), (2, 9), (3, 9)]


def test_lines_of_a_diagnosis_have_the_numbers_of_their_order(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", ["error: a", "x", "end", "error: a", "end"])
    shown = ["error: a", "…", "x", "end", "…", "end"]
    log = read_log(path, ReadBudget(), began=BEGAN, total=5, wanted=shown)
    assert numbered(shown, log) == [1, None, 2, 3, None, 5]
    assert numbered(["error: a", "end", "gone"], log) == [4, 5, None]


def job(job_id: str, stage: str, needs: list[str] | None = None, **more: Any) -> JobState:
    return JobState(job_id, {"id": job_id, "name": job_id, "stage": stage, "needs": needs, **more})


def drawn(*jobs: JobState, stages: str = "abc") -> list[tuple[str, list[str]]]:
    return [(stage, [box.label for box in boxes]) for stage, boxes in columns_of(list(stages), jobs)]


def test_stages_are_columns_and_a_matrix_is_one_box() -> None:
    cells = [job(f"m.{n}", "a", name="m", matrix={"N": str(n)}) for n in range(30)]
    cells[7].end = ended(("failure", False)).jobs["j1"].end
    jobs = [job("z", "b"), *cells, job("x", "a")]
    assert drawn(*jobs) == [("a", ["m ×30", "x"]), ("b", ["z"])]
    box = columns_of(["a"], cells)[0][1][0]
    assert (box.target, box.status, box.note) == ("m.0", "unfinished", "1 failure, 29 unfinished")


def test_needs_inside_a_stage_are_further_columns() -> None:
    jobs = [job("a1", "a"), job("a2", "a", ["a1"]), job("b1", "b"), job("c1", "c", ["a1", "b1"])]
    assert drawn(*jobs) == [("a", ["a1"]), ("", ["a2"]), ("b", ["b1"]), ("c", ["c1"])]
    assert columns_of("abc", jobs)[-1][1][0].note == "1 unfinished; needs a1, b1"


def test_a_record_of_nonsense_draws_something() -> None:
    nonsense = [job("a", "a", ["b", "a"]), job("b", "a", ["a", "gone"]), job("c", "no stage")]
    assert drawn(*nonsense, stages="") == [("a", ["a"]), ("", ["b"]), ("no stage", ["c"])]
    assert columns_of([], []) == []


def ended(*results: tuple[str, bool]) -> RunFold:
    fold = RunFold()
    for number, (status, allowed) in enumerate(results, 1):
        one = fold.jobs[f"j{number}"] = job(f"j{number}", "a")
        one.end = PhaseEvent(
            seq=number, ts=BEGAN, run_id="1", pipeline_id="1", job_id=one.id, scope="job", phase_code="job.cleanup",
            phase_family="job", kind="message", message="job_finished", status=Status(status),
            data={"allowed_failure": allowed},
        )  # fmt: skip
    return fold


@pytest.mark.parametrize(
    ("results", "state", "said", "counted"),
    [
        ([("failure", False)], "failure", "The job failed", "1 failed"),
        ([("success", False)], "success", "The job passed", "1 passed"),
        ([("success", False)] * 3, "success", "All 3 jobs passed", "3 passed"),
        (
            [("error", False), ("failure", False), ("failure", True), ("timed_out", False), ("success", False)],
            "error",
            "3 of 5 jobs failed",
            "1 failed, 1 failed (allowed), 1 could not run, 1 timed out, 1 passed",
        ),
        ([("success", False), ("skipped", False)], "success", "1 of 2 jobs passed", "1 passed, 1 skipped"),
        ([("canceled", False), ("success", False)], "canceled", "The run was canceled", "1 canceled, 1 passed"),
        ([], "error", "The run failed", ""),
        ([("failure", False), ("success", False)], "running", "1 of 2 jobs failed so far", "1 failed, 1 passed"),
        ([("success", False)], "detached", "The run goes on", "1 passed"),
    ],
)
def test_the_headline_is_a_sentence(results: list[tuple[str, bool]], state: str, said: str, counted: str) -> None:
    fold = ended(*results)
    assert headline(fold, state) == said
    assert counts(fold) == counted


def test_a_job_that_failed_earlier_and_did_not_run_again_is_the_headline() -> None:
    fold = ended(("success", False))
    fold.facts["results_reused"] = {"jobs": {"a": {"status": "failure", "allowed_failure": False, "run_id": "7"}}}
    assert headline(fold, "failure") == "1 job failed in an earlier run and did not run again"


NOT_IN_THE_PAGE = {
    "schema_version", "kind", "unrecorded", "previous_run_id", "failed", "last_event_at", "duration_ms", "head_sha", "tree_sha",
    "attempt", "image", "changed_since",
    "survived",  # the earlier line is marked
    "same_failure",  # the list at the top has it
    "telling_line",  # a row of its lines is marked
    "log",  # a run of a CI server has no page
    "others", "skipped", "receipt_path", "job_manifest_path", "events_path", "lines",
}  # fmt: skip
"""Fields of a diagnosis that the page shows in another place or form: its head, its list of failed jobs, its logs."""


def test_the_page_shows_every_field_of_a_diagnosis() -> None:
    template = Path(logs.__file__).with_name("diagnosis.html.j2").read_text()
    missing = {name for name in Diagnosis.__struct_fields__ if not re.search(rf"\bdiagnosis\.{name}\b", template)}
    assert missing == NOT_IN_THE_PAGE


def test_what_changed_since_the_job_passed_is_escaped_and_counted() -> None:
    evidence = Evidence(run_id="2", state="failure", receipt={}, pipeline={"jobs": []})
    changed = ChangedFile(path="<i>.py", change="modified", named=True, line=3, hunk=["-a <", "+b &"])
    diagnosis = replace(
        diagnose(evidence),
        since_green=SinceGreen(
            run_id="1", tree_sha=None, files=[changed], files_total=4, other=[Pair(name="image", a=None, b="python:3")]
        ),
        same_input=SameInput(runs=5, passed=3),
        failures=[Failure(tool="tsc", file="a.ts", line=4, message="no <b>", code="TS1")] * 2,
        failures_total=40,
        groups=[FailureGroup(message="no <b>", count=40, first=Failure(tool="tsc", file="a.ts", line=4))],
        groups_total=1,
    )
    shown = template("diagnosis.html.j2").render(
        diagnosis=diagnosis, words=WORDS, error=None, excerpt=[], telling=None, anchor=None, log_anchor=None
    )
    for text in (
        "Since the job passed in run 1",
        "<code>&lt;i&gt;.py:3</code> modified, named in the output",
        "-a &lt;\n+b &amp;",
        "4 changed files in all",
        "image: nothing → python:3",
        "passed 3 of 5 times on this input",
        "40 failures of 1 kind<",
        "no &lt;b&gt; ×40 <code>a.ts:4</code>",
        "2 failures of 40",
    ):
        assert text in shown, shown


def test_lines_that_people_see_of_a_command_have_its_number(tmp_path: Path) -> None:
    path = written(tmp_path / "events.jsonl", ["::debug::d", "::error file=a,line=2::m%0An", "end"])
    log = read_log(
        path, ReadBudget(), began=BEGAN, total=3, sections=CommandReader(), wanted=["Error: m (a:2)", "n", "end"]
    )
    assert numbered(["Error: m (a:2)", "n", "end"], log) == [2, None, 3]
    assert rows(log) == [(1, ""), (2, "Error: m (a:2) n"), (3, "end")]
