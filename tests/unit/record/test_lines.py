"""Bytes to lines: nothing is lost, whatever the chunks."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from loom.record.lines import Line, LineSplitter
from tests.support.effort import fuzzed


def all_lines(chunks: list[bytes], limit: int = 65536) -> list[Line]:
    splitter = LineSplitter(limit)
    found: list[Line] = []
    for chunk in chunks:
        found += [Line(line) if isinstance(line, str) else line for line in splitter.feed(chunk)]
    return found + splitter.finish()


def joined(lines: list[Line]) -> bytes:
    parts = []
    for line in lines:
        raw = line.text.encode() if line.raw_b64 is None else base64.b64decode(line.raw_b64)
        parts.append(raw + (b"" if line.partial else b"\n"))
    return b"".join(parts)


@fuzzed(100)
@given(
    st.lists(st.binary(max_size=40) | st.sampled_from([b"\n", "é€😀".encode(), b"\xff\n", b"abc\r"])),
    st.integers(4, 30),
)
def test_lines_give_back_the_bytes(chunks: list[bytes], limit: int) -> None:
    lines = all_lines(chunks, limit)
    assert joined(lines) == b"".join(chunks)
    assert all(len(line.text.encode()) <= max(limit, 4) for line in lines if line.raw_b64 is None)


def test_a_character_cut_by_two_reads_is_whole() -> None:
    assert all_lines([b"caf\xc3", b"\xa9\n"]) == [Line("café")]


def test_a_long_line_comes_in_pieces_and_no_character_is_torn() -> None:
    lines = all_lines(["é".encode() * 10 + b"\nx"], limit=5)
    assert [line.partial for line in lines] == [True, True, True, True, False, True]
    assert all(line.raw_b64 is None for line in lines)


def test_bytes_that_are_not_utf8_are_kept_beside_a_readable_text() -> None:
    (line,) = all_lines([b"a\xffb\n"])
    assert line == Line("a�b", raw_b64=base64.b64encode(b"a\xffb").decode())
