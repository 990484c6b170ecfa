"""The line of what takes long, on standard error as loom opens it."""

import io

import pytest

from loom.commands.screen import progress_line
from loom.commands.terminal import _ShownMasked


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("raw", "printed"),
    [(Terminal(), b"\r\x1b[Kthe log: 3 MB\r\x1b[K"), (io.BytesIO(), b"")],
)
def test_line_moves_the_cursor_back_and_goes_at_the_end(
    monkeypatch: pytest.MonkeyPatch, raw: io.BytesIO, printed: bytes
) -> None:
    """Control sequences of the text do not reach the terminal."""
    monkeypatch.setattr("sys.stderr", _ShownMasked(raw, encoding="utf-8"))
    with progress_line("the log: \x1b[2J3 MB"):
        pass
    assert raw.getvalue() == printed
