"""What counts as the same in two runs' output."""

import pytest

from loom.analysis.diff import first_line
from loom.analysis.failure import normalised


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2026-11-25T01:02:03.123Z done", "2026-11-26T01:02:04Z done"),
        ("passed in 0.31s", "passed in 12.0s"),
        ("/tmp/loom-run-local-123-456/a.py", "/tmp/loom-run-local-99-1/a.py"),
        ("object at 0x7f00aa", "object at 0x7fffbb"),
        ("commit 1a6d7387cff007e6", "commit aead9d2929aacff5"),
        ("listening on localhost:43121", "listening on localhost:9"),
    ],
)
def test_what_changes_by_itself_is_the_same(a: str, b: str) -> None:
    assert normalised(a) == normalised(b)


def test_the_first_line_that_differs() -> None:
    assert first_line("s", "stdout", ["a", "b"], ["a", "b"]) is None
    found = first_line("s", "stdout", ["a", "took 3 ms", "x"], ["a", "took 9 ms", "y"])
    assert found is not None
    assert (found.line, found.a, found.b) == (3, "x", "y")
    short = first_line("s", "stdout", ["a"], [])
    assert short is not None
    assert (short.line, short.a, short.b) == (1, "a", None)
