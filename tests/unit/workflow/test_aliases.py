"""What a file has by alias is limited in number and depth, as if it were written out."""

from typing import Any

import pytest

from loom.util import yaml_file
from loom.util.yaml_file import Node
from loom.workflow import aliases
from loom.workflow.github import yaml
from loom.workflow.gitlab import yaml as gitlab_yaml
from loom.workflow.gitlab.references import Resolver
from loom.workflow.messages import Problems


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


def test_an_exclamation_mark_alone_is_no_tag() -> None:
    assert problems("a: ! x") == []
    file = yaml_file.decoded(b"a: ! x", "f", code="C")
    assert gitlab_yaml.parse(file)[-1] is not None
    assert file.problems == []


def test_what_has_no_reference_stays_itself_and_what_is_shared_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    levels = "".join(f".l{n}: &l{n} [*l{n - 1}, *l{n - 1}]\n" for n in range(1, 9))
    text = f".l0: &l0 [x]\n{levels}job: *l8\n"
    root = gitlab_yaml.parse(yaml_file.decoded(text.encode(), "f", code="C"))[-1]
    assert root is not None
    value, seen = Resolver._value, []

    def looked_at(self: Resolver, node: Node, *more: Any) -> Node:
        seen.append(node)
        return value(self, node, *more)

    monkeypatch.setattr(Resolver, "_value", looked_at)
    assert Resolver(root, Problems()).resolved() is root
    assert len(seen) < 40, "and not 2 to the power of 8"
    shared = aliases.Shared()
    assert shared.too_much(root.value["job"], 1) == ""
    assert shared._weights[root.value["job"]] == (767, 10)
    assert len(shared._weights) == 10
