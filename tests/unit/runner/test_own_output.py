"""The record has the command that ended a step, and how much was printed before its own output."""

import pytest

from .conftest import Make


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("echo one; echo two >&2\nif true; then\n  ls /none\nfi", ("ls /none", 3, 2, 1, 1, None)),
        ("echo one\necho two\nexit 3", ("exit 3", 3, 3, 2, 0, 1)),
        ("echo one\nls /none\ntrap", None),
        ("echo one", None),
    ],
)
def test_the_command_that_ended_a_step_is_known(make: Make, script: str, ended: tuple[object, ...] | None) -> None:
    lines = "".join(f"        {line}\n" for line in script.splitlines())
    ran = make(f"stages: [a]\none:\n  stage: a\n  script:\n    - |\n{lines}").run(code=None)
    found = [event.data["ended_by"] for event in ran.events if "ended_by" in event.data]
    keys = ("command", "line", "code", "stdout_lines", "stderr_lines", "said_stdout_lines")
    assert [tuple(one[key] for key in keys) for one in found] == ([ended] if ended else [])
