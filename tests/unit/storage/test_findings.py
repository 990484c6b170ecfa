"""Reports of linters and scanners: real ones, and hostile ones. `samples/` has what the tools print, some without what loom
reads over."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from loom.status import Failure
from loom.storage import findings
from loom.storage.findings import FindingReport, Kind
from loom.storage.reports import UnreadableReport

SAMPLES = Path(__file__).with_name("samples")


def read(kind: Kind, content: bytes | str | Any) -> FindingReport:
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    return findings.read(kind, io.BytesIO(text.encode() if isinstance(text, str) else text), project_dir="/workspace")


def sarif(*results: dict[str, Any], rules: Any = (), **run: Any) -> dict[str, Any]:
    driver = {"name": "scan", "rules": list(rules)}
    return {"version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": list(results), **run}]}


def at(uri: str, line: int = 3, **more: Any) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": uri, **more}, "region": {"startLine": line}}
    return {"message": {"text": "no"}, "locations": [{"physicalLocation": place}]}


def places(found: FindingReport) -> list[tuple[str | None, int | None, str | None]]:
    return [(each.file, each.line, each.code) for each in found.first]


RUFF = [
    ("app/orders.py", 1, "F401"),
    ("app/orders.py", 11, "F841"),
    ("app/orders.py", 12, "E722"),
    ("app/orders.py", 14, "F821"),
]
ESLINT = [
    ("src/cart.js", 1, "no-unused-vars"),
    ("src/cart.js", 7, "no-undef"),
    ("src/cart.js", 4, "no-var"),
    ("src/cart.js", 6, "eqeqeq"),
]
BANDIT = [("app/orders.py", 22, "B602"), ("app/orders.py", 18, "B301")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ruff.sarif", RUFF),
        ("ruff.codequality", RUFF),
        ("bandit.sarif", BANDIT),
        ("eslint.sarif", ESLINT),
        ("eslint.codequality", ESLINT),
    ],
)
def test_findings_of_real_tools_have_positions_the_most_severe_first(
    name: str, expected: list[tuple[str, int, str]]
) -> None:
    kind: Kind = "sarif" if name.endswith("sarif") else "codequality"
    found = read(kind, (SAMPLES / f"{name}.json").read_bytes())
    assert (places(found), found.total) == (expected, len(expected))
    assert all(each.message for each in found.first)


def test_the_columns_and_the_tool_of_a_finding() -> None:
    found = read("sarif", (SAMPLES / "ruff.sarif.json").read_bytes())
    assert found.first[3] == Failure(
        tool="ruff", file="app/orders.py", line=14, column=18, code="F821", message="Undefined name `discuont`"
    )


@pytest.mark.parametrize(
    ("result", "path"),
    [
        (at("src/a%20b.py"), "src/a b.py"),
        (at("file:///workspace/src/a.py"), "src/a.py"),
        (at("file:/workspace/src/a.py"), "src/a.py"),
        (at("file:///workspace/src/a%2520b.py"), "src/a%20b.py"),
        (at("file://host/workspace/src/a.py"), "src/a.py"),
        (at("a.py", uriBaseId="%SRCROOT%"), "a.py"),
        (at("/usr/lib/x.py"), "/usr/lib/x.py"),
    ],
)
def test_paths_of_sarif_count_from_the_project(result: dict[str, Any], path: str) -> None:
    assert places(read("sarif", sarif(result))) == [(path, 3, None)]


def test_a_result_refers_to_its_rule() -> None:
    rules = [
        {"id": "R0", "defaultConfiguration": {"level": "warning"}},
        {"id": "R1", "defaultConfiguration": {"level": "error"}, "messageStrings": {"m": {"text": "a call"}}},
    ]
    first = {**at("a"), "rule": {"index": 0}}
    second = {**at("b"), "ruleIndex": 1, "message": {"id": "m"}}
    found = read("sarif", sarif(first, second, rules=rules))
    assert places(found) == [("b", 3, "R1"), ("a", 3, "R0")]
    assert found.first[0].message == "a call"
    named = [{**at("c"), "rule": {"id": "R1"}}, {**at("d"), "ruleId": "R0", "rule": {"id": "R1"}}]
    assert places(read("sarif", sarif(*named, rules=rules))) == [("c", 3, "R1"), ("d", 3, "R0")]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"text": "own", "id": "m"}, "own"),
        ({"markdown": "*own*"}, "*own*"),
        ({"id": "m"}, "of the rule"),
        ({"id": "gone"}, None),
    ],
)
def test_a_message_is_the_results_own_or_its_rules(message: dict[str, Any], shown: str | None) -> None:
    rules = [{"id": "R", "messageStrings": {"m": {"text": "of the rule"}}}]
    (one,) = read("sarif", sarif({**at("a"), "ruleId": "R", "message": message}, rules=rules)).first
    assert one.message == shown


def test_a_note_is_no_finding_beside_a_warning() -> None:
    assert read("sarif", sarif({**at("a"), "level": "note"}, at("b"))).total == 1
    assert read("sarif", sarif({**at("a"), "level": "note"})).total == 1


@pytest.mark.parametrize(
    "more",
    [
        {"kind": "pass"},
        {"kind": "notApplicable"},
        {"baselineState": "absent"},
        {"suppressions": [{"kind": "inSource"}]},
    ],
)
def test_what_is_suppressed_or_passed_is_no_finding(more: dict[str, Any]) -> None:
    assert read("sarif", sarif({**at("a"), **more})).total == 0
    assert read("sarif", sarif({**at("a"), "suppressions": [{"kind": "external", "status": "rejected"}]})).total == 1


def test_codequality_in_both_forms_of_lines() -> None:
    issues: list[dict[str, Any]] = [
        {"description": "x", "check_name": "c", "severity": "info", "location": {"path": "./a", "lines": {"begin": 4}}},
        {"description": "y", "severity": "blocker", "location": {"path": "b", "lines": {"begin": {"line": 5}}}},
        {"description": "z", "location": {"path": "c"}},
        {"type": "measurement", "description": "z", "location": {"path": "c"}},
    ]
    assert places(read("codequality", issues)) == [("b", 5, None), ("a", 4, "c"), ("c", None, None)]


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert read("codequality", b"\xef\xbb\xbf[]").total == 0


DEEP = 1_000_000


@pytest.mark.parametrize(
    ("kind", "content", "reason"),
    [
        ("sarif", "", "not valid JSON"),
        ("sarif", "<testsuite/>", "not valid JSON"),
        ("sarif", b"\xff\xfe{\x00", "not valid JSON"),
        ("sarif", '{"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "\\ud800"}}}]}', "not valid JSON"),
        ("sarif", "[" * DEEP, "content is not as expected"),
        ("sarif", '{"x": ' + "[" * DEEP, "not valid JSON"),
        ("codequality", '[{"x": ' + '{"a": ' * DEEP, "not valid JSON"),
        ("sarif", {"version": "1" * 21, "runs": []}, f"it is SARIF {'1' * 19}…, and"),
        ("sarif", {"version": "1.0.0", "runs": []}, "it is SARIF 1.0.0, and loom reads 2.1.0"),
        ("sarif", [], "expected"),
        ("sarif", sarif(at("a", -1)), "content is not as expected"),
        ("sarif", sarif(at("a", 1 << 70)), "content is not as expected"),
        ("codequality", {"issues": []}, "expected"),
        ("codequality", [{"description": "no place"}], r"`\$\[0\]`"),
    ],
)
def test_what_is_no_such_report_is_refused_with_a_reason(kind: Kind, content: Any, reason: str) -> None:
    with pytest.raises(UnreadableReport, match=reason):
        read(kind, content)


@pytest.mark.slow
def test_a_large_report_is_read_in_moderate_time() -> None:
    issue = '{"location":{"path":"a","lines":{"begin":1}}}'
    number = (findings.MAX_BYTES >> 3) // (len(issue) + 1)
    began = time.thread_time()
    found = read("codequality", f"[{','.join([issue] * number)}]")
    assert (found.total, len(found.first)) == (number, findings.MAX_FINDINGS)
    assert time.thread_time() - began < 15 / 8


def test_a_report_may_be_so_large_and_no_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MAX_BYTES", 1 << 20)
    assert read("codequality", b"[" + b" " * ((1 << 20) - 2) + b"]").total == 0
    with pytest.raises(UnreadableReport, match="larger than 1 MiB"):
        read("codequality", b"[" + b" " * ((1 << 20) - 1) + b"]")


def test_a_level_that_sarif_has_not_is_less_than_a_warning() -> None:
    levels = ("odd", "note", "warning", "error")
    results = [{"ruleId": level, "level": level, "message": {"text": "m"}} for level in levels]
    assert [one.code for one in read("sarif", sarif(*results)).first] == ["error", "warning", "odd"]


def test_long_texts_and_colours_are_cut() -> None:
    (one,) = read("codequality", [{"description": "\x1b[31m" + "m" * 9000, "location": {"path": "p" * 5000}}]).first
    assert (len(one.message or ""), len(one.file or "")) == (2000, 1000)
    assert (one.message or "").startswith("mmm")


# -- coverage ------------------------------------------------------------------------------------------------------------


def test_the_most_severe_come_first_whatever_the_tool_calls_them() -> None:
    order = ["info", "minor", "major", "critical", "blocker", "MAJOR"]
    issues = [{"description": one, "severity": one, "location": {"path": one}} for one in order]
    found = [place for place, *_ in places(read("codequality", issues))]
    assert found == ["critical", "blocker", "major", "MAJOR", "minor", "info"]
