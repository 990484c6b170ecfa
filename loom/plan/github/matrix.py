"""The combinations of a matrix, when the plan is made or when a job starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from loom.workflow.github.expressions import Value, text_of
from loom.workflow.job_ids import MOST
from loom.workflow.parser import InvalidExpression


def combinations(matrix: Value) -> list[dict[str, Value]]:
    """Return the combinations of an evaluated matrix in GitHub's order. Raises InvalidExpression for no matrix, and for none."""
    if not isinstance(matrix, Mapping):
        raise InvalidExpression(f"the matrix is {_kind(matrix)}, not a mapping of lists")
    vectors = {name: values for name, values in matrix.items() if name not in ("include", "exclude")}
    for name, values in vectors.items():
        if not isinstance(values, list):
            raise InvalidExpression(f"matrix: {name} is {_kind(values)}, not a list")
        if not values:
            raise InvalidExpression(f"matrix: {name} has no value")
    named = {name.lower(): name for name in vectors}
    excluded, included = (_rows(matrix, name, named) for name in ("exclude", "include"))
    for name in (name for row in excluded for name in row):
        if name not in vectors:
            raise InvalidExpression(f"matrix: exclude has {name}, which is no key of the matrix")
    if (size := prod(map(len, vectors.values()))) > 100 * MOST:
        raise InvalidExpression(f"the matrix has {size} combinations; GitHub runs {MOST} at most")
    found = [dict(zip(vectors, chosen, strict=True)) for chosen in product(*vectors.values())] if vectors else []
    found = [one for one in found if not any(_fits(one, row) for row in excluded)]
    original = [dict(one) for one in found]
    for row in included:
        taken = False
        for one, before in zip(found, original, strict=False):
            if all(_same(before[name], value) for name, value in row.items() if name in before):
                one.update(row)
                taken = True
        if not taken:
            found.append(dict(row))
    if not found:
        raise InvalidExpression("the matrix has no combination")
    if len(found) > MOST:
        raise InvalidExpression(f"the matrix has {len(found)} combinations; GitHub runs {MOST} at most")
    return found


def _rows(matrix: Mapping[str, Value], name: str, named: Mapping[str, str]) -> list[Mapping[str, Value]]:
    """Return the rows of `exclude` or `include`, whose keys are those of the matrix without regard to case."""
    rows = matrix.get(name) or []
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise InvalidExpression(f"matrix: {name} is not a list of mappings")
    return [{named.get(key.lower(), key): value for key, value in row.items()} for row in rows]


def _fits(combination: Mapping[str, Value], row: Mapping[str, Value]) -> bool:
    return bool(row) and all(name in combination and _same(combination[name], value) for name, value in row.items())


def _same(one: Value, other: Value) -> bool:
    """Compare two values; a part of a mapping is enough, as on GitHub."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(name in one and _same(one[name], value) for name, value in other.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    return type(one) is type(other) and bool(one == other)


def texts(combination: Mapping[str, Value]) -> Iterator[str]:
    """Yield the values of a combination as the name of its job has them: those of lists and mappings one by one."""
    for value in combination.values():
        yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
    elif text := text_of(value):
        yield text


def _kind(value: Value) -> str:
    return "empty" if value is None else "a list" if isinstance(value, list) else f"the text {text_of(value)!r}"
