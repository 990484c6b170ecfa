"""Combinations of a matrix, as GitHub makes them."""

from typing import Any

import pytest

from loom.plan.github.candidates import secret_in
from loom.plan.github.matrix import combinations
from loom.workflow.parser import InvalidExpression

OS = ["a", "b"]


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ({"os": OS, "v": [1.0, 2.0]}, ["a1", "a2", "b1", "b2"]),
        ({"os": OS, "exclude": [{"os": "a"}]}, ["b"]),
        ({"os": OS, "v": [1.0, 2.0], "exclude": [{"os": "a", "v": 1.0}, {"os": "b", "v": "2"}]}, ["a2", "b1", "b2"]),
        ({"os": OS, "exclude": [{}]}, ["a", "b"]),
        ({"os": OS, "v": [True], "exclude": [{"v": 1.0}]}, ["aTrue", "bTrue"]),
        ({"os": OS, "exclude": None, "include": None}, ["a", "b"]),
        ({"os": OS, "exclude": [{"OS": "a"}], "include": [{"Os": "b", "x": "+"}]}, ["b+"]),
        ({"os": OS, "include": [{"x": "+"}]}, ["a+", "b+"]),
        ({"os": OS, "include": [{"os": "a", "x": "+"}, {"os": "c"}, {"os": "a", "x": "-"}]}, ["a-", "b", "c"]),
        ({"os": OS, "include": [{"x": "1"}, {"x": "2", "os": "b"}]}, ["a1", "b2"]),
        ({"include": [{"x": "1"}, {"x": "2"}]}, ["1", "2"]),
        ({"os": OS, "include": [{"os": "c"}, {"os": "c", "x": "+"}]}, ["a", "b", "c", "c+"]),
    ],
)
def test_combinations(matrix: dict[str, Any], expected: list[str]) -> None:
    show = lambda value: f"{value:g}" if isinstance(value, float) else str(value)  # noqa: E731
    assert ["".join(map(show, one.values())) for one in combinations(matrix)] == expected


def test_rows_name_parts_of_mappings_and_whole_lists() -> None:
    node, other = {"n": "1", "os": {"v": ["x"]}}, {"n": "1", "os": {"v": ["y"]}}
    matrix = lambda row: combinations({"m": [node, other, ["x"], ["x", "y"]], "exclude": [{"m": row}]})  # noqa: E731
    assert [one["m"] for one in matrix({"n": "1"})] == [["x"], ["x", "y"]]
    assert [one["m"] for one in matrix({"os": {"v": ["x"]}})] == [other, ["x"], ["x", "y"]]
    assert [one["m"] for one in matrix({"n": "1", "more": "2"})] == [node, other, ["x"], ["x", "y"]]
    assert [one["m"] for one in matrix(["x"])] == [node, other, ["x", "y"]]
    assert [one["m"] for one in matrix(["x", "z"])] == [node, other, ["x"], ["x", "y"]]


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([], "the matrix is a list, not a mapping of lists"),
        ("x", "the matrix is the text 'x', not a mapping of lists"),
        ({}, "the matrix has no combination"),
        ({"os": OS, "exclude": [{"os": "a"}, {"os": "b"}]}, "the matrix has no combination"),
        ({"os": [], "include": [{"os": "a"}]}, "matrix: os has no value"),
        ({"os": "a"}, "matrix: os is the text 'a', not a list"),
        ({"os": OS, "exclude": [{"os": "a", "v": 1}]}, "matrix: exclude has v, which is no key of the matrix"),
        ({"os": OS, "include": {"x": 1}}, "matrix: include is not a list of mappings"),
        ({"os": OS, "exclude": ["a"]}, "matrix: exclude is not a list of mappings"),
        ({"os": list(map(str, range(257)))}, "the matrix has 257 combinations; GitHub runs 256 at most"),
        (
            {key: list(map(str, range(100))) for key in "abcd"},
            "the matrix has 100000000 combinations; GitHub runs 256 at most",
        ),
    ],
)
def test_a_matrix_that_is_none(matrix: Any, message: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        combinations(matrix)
    assert str(caught.value) == message


def test_a_matrix_has_at_most_256_after_exclusions() -> None:
    numbers = list(map(str, range(257)))
    assert len(combinations({"os": numbers, "exclude": [{"os": "3"}]})) == 256
    assert len(combinations({"os": numbers[:256]})) == 256


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" ${{ secrets.A }} ", "A"),
        ("${{ secrets['A-b'] }}", "A-b"),
        ("${{ github.token }}", "GITHUB_TOKEN"),
        ("${{ github.actor }}", None),
        ("x${{ secrets.A }}", None),
        ("${{ secrets.A || 'x' }}", None),
        ("${{ secrets.A", None),
        ("${{ ( }}", None),
        ("secrets.A", None),
        ("", None),
    ],
)
def test_a_text_that_is_one_secret(text: str, name: str | None) -> None:
    assert secret_in(text) == name
