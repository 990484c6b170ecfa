"""GitHub's problem matchers, read as formats."""

import json

import pytest

from loom.analysis import patterns
from loom.runner.late import problem_matchers

MATCHERS = {
    "problemMatcher": [
        {
            "owner": "style",
            "pattern": [
                {"regexp": r"^(?!ok)([^\s(].*)$", "file": 1},
                {
                    "regexp": r"^\s+(?<at>\d+):(\d+)\s+(error|warning)\s+(.*?)\s\s+([\w(\)-]+)$",
                    "line": 1, "column": 2, "severity": 3, "message": 4, "code": 5, "loop": True,
                },
            ],
        },
        {"owner": "hints", "severity": "warning", "pattern": [{"regexp": "(.*)", "message": 1}]},
    ]
}  # fmt: skip


def test_problem_matchers_are_formats() -> None:
    lines = [
        "ok",
        "src/a.q",
        "  3:1  error  Bad name  no-bad",
        "  4:2  warning  Long  len",
        "  5:9  error  Worse  (x",
        "",
    ]
    added = problem_matchers.limited(problem_matchers.formats(json.dumps(MATCHERS).encode()), "style.json")
    found = patterns.failures(lines, added)
    assert [(each.tool, each.file, each.line, each.column, each.message, each.code) for each in found] == [
        ("style", "src/a.q", 3, 1, "Bad name", "no-bad"),
        ("style", "src/a.q", 5, 9, "Worse", "(x"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not a file of problem matchers: Expected `object`, got `array`"),
        (
            '{"problemMatcher": [{"owner": "x", "pattern": [{"regexp": "(a", "message": 1}]}]}',
            "matcher x: not a pattern",
        ),
        ('{"problemMatcher": [{"owner": "x", "pattern": [{"regexp": "a"}]}]}', "matcher x: no pattern has a message"),
    ],
)
def test_a_mistake_in_a_file_of_matchers_is_told(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem_matchers.formats(text.encode())
