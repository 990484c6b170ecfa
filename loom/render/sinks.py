"""What holds for everyone who writes a run to a stream: the reader may leave, and the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Text = TypeVar("Text", str, bytes)


def while_heard(write: Callable[[Text], object]) -> Callable[[Text], None]:
    """`write` until it fails once: the terminal or the pipe's reader went away. The run goes on, and its record is whole."""
    gone = False

    def heard(text: Text) -> None:
        nonlocal gone
        if gone:
            return
        try:
            write(text)
        except (OSError, ValueError):
            gone = True

    return heard
