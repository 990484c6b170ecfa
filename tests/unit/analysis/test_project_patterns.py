"""The formats that a project adds in `.loom/patterns.yml`."""

import json
from pathlib import Path

import pytest

from loom.analysis import formats, patterns, project_patterns
from loom.errors import RequestError, WorkflowError
from tests.support.waiting import promptly


def project(root: Path, text: str) -> Path:
    (root / ".loom").mkdir()
    (root / ".loom" / "patterns.yml").write_text(text)
    return root


def test_a_project_without_the_file_adds_nothing(tmp_path: Path) -> None:
    assert patterns.of_project(tmp_path) == ()
    assert patterns.of_project(None) == ()


def test_a_format_of_a_project_comes_first(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        """\
- name: ours
  pattern: '^XX(?P<code>\\d+) (?P<file>\\S+) (?P<line>\\d+) (?P<message>.+)$'
  words: [XX]
- name: list
  pattern:
    - '^in (?P<file>\\S+):$'
    - '^ (?P<line>\\d+) wrong (?P<message>.+)$'
  repeat: true
""",
    )
    own = patterns.of_project(root)
    lines = ["XX07 src/a.q 12 boo", "in src/b.q:", " 1 wrong name", " 2 wrong type", "FAILED t.py::test_x - boo"]
    found = patterns.failures(lines, formats.readers(own))
    assert [(each.tool, each.file, each.line, each.message) for each in found] == [
        ("ours", "src/a.q", 12, "boo"),
        ("list", "src/b.q", 1, "name"),
        ("list", "src/b.q", 2, "type"),
        ("pytest", "t.py", None, "boo"),
    ]
    assert formats.watch(own).found_in(b"a XX07 src/a.q 12") == [(2, "error")]


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


def test_problem_matchers_are_formats(tmp_path: Path) -> None:
    root = project(tmp_path, "- matchers: .github/style.json\n")
    (root / ".github").mkdir()
    (root / ".github/style.json").write_text(json.dumps(MATCHERS))
    lines = [
        "ok",
        "src/a.q",
        "  3:1  error  Bad name  no-bad",
        "  4:2  warning  Long  len",
        "  5:9  error  Worse  (x",
        "",
    ]
    found = patterns.failures(lines, formats.readers(patterns.of_project(root)))
    assert [(each.tool, each.file, each.line, each.column, each.message, each.code) for each in found] == [
        ("style", "src/a.q", 3, 1, "Bad name", "no-bad"),
        ("style", "src/a.q", 5, 9, "Worse", "(x"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "matchers.json: not a file of problem matchers: Expected `object`, got `array`"),
        (
            '{"problemMatcher": [{"owner": "x", "pattern": [{"regexp": "(a", "message": 1}]}]}',
            "matcher x: not a pattern",
        ),
        ('{"problemMatcher": [{"owner": "x", "pattern": [{"regexp": "a"}]}]}', "matcher x: no pattern has a message"),
        (None, "matchers.json can't be read: No such file or directory"),
    ],
)
def test_a_mistake_in_a_file_of_matchers_has_its_position(tmp_path: Path, text: str | None, message: str) -> None:
    root = project(tmp_path, "- matchers: matchers.json\n")
    if text is not None:
        (root / "matchers.json").write_text(text)
    with pytest.raises(WorkflowError) as caught:
        patterns.of_project(root)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (1, 13)
    assert message in problem.message


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a: 1\n", "1:1", "expected a list of at most 50 formats, found a mapping"),
        ("- {name: a, pattern: '(?P<message>x'}\n", "1:22", "not a pattern: missing ), unterminated subpattern"),
        ("- {name: a, pattern: 'x'}\n", "1:22", "expected a group (?P<test>...) or (?P<message>...)"),
        ("- {name: a, pattern: '(?P<msg>x)'}\n", "1:22", "unknown group msg; the groups are test, file"),
        ("- name: a\n  patern: x\n", "2:3", "unknown key patern; did you mean pattern?"),
        ("- name: a\n", "1:3", "the key pattern is missing"),
        (f"- {{name: a, pattern: '(?P<message>{'x' * 1000})'}}\n", "1:22", "longer than 1000 characters"),
        ("- {name: a b, pattern: '(?P<message>x)'}\n", "1:10", "expected at most 40 letters"),
        ("- {name: a, pattern: '(?P<message>x)', within: 300}\n", "1:48", "expected a number of at most 200"),
        ("- {name: a, name: b}\n", "1:13", "name"),
    ],
)
def test_a_mistake_is_an_error_with_its_position(tmp_path: Path, text: str, place: str, message: str) -> None:
    with pytest.raises(WorkflowError) as caught:
        patterns.of_project(project(tmp_path, text))
    assert f".loom/patterns.yml:{place}: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.slow
def test_a_search_ends_after_its_time(tmp_path: Path) -> None:
    own = patterns.of_project(project(tmp_path, "- {name: slow, pattern: '^(?P<message>(?:x|xx)+)$'}\n"))
    with (
        promptly(),
        pytest.raises(RequestError, match=r"\.loom/patterns\.yml: slow: the search .* took longer than 1 s"),
    ):
        patterns.failures(["x" * 60 + "!"], formats.readers(own))


def test_what_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".loom" / "patterns.yml").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"\.loom/patterns\.yml can't be read"):
        project_patterns.readers(tmp_path)
