"""The list of runs at any width."""

from typing import Any

import pytest

from loom.record.documents import RunRow
from loom.render.look import Look
from loom.render.records import runs_lines

NOW = 1_796_235_924_498_102_572
VALUES: dict[str, Any] = {
    **dict.fromkeys(RunRow.__struct_fields__),
    "run_id": str(NOW - 3_600_000_000_000),
    "status": "failure",
    "duration_ms": 518,
    "tree_sha": "f57882f1e2c8" + "0" * 28,
    "extent": ["whole"],
    "failing_job_id": "unit",
}
ROW = RunRow(**VALUES)


@pytest.mark.parametrize("columns", [None, 200, 80, 40])
def test_each_run_is_listed_whole_within_the_terminal(columns: int | None) -> None:
    lines = list(runs_lines([ROW], Look(columns=columns), now_ns=NOW, with_checkout=False))
    text = " ".join(" ".join(lines).split())
    for word in (ROW.run_id, "failure", "1 h ago", "518 ms", "whole", "f57882f1e2c8", "unit"):
        assert word in text
    assert max(map(len, lines)) <= (columns or 100)
    assert ("STATUS" in text) == (columns != 40)
