"""The coverage in a job's output."""

import pytest

from loom.runner.coverage import Coverage


@pytest.mark.parametrize(
    ("pattern", "chunks", "percent"),
    [
        (r"TOTAL.*?(\d+\.\d+)%", [b"TOTAL  10.5%\nTOTAL 87.25%\n"], 87.25),
        (r"Coverage: \d+%", [b"Cover", b"age: 4", b"2%\nother 99%\n"], 42.0),
        (r"^Lines: (\d+)", [b"\x1b[32mLines: 77\x1b[0m of 100"], 77.0),
        (r"never", [b"100%\n"], None),
        (r"total: (\w+)", [b"total: none\n"], None),
    ],
)
def test_the_number_in_the_last_line_that_matches(pattern: str, chunks: list[bytes], percent: float | None) -> None:
    coverage, passed = Coverage(pattern), []
    watching = coverage.watching(lambda stream, data: passed.append(data))
    for chunk in chunks:
        watching("stdout", chunk)
    coverage.end()
    assert (coverage.percent, passed) == (percent, chunks)
