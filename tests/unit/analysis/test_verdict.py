"""Two ends of the same job, and where their logs part."""

from collections.abc import Sequence

import pytest

from loom.analysis.failure import JobEnding
from loom.analysis.failure import ending as ending_of
from loom.analysis.verdict import Block, LogParting, parting_of, verdict


def ending(
    status: str = "failure", command: str | None = "make", code: int | None = 2, line: str | None = "e: x"
) -> JobEnding:
    return ending_of(status, command=command, exit_code=code, lines=[line] if line else [])


@pytest.mark.parametrize(
    ("here", "kind", "says"),
    [
        (ending(), "reproduced", "reproduced: same failing command, same exit code, same failure"),
        (ending(command="make # collapsed multi-line command"), "reproduced", "reproduced"),
        (ending(code=1), "another-failure", "another exit code: there `make` gave 2: e: x, here `make` gave 1: e: x"),
        (
            ending(line="e: y"),
            "another-failure",
            "other failures (same command and exit code, 0 of 1 alike); only there: e: x; only here: e: y",
        ),
        (ending(command="ls"), "another-failure", "here `ls` gave 2"),
        (ending("success", None, 0, None), "passes-here", "the logs part at line 3 of `make`"),
        (ending("error", None, None, None), "not-run", "did not run to its end"),
        (ending("timed_out"), "another-failure", "another end"),
    ],
)
def test_verdict(here: JobEnding, kind: str, says: str) -> None:
    found, text = verdict(ending(), here, LogParting(command="make", line=3, there="a", here="b"))
    assert found == kind
    assert says in text


def parting(there: dict[str, Sequence[str]], here: dict[str, Sequence[str]]) -> LogParting | None:
    one, other = ((Block(command, iter(lines)) for command, lines in side.items()) for side in (there, here))
    return parting_of(one, other)


@pytest.mark.parametrize(
    ("there", "here"),
    [
        (["took 3.2s at 12:30:01"], ["took 4 s at 09:10:44"]),
        (["/usr/bin/bash: line 154: jq: command not found"], ["/run/loom/step.3: line 1: jq: command not found"]),
        (["out 1", "out 2", "warning"], ["warning", "out 1", "out 2"]),
        (["a", "", "b"], ["a", "b"]),
        (["key [MASKED] of ***"], ["key [REDACTED:SECRET_KEY] of [REDACTED:ID]"]),
    ],
)
def test_logs_that_differ_in_times_shells_and_order_do_not_part(there: list[str], here: list[str]) -> None:
    assert parting({"make": there}, {"make": here}) is None


def test_first_other_line_is_named_with_its_command() -> None:
    found = parting({"a": ["1"], "make": ["x", "y", "z"]}, {"a": ["1"], "make": ["x", "other", "z"]})
    assert found == LogParting(command="make", line=2, there="y", here="other")


@pytest.mark.slow
def test_line_that_one_side_lacks_is_found_in_a_long_log() -> None:
    lines = [f"line of {number * 'x'}" for number in range(2000)]
    found = parting({"make": lines}, {"make": [*lines[:700], *lines[701:]]})
    assert found is not None
    assert (found.line, found.there, found.here) == (701, lines[700][:300], None)


def test_command_that_did_not_run_there_parts_before_its_output() -> None:
    found = parting({"a": ["1"]}, {"a": ["1"], "make": ["x"]})
    assert found == LogParting(command="make", line=0, there=None, here="make")
