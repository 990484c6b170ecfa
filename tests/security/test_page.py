"""docs/security.md promises nothing without naming the test that holds it, and names no test that is not there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/security.md").read_text()
ATTACKERS = 10
ASSETS = ["host files", "other jobs", "secrets", "record", "engine", "checkout", "network"]


def tables() -> list[str]:
    part = PAGE.partition("## Attackers and promises")[2].partition("\n## ")[0]
    return part.split("\n### ")[1:]


def rows() -> list[list[list[str]]]:
    return [
        [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line.startswith("| ")][2:]
        for table in tables()
    ]


def test_every_attacker_has_every_asset_in_a_row_or_by_another_attackers() -> None:
    assert len(tables()) >= ATTACKERS
    for table, own in zip(tables(), rows(), strict=True):
        elsewhere = "".join(re.findall(r"^Not in the table: (.*)$", table, re.MULTILINE))
        named = [asset for asset in ASSETS if re.search(rf"\b{asset}\b[^;]*: as a", elsewhere)]
        assert sorted([*named, *(row[0].removeprefix("| ") for row in own)]) == sorted(ASSETS), table


def test_each_cell_of_the_summary_names_a_test() -> None:
    summary = PAGE.partition("## In short")[2].partition("\n## ")[0]
    cells = [
        cell for line in summary.splitlines()[4:] if line.startswith("| ") for cell in line.strip("| ").split(" | ")[1:]
    ]
    assert len(cells) >= 17
    assert [cell for cell in cells if cell.strip() and "::test_" not in cell] == []


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
