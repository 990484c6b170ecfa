"""What a file has by alias is limited in number and depth, as if it were written out."""

from __future__ import annotations

import pytest

from loom.workflow import aliases
from loom.workflow.github import yaml


def problems(text: str) -> list[tuple[int, int, int, str]]:
    return [(one.line, one.column, one.length, one.message) for one in yaml.parse(text.encode(), "f").problems]


def test_aliases_lead_a_hundred_levels_deep_and_no_deeper() -> None:
    # Root, list and text are three levels; each alias is one more.
    lines = ["a0: &a0 [x]", *(f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, 100))]
    assert problems("\n".join(lines[:98])) == []
    deeper = problems("\n".join(lines[:99]))
    assert deeper == [(99, 12, 4, "the alias *a97 leads deeper than 100 levels")]


def test_aliases_bring_so_many_values_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "MAX_SHARED", 10)
    text = "a: &a {x: [1, 2], y: 3}\nb: [*a, *a]\n"
    assert problems(text) == []
    more = "the alias *a brings more than 10 values; share less"
    assert problems(f"{text}c: *a\n") == [(3, 4, 2, more)]


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("a: *b", 4, "the alias *b is unknown; its anchor must stand before it, in the same file"),
        ("a: [*a]", 5, "the alias *a is unknown; its anchor must stand before it, in the same file"),
        ("a: &a [x, [*a]]", 12, "the alias *a stands inside its own anchor"),
    ],
)
def test_an_alias_of_nothing_is_refused(text: str, column: int, why: str) -> None:
    assert problems(text) == [(1, column, 2, why)]
