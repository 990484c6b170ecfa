"""Durations and sizes as flags give them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loom.errors import RequestError

T = TypeVar("T")


def read_flag(flag: str, text: str, read: Callable[[str], T]) -> T:
    """The value of a flag, by a reader of `util.units`. RequestError names the flag and says what to write."""
    try:
        return read(text)
    except ValueError as error:
        raise RequestError(f"{flag}: {error}") from error
