"""A failure is the set of what failed: another test, a part, another value are no same failure; what varies by itself is."""

import re
from pathlib import Path

import pytest

from loom.analysis.failure import Finding, JobEnding, compare, ending, normalised
from loom.util.controls import visible

SAMPLES = sorted(Path(__file__).with_name("samples").glob("*.txt"))
GTEST = "[ RUN      ] Sum.Adds\na.cc:3: Failure\nExpected equality of these values:\n  add(1, 2)\n    Which is: 4\n[  FAILED  ] Sum.Adds (0 ms)"
CTEST = "The following tests FAILED:\n\t  1 - sum (Failed)\nErrors while running CTest"
EXUNIT = (
    "  1) test adds (SumTest)\n     Assertion with == failed\n     left:  4\n     right: 3\n\nFinished in 0.02 seconds"
)
DOTNET = "  Failed Shop.SumTest.Adds [12 ms]\n  Assert.Equal() Failure\n  Expected: 3\n  Actual:   4"
SWIFT = "/t/SumTests.swift:5: error: -[SumTests.SumTests testAdds] : XCTAssertEqual failed: (4) is not equal to (3)\nTest Case '-[SumTests.SumTests testAdds]' failed (0.002 seconds)."
BATS = " ✗ adds\n   (in test file a.bats, line 3)\n     `[ 4 -eq 3 ]' failed"
JEST = "  ● sum › adds\n\n    expect(received).toBe(expected) // Object.is equality\n\n    Expected: 3\n    Received: 4\n\n      at t (a.test.js:3:5)"
OTHERS = {
    "gtest": (GTEST, "Adds"),
    "ctest": (CTEST, "sum"),
    "exunit": (EXUNIT, "adds"),
    "dotnet": (DOTNET, "Adds"),
    "swift": (SWIFT, "testAdds"),
    "bats": (BATS, "adds"),
}


def failed(text: str, command: str = "make test", code: int | None = 1) -> JobEnding:
    return ending("failure", command=command, exit_code=code, lines=map(visible, text.splitlines()))


def alike(one: str, other: str) -> bool:
    return compare(failed(one), failed(other)).same


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda file: file.stem)
def test_each_finding_of_a_tool_counts(sample: Path) -> None:
    """Real output of 49 tools, in which one thing at a time becomes another."""
    text = sample.read_text()
    findings = failed(text).findings
    assert findings
    assert alike(text, text)
    for one in findings:
        file = next((word for word in one.name.split() if word in text), None)
        assert file is None or not alike(text, text.replace(file, file.replace("s", "z").replace("a", "e")[::-1])), one
        message = (one.message or "").split("\n")[0]
        if message in text:
            other = re.sub(r"\w(?=\W*$)", lambda found: "q" if found[0] != "q" else "w", message)
            assert other == message or not alike(text, text.replace(message, other)), one


@pytest.mark.parametrize(("text", "name"), OTHERS.values(), ids=OTHERS)
def test_what_no_format_reads_is_compared_by_its_lines(text: str, name: str) -> None:
    assert alike(text, text.replace("(0 ms)", "(7 ms)").replace("[12 ms]", "[9 s]").replace("0.002", "1.5"))
    assert not alike(text, text.replace(name, "other"))
    assert text.count("4") == 0 or "Which is" in text or not alike(text, text.replace("4", "5"))


def test_a_value_that_only_the_lines_of_a_comparison_show_counts() -> None:
    found = compare(failed(JEST), failed(JEST.replace("Received: 4", "Received: 5")))
    assert (found.same, found.text) == (False, "another value: there `Received: 4`, here `Received: 5`")


