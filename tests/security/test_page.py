"""docs/security.md promises nothing without naming the test that holds it, and names no test that is not there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/security.md").read_text()
ATTACKERS = 10
ASSETS = ["host files", "other jobs", "secrets", "record", "engine", "checkout", "network"]


def rows() -> list[list[list[str]]]:
    part = PAGE.partition("## Attackers and promises")[2].partition("\n## ")[0]
    tables = part.split("\n### ")[1:]
    return [
        [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line.startswith("| ")][2:]
        for table in tables
    ]


def test_every_attacker_has_a_row_for_every_asset() -> None:
    assert [[row[0].removeprefix("| ") for row in table] for table in rows()] == [ASSETS] * ATTACKERS


def test_each_promise_names_the_test_that_holds_it() -> None:
    for table in rows():
        for row in table:
            promises_nothing = row[1].startswith("None")
            assert promises_nothing or "::test_" in row[2], row


def test_the_tests_that_it_names_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 40
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (TESTS / file).read_text()]
    assert missing == []
