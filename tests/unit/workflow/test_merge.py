"""What extends another entry has its values, or is missing where that is wrong."""

import pytest
from msgspec.structs import replace

from loom.workflow.merge import extended
from loom.workflow.messages import MAX_PROBLEMS, Problems, refused, sort_problems
from tests.support.gitlab import node

Said = list[tuple[int, str, str]]


def merged(text: str, *, most: int = 2, broken: tuple[str, ...] = ()) -> tuple[dict[str, object], Said]:
    problems = Problems()
    found = extended(node(text).value, problems, most=most, broken=broken)
    return {name: one.plain() for name, one in found.items()}, [
        (one.column, one.pointer, one.message) for one in problems.found
    ]


def test_parents_come_in_their_order_and_before_their_children() -> None:
    found, said = merged("{c: {extends: [a, b], z: 3}, b: {y: 2, m: {k: 2}}, a: {x: 1, y: 1, m: {j: 1, k: 1}}}")
    assert said == []
    assert list(found) == ["b", "a", "c"] or list(found) == ["a", "b", "c"]
    assert found["c"] == {"extends": ["a", "b"], "x": 1, "y": 2, "m": {"j": 1, "k": 2}, "z": 3}


@pytest.mark.parametrize(
    ("text", "names", "said"),
    [
        (
            "{a: {extends: aone}, b: {extends: a}, c: {extends: b}, one: {x: 1}}",
            ["one"],
            [(15, "/a/extends", "extends: unknown job or template aone; did you mean one?")],
        ),
        (
            "{a: {extends: [b, gone]}, b: {x: 1}, c: {extends: b}}",
            ["b", "c"],
            [(19, "/a/extends/1", "extends: unknown job or template gone")],
        ),
        (
            "{a: {extends: b}, b: {extends: c}, c: {extends: d}, d: {extends: e}, e: {x: 1}, f: {x: 1}}",
            ["c", "d", "e", "f"],
            [(32, "/b/extends", "extends goes deeper than 2 levels")],
        ),
        (
            "{a: {extends: b}, b: {extends: a}}",
            [],
            [(15, "/a/extends", "extends forms a cycle: a -> b -> a; remove one")],
        ),
        ("{a: {extends: list}, list: [x]}", ["list"], [(15, "/a/extends", "extends: unknown job or template list")]),
    ],
)
def test_what_extends_a_wrong_one_is_missing_without_a_word(text: str, names: list[str], said: Said) -> None:
    found, problems = merged(text)
    assert (sorted(found), [(column, at, why.partition("; did")[0]) for column, at, why in problems]) == (
        names,
        [(column, at, why.partition("; did")[0]) for column, at, why in said],
    )


def test_what_extends_a_broken_one_is_missing_too() -> None:
    found, said = merged("{a: [x], b: {extends: a}, c: {extends: b}, d: {x: 1}}", broken=("a",))
    assert (list(found), said) == (["d"], [])


def test_names_are_compared_until_there_were_so_many() -> None:
    problems = Problems(_comparisons=4)
    assert [problems.meant("stge", ["stage"], "; else") for _ in range(5)] == [
        *["; did you mean stage?"] * 3,
        *["; else"] * 2,
    ]
    assert Problems().meant("nothing", ["stage"], "; else") == "; else"
    assert Problems().meant("nothing", ["stage"]) == ""


def test_problems_come_by_file_line_and_column_and_up_to_a_number() -> None:
    problems = Problems()
    root = node("{a: 1, b: 2, c: 3}")
    for name in ("c", "a", "b", "a"):
        problems.say(root.value[name], name)
    assert [one.message for one in sort_problems(problems.found, {})] == ["a", "b", "c"]
    other = [one for one in problems.found if one.message == "c"]
    assert [one.message for one in sort_problems([*other, *problems.found], {".gitlab-ci.yml": 1})] == ["a", "b", "c"]
    many = [replace(other[0], line=line) for line in range(MAX_PROBLEMS)]
    assert (len(refused(many).problems), refused(many).hint, refused(many, "so").hint) == (MAX_PROBLEMS, None, "so")
    more = [*many, other[0]]
    assert (len(refused(more).problems), refused(more).hint) == (MAX_PROBLEMS, "1 more problems are not shown.")
    assert refused(more, "so").hint == "1 more problems are not shown.\nso"
