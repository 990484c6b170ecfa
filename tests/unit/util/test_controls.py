"""What others wrote must not steer the terminal that it is shown on."""

from pathlib import Path

import pytest

from loom.errors import WorkflowError
from loom.render.problems import problem_lines
from loom.util.controls import cleaned, escape_commands, json_shown, shown, visible
from tests.support import native as workflow


def test_what_steers_a_terminal_is_replaced() -> None:
    assert shown("a\x1b[2Jb\x07\x9b1mc\x00\td\u202e\n") == "a\ufffdb\ufffd\ufffdc\ufffd\td<U+202E>\n"
    assert shown("ünïcode, 日本語 ✓") == "ünïcode, 日本語 ✓"


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b]52;c;aGk=\x07", "\x1b]0;title\x1b\\", "\x1b[2J", "\x1bPq#0\x1b\\", "\x1b_apc\x1b\\", "\x1bc", "\x1b(0", "\x9b2J",
        "\x9d0;t\x9c", "\x90q\x9c", "\x85", "\x1b[?1049h", "\x1b[6n", "\b", "\r", "\x7f", "\0", "\x1b", "\x1b]", "\x1b[31m",
    ],
)  # fmt: skip
def test_no_sequence_is_shown(sequence: str) -> None:
    assert cleaned(f"a{sequence}b") in (
        "ab",
        "a",
    )  # the last, where a sequence without an end takes a character with it
    assert cleaned(f"{sequence}") == ""


def test_json_keeps_its_content_and_steers_nothing() -> None:
    assert json_shown('{"a": "\x9b2J\u202e✓"}') == '{"a": "\\u009b2J\\u202e✓"}'


def test_no_line_is_a_command_to_a_ci_system() -> None:
    text = "one\n::error::x\n  ::set-output name=a::b\nsee ##[group]x\na::b"
    assert escape_commands(text) == "one\n| ::error::x\n  | ::set-output name=a::b\nsee ## [group]x\na::b"


def test_colours_stay_and_end_with_the_line() -> None:
    assert visible("plain", colours=True) == "plain"
    assert visible("\x1b[31mred\x1b[2J\x1b]0;title\x07 on\x1b[0m", colours=True) == "\x1b[31mred on\x1b[0m"
    assert visible("10%\r50%\r\x1b[32m100%\r", colours=True) == "\x1b[32m100%\x1b[0m"
    assert visible("\x1b[31mred\x1b[0m") == "red"


def test_a_file_that_means_harm_is_shown_harmlessly(tmp_path: Path) -> None:
    (tmp_path / "w.yml").write_text(
        'version: v1\nstages: [a]\n"j\\e]0;x\\a": {stage: a, script: [ls]}\nk: {stage: a, script: ["l\\0s"], "\\e[2J": 1}\n'
    )
    with pytest.raises(WorkflowError) as caught:
        workflow.load(tmp_path / "w.yml", tmp_path)
    lines = list(problem_lines(caught.value.problems))
    assert not [line for line in lines if "\x1b" in line or "\x07" in line or "\x00" in line]
    assert "w.yml:4:24: WF_SCHEMA_V1 /: a NUL byte: no name, variable or script can hold one; remove it" in lines
