"""A short form of loom's own language has the value of the mapping that it stands for."""

from typing import Any

import pytest

from loom.util.yaml_file import parse
from loom.workflow.native.shapes import Shapes


def values(text: str) -> Any:
    root = parse(text.encode(), "f").root
    assert root is not None
    shapes = Shapes()
    found = shapes.validated("job", root)
    assert shapes.found == []
    return found


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("image: a", "image: {name: a}"),
        ("services: [a, {name: b}]", "services: [{name: a}, {name: b}]"),
        ("needs: a", "needs: [{job: a}]"),
        ("needs: {job: a}", "needs: [{job: a}]"),
        ("needs: [a, {job: b}]", "needs: [{job: a}, {job: b}]"),
        ("cache: {paths: a, fallback_keys: b}", "cache: [{paths: [a], fallback_keys: [b]}]"),
        ("script: a", "script: [a]"),
        ("rules: [{changes: a}]", "rules: [{changes: {paths: [a]}}]"),
        ("rules: [{changes: [a, b]}]", "rules: [{changes: {paths: [a, b]}}]"),
        ("rules: [{changes: {paths: a}}]", "rules: [{changes: {paths: [a]}}]"),
        ("parallel: 2", "parallel: {count: 2}"),
        ("retry: 2", "retry: {max: 2}"),
        ("retry: {when: timeout, exit_codes: 3}", "retry: {when: [timeout], exit_codes: [3]}"),
    ],
)
def test_a_short_form_has_the_value_of_the_long_one(short: str, long: str) -> None:
    assert values(short) == values(long)
