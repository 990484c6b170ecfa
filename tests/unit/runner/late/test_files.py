"""The files in which steps report, line by line."""

import pytest

from loom.runner.late.files import MOST_SUMMARY, InvalidFile, paths_of, summary_of, values_of


@pytest.mark.parametrize(
    ("lines", "values"),
    [
        ([], {}),
        ([b"=x"], {"": "x"}),
        ([b"", b"a=1", b"b==2=", b"c=", b"a=3\r"], {"a": "3\r", "b": "=2=", "c": ""}),
        ([b"a<<E", b"E"], {"a": ""}),
        ([b"a<<E F\r", b"one\r", b"", b"x=y", b" E F", b"E F\r", b"b=2"], {"a": "one\r\n\nx=y\n E F", "b": "2"}),
        ([b"a=x<<E", b"b<<=E", b"1", b"=E"], {"a": "x<<E", "b": "1"}),
        ([b"\xff=\xfe"], {"\udcff": "\udcfe"}),
        ([b"X=aX\r\r", b"b<<EX", b"EX\r", b"EX"], {"X": "aX\r\r", "b": "EX\r"}),
    ],
)
def test_values(lines: list[bytes], values: dict[str, str]) -> None:
    assert dict(values_of(lines)) == values


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([b"none"], "Invalid format 'none'"),
        ([b"<<E", b"E"], "Invalid format '<<E'. Name must not be empty and delimiter must not be empty"),
        ([b"a<<", b""], "Invalid format 'a<<'. Name must not be empty and delimiter must not be empty"),
        ([b"a<<E", b"e", b"E "], "Invalid value. Matching delimiter not found 'E'"),
    ],
)
def test_what_is_no_value(lines: list[bytes], message: str) -> None:
    with pytest.raises(InvalidFile) as caught:
        list(values_of(lines))
    assert str(caught.value) == message


def test_paths_and_summaries() -> None:
    assert paths_of([b" /a b \r", b"", b"/\xff"]) == ["/a b", "/\udcff"]
    assert summary_of([]) == ""
    assert summary_of([b"# A", b"\xff"]) == "# A\n\ufffd"
    assert len(summary_of([b"x" * (MOST_SUMMARY - 2), b"y"])) == MOST_SUMMARY
    with pytest.raises(InvalidFile, match="up to a size of 1024k, got 1024k"):
        summary_of([b"x" * (MOST_SUMMARY - 1), b"y"])