def test_a_part_and_another_test_are_told_as_that() -> None:
    both = "FAILED t.py::a - assert 1 == 2\nFAILED t.py::b - assert 3 == 4\nFAILED t.py::c - assert 5 == 6"
    part, other = "\n".join(both.splitlines()[:2]), both.replace("::c", "::d")
    assert compare(failed(both), failed(part)).text == (
        "a part of the failures (same command and exit code, 2 of 3 alike); only there: t.py::c: assert 5 == 6"
    )
    text = compare(failed(both), failed(other)).text
    assert "only there: t.py::c: assert 5 == 6; only here: t.py::d: assert 5 == 6" in text
    value = compare(failed(both), failed(both.replace("5 == 6", "5 == 7"))).text
    assert value == "another value in t.py::c: there assert 5 == 6, here assert 5 == 7"
    assert not alike(both, f"{both}\nFAILED t.py::c - assert 5 == 6\nFAILED t.py::e")


def test_command_and_exit_code_count_as_far_as_they_are_known() -> None:
    assert not compare(failed("x"), failed("x", command="ls")).same
    assert not compare(failed("x"), failed("x", code=2)).same
    assert compare(failed("x"), failed("x", code=None)).same
    assert compare(failed("x"), failed("x", command="make test # collapsed multi-line command")).same
    assert not compare(failed("x"), ending("timed_out", command="make test", exit_code=1)).same


def test_a_silent_command_is_compared_by_its_exit_code() -> None:
    assert compare(failed(""), failed("")).text == "same failing command, same exit code, no error printed"
    assert not alike("", "out of paper")
    assert not alike("built\nsigned", "built\nshipped")


def test_reports_count_instead_of_what_is_printed_and_the_line_of_a_finding_on_the_same_tree_alone() -> None:
    reported = [Finding(name="pkg.Test.a", message="boo")]
    sides = [ending("failure", lines=[line], reported=reported) for line in ("FAILED t.py::a", "FAILED t.py::b")]
    assert compare(*sides).same
    lint = [failed(f"a.py:{line}:1: F401 `os` imported but unused") for line in (3, 9)]
    assert (compare(*lint).same, compare(*lint, same_tree=False).same) == (False, True)


@pytest.mark.parametrize(
    ("there", "here", "value", "other"),
    [
        ("1 failed in 3.2s", "1 failed in 12 s", "error: expected 3.2s", "error: expected 12 s"),
        ("--- FAIL: TestA (0.01s)", "--- FAIL: TestA (2.10s)", "a_test.go:3: got 0.01s", "a_test.go:3: got 2.10s"),
        ("[2026-01-01 10:00:00] error: x", "[2026-01-02 11:00:01] error: x", "error: got 09:30:00", "error: got 10:00:00"),
        ("error: <A object at 0x7f00aa00bb10>", "error: <A object at 0x7fff00ee0130>", "error: want 0xff", "error: want 0xfe"),
        ("main.f(...) +0x1d error", "main.f(...) +0x2a error", "error: 0xdeadbeef", "error: 0xdeadbeee"),
        ("error in pid 371", "error in pid 4012", "error: got 371", "error: got 4012"),
        ("==371== Invalid read", "==98== Invalid read", "error: a==371==b", "error: a==98==b"),
        ("error: /tmp/tmpab12cd34/x", "error: /tmp/tmpzz98yy76/x", "error: /tmp/a/x", "error: /tmp/b/x"),
        ("error: /tmp/tmp.aB3dE9fG2h/x", "error: /tmp/tmp.Q7pR1sT5uV/x", "error: /tmp/tmp.aB3dE9fG2h/x", "error: /tmp/tmp.aB3dE9fG2h/y"),
        ("sh: 3: error: x", "/run/loom/step.3: line 1: error: x", "a: 3: error: x", "a: 4: error: x"),
        ("error: key [MASKED]", "error: key [REDACTED:KEY]", "error: key a", "error: key b"),
    ],
)  # fmt: skip
def test_a_form_that_varies_is_ignored_and_a_value_of_like_form_is_not(
    there: str, here: str, value: str, other: str
) -> None:
    assert alike(there, here)
    assert normalised(there) == normalised(here)
    assert not alike(value, other)
    assert normalised(value) != normalised(other)
