"""Sinks that survive the loss of their reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Text = TypeVar("Text", str, bytes)


def while_heard(write: Callable[[Text], object]) -> Callable[[Text], None]:
    """Call `write` until its first failure (the terminal or the pipe's reader is gone). Run and record continue."""
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
