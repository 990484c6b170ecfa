"""The coverage in a job's output."""

import pytest

from loom.runner.own_output import Coverage
from loom.workflow.patterns import SearchError


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


def test_a_search_that_gives_up_is_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    coverage = Coverage(r"(\d+)%")
    watching = coverage.watching(lambda stream, data: None)
    watching("stdout", b"10%\n")

    def gives_up(text: str) -> None:
        raise SearchError("it takes too long")

    with monkeypatch.context() as patch:
        patch.setattr(coverage._search, "all_in", gives_up)
        watching("stdout", b"20%\n")
    watching("stdout", b"30%\n")
    assert (coverage.problem, coverage.percent) == ("it takes too long", None)
