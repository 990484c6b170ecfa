"""The engine's frames, however the connection cuts them."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import ProviderError
from loom.providers.docker.session.attach import Demultiplexer
from tests.support.effort import fuzzed

FRAMES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=40)), max_size=12)


def framed(frames: list[tuple[str, bytes]]) -> bytes:
    return b"".join(struct.pack(">BxxxL", 1 if name == "stdout" else 2, len(data)) + data for name, data in frames)


@fuzzed(100)
@given(FRAMES, st.lists(st.integers(1, 30), min_size=1))
def test_every_byte_comes_out_in_order_and_with_its_stream(frames: list[tuple[str, bytes]], cuts: list[int]) -> None:
    data, frame_by_frame = framed(frames), Demultiplexer()
    got: list[tuple[str, int]] = []
    at = number = 0
    while at < len(data):
        size = cuts[number % len(cuts)]
        chunks = frame_by_frame.feed(data[at : at + size])
        assert all(one[0] != other[0] for one, other in pairwise(chunks))
        got += [(stream, byte) for stream, chunk in chunks for byte in chunk]
        at += size
        number += 1
    assert got == [(stream, byte) for stream, chunk in frames for byte in chunk]


def test_output_before_the_engine_s_own_words_is_not_lost() -> None:
    frames = Demultiplexer()
    assert frames.feed(framed([("stdout", b"last\n")]) + b"\x03\0\0\0\0\0\0\x04gone") == [("stdout", b"last\n")]
    with pytest.raises(ProviderError, match="gone"):
        frames.end()


def test_what_is_no_frame_is_the_engine_s_own_words() -> None:
    with pytest.raises(ProviderError, match=r"could not continue the container's output: .*log driver"):
        Demultiplexer().feed(b"\x03\0\0\0\0\0\0\x14the log driver is broken")
