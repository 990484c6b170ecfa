"""The lines that tell: chosen while output is recorded, few, with their positions, whatever the size of the pieces."""

import io
import random
from collections.abc import Sequence

import pytest

from loom.record.documents import Highlights
from loom.record.events import OutputEvent, encode
from loom.record.highlights import SHELF, Highlighter, Watch, file_highlights
from loom.status import Stream

NOISE = [f"[{number}] compiling module {number} with flags -O2" for number in range(10_000)]
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/workspace/x.py", line 3, in <module>',
    "    main()",
    "ValueError: boo",
]


def encoded(lines: Sequence[str], stream: Stream = "stdout") -> list[bytes]:
    return [
        encode(OutputEvent(number, "2026-11-24T23:59:01.000042Z", stream, line)) for number, line in enumerate(lines, 1)
    ]


def highlights(events: Sequence[bytes], pieces: int = 1, words: Watch | None = None) -> Highlights:
    highlighter = Highlighter(words or Watch())
    for at in range(0, len(events), pieces):
        highlighter.feed(b"".join(events[at : at + pieces]), len(events[at : at + pieces]))
    return highlighter.finish()


def texts(found: Highlights) -> list[str]:
    return [line.text for line in found.lines]


def test_an_error_in_line_2_and_a_whole_traceback_in_the_middle() -> None:
    lines = list(NOISE)
    lines[1] = "ERROR: cannot open the database"
    lines[2500:2504] = TRACEBACK
    found = highlights(encoded(lines), 1000)
    assert texts(found) == ["ERROR: cannot open the database", *TRACEBACK]
    assert found.found == 2
    assert found.complete


def test_each_line_says_where_it_is() -> None:
    lines = list(NOISE)
    lines[7000] = "error: no such table"
    events = encoded(lines)
    (found,) = highlights(events, 300).lines
    file = b"".join(events)
    assert file[found.offset :].startswith(events[7000])
    assert file.splitlines()[found.line - 1] == events[7000].rstrip()
    assert found.seq == 7001


@pytest.mark.parametrize("seed", range(5))
def test_the_size_of_the_pieces_changes_nothing(seed: int) -> None:
    chance = random.Random(seed)
    telling = [
        "ERROR %d",
        "a/b.py:%d: AssertionError",
        "FAILED t.py::test_%d - boo",
        "    at f (x.js:%d:1)",
        "",
        "  %d",
    ]
    lines = [
        (chance.choice(telling).replace("%d", str(number)) if chance.random() < 0.02 else line)
        for number, line in enumerate(NOISE)
    ]
    events = encoded(lines)
    whole = highlights(events, len(events))
    assert highlights(events, 1) == whole
    assert highlights(events, 777) == whole
    assert file_highlights(io.BytesIO(b"".join(events)), Watch()) == whole


@pytest.mark.slow
def test_lines_that_differ_in_numbers_alone_leave_room_for_others() -> None:
    lines = [f"ERROR: attempt {number} failed" for number in range(1, 4001)]
    lines[2000] = "ERROR: disk quota exceeded"
    found = highlights(encoded(lines), 100)
    assert texts(found)[:3] == lines[:3]
    assert "ERROR: disk quota exceeded" in texts(found)
    assert found.found == 4000


@pytest.mark.slow
def test_highlights_are_few_however_many_lines_tell() -> None:
    lines = [f"Error: {'x' * (number % 300)} cannot {number} a {chr(97 + number % 26)}" for number in range(60_000)]
    found = highlights(encoded(lines), 500)
    assert sum(len(text) for text in texts(found)) < 5 * SHELF
    assert not found.complete


def test_a_heading_and_what_is_indented_below_it_go_together() -> None:
    lines = [*NOISE[:100], "/workspace/src/a.js", "  3:9  error  x is not defined", "", *NOISE[:100]]
    assert texts(highlights(encoded(lines))) == ["/workspace/src/a.js", "  3:9  error  x is not defined"]


def test_colours_and_controls_are_taken_out() -> None:
    found = highlights(encoded(["\x1b[31merror\x1b[0m: \x07boo"]))
    assert texts(found) == ["error: boo"]


def test_the_words_of_a_project() -> None:
    lines = [*NOISE[:300], "XX07 wrong thing", *NOISE[:300]]
    assert not highlights(encoded(lines)).lines
    (found,) = highlights(encoded(lines), words=Watch(lambda: {"XX0": "test"})).lines
    assert (found.text, found.why) == ("XX07 wrong thing", "test")


def test_a_file_that_is_no_record_is_read_up_to_its_first_long_line() -> None:
    begin = encoded(["error: boo"])[0]
    found = file_highlights(io.BytesIO(begin + b"\0" * 20_000_000), Watch())
    assert (texts(found), found.complete) == (["error: boo"], False)


def test_a_half_written_last_line_is_not_read() -> None:
    found = file_highlights(io.BytesIO(b"".join(encoded(["error: boo", "error: more"]))[:-5]), Watch())
    assert (texts(found), found.complete) == (["error: boo"], True)


def test_the_numbers_of_lines_go_on_in_a_file_that_was_written_before() -> None:
    before, after = encoded(["one", "two"]), encoded(["error: boo"])
    highlighter = Highlighter(Watch(), len(b"".join(before)), len(before))
    highlighter.feed(after[0], 1)
    (line,) = highlighter.finish().lines
    assert (line.line, line.offset) == (3, len(b"".join(before)))
