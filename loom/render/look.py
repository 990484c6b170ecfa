"""The style and amount of a terminal's output: all facts about it that lines for people need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from loom.values import Immutable

Paint = Callable[[str, str], str]
"""`(text, style)` with style ok, bad, warn, dim, bold or job."""


class Detail(StrEnum):
    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


_EITHER = {
    "ok": ("✓", "+"),
    "bad": ("✗", "x"),
    "skip": ("–", "-"),
    "start": ("▸", ">"),
    "warn": ("!", "!"),
    "bar": ("│", "|"),
    "dots": ("…", "..."),
    "dot": ("·", "-"),
    "open": ("▾", "v"),
    "close": ("▴", "^"),
}
"""Each mark, and the one for a terminal without Unicode."""
_MARKS, _ASCII_MARKS = ({name: pair[at] for name, pair in _EITHER.items()} for at in (0, 1))


class Look(Immutable):
    detail: Detail = Detail.NORMAL
    stream: bool = False
    unicode: bool = True
    calm: bool = False
    """One line for each job, when it has ended: for one run after the other on one screen."""
    paint: Paint | None = None
    columns: int | None = None
    """Those of the terminal; None: lines have any length."""

    def styled(self, text: str, style: str) -> str:
        return text if self.paint is None else self.paint(text, style)

    @property
    def marks(self) -> Mapping[str, str]:
        return _MARKS if self.unicode else _ASCII_MARKS
