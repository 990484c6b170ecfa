"""What others wrote must not steer the terminal that it is shown on."""

from pathlib import Path

import pytest

from loom import workflow
from loom.errors import WorkflowError
from loom.output import harmless
from loom.render.problems import problem_lines
from loom.render.screen import coloured, visible


def test_what_steers_a_terminal_is_replaced() -> None:
    assert harmless("a\x1b[2Jb\x07\x9bc\x00\td\u202e\n") == "a\ufffd[2Jb\ufffd\ufffdc\ufffd\td\ufffd\n"
    assert harmless("ünïcode, 日本語 ✓") == "ünïcode, 日本語 ✓"


def test_colours_stay_and_end_with_the_line() -> None:
    assert coloured("plain") == "plain"
    assert coloured("\x1b[31mred\x1b[2J\x1b]0;title\x07 on\x1b[0m") == "\x1b[31mred on\x1b[0m\x1b[0m"
    assert coloured("10%\r50%\r\x1b[32m100%\r") == "\x1b[32m100%\x1b[0m"
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
