"""Parse durations and sizes in flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from loom.errors import RequestError

T = TypeVar("T")


def read_flag(flag: str, text: str, read: Callable[[str], T]) -> T:
    """Parse a flag's value with a parser of `util.units`. RequestError names the flag and a valid form."""
    try:
        return read(text)
    except ValueError as error:
        raise RequestError(f"{flag}: {error}") from error
