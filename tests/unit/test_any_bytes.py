"""Readers of bytes that others wrote: any bytes are read whole or refused. `scripts/fuzz --guided` looks further."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.effort import fuzzed
from tests.support.targets import TARGETS


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input in which some bytes are others, or are there twice, or not at all."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 12))
        new = draw(st.binary(max_size=12) | st.sampled_from((bytes(data[at : at + 600]), *TOKENS)))
        data[at : at + size] = new
    if data[257:262] == b"ustar":  # a wrong checksum would be all that the reader sees
        for at in range(0, len(data) - 511, 512):
            if data[at + 257 : at + 262] == b"ustar":
                data[at + 148 : at + 156] = b" " * 8
                data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return bytes(data)


TOKENS = (
    *(
        b"\1\0\0\0\0\0\0",
        b"\3\0\0\0\0\0\0\0",
        struct.pack(">BxxxL", 2, 2**32 - 1),
        b"\xff\xfe",
        b"\x80" + bytes(10),
        b"-7",
    ),
    *(b"<testsuite>", b"</testcase>", b"<error>", b"<failure message='x'/>", b"<!DOCTYPE a>", b"&lt;", b"&#0;", b"]]>"),
    *(
        b'"kind":"output"',
        b"null",
        b"1e999",
        b'{"a":' * 70,
        b"[" * 3000,
        b"\\ud800",
        b"9" * 30,
        b"true",
        b'"message":"run_finished"',
    ),
    *(
        b"$[[ inputs.name ]]",
        b"$[[",
        b"]]",
        b"---\n",
        b"\n---\n",
        b"| truncate(1,99)",
        b"| expand_vars",
        b"inputs.no",
        b"\xc2\x85",
    ),
    *(
        b"spec: {inputs: {name: }}\n",
        b"*a",
        b"&a ",
        b"<<: *b\n",
        b"!reference ",
        b"!x ",
        b"\r\n",
        b"\t",
        b"|\n",
        b"'",
        b'"',
        b"- ",
    ),
    *(b"../", b"/", b"19 path=../../x\n", b"30 size=99999999999999999999\n", b"7777777", b".loom/.runtime", b"x\0"),
)


@pytest.mark.parametrize("name", TARGETS)
@fuzzed(150)
@given(data=st.data())
@pytest.mark.slow
def test_any_bytes_are_read_whole_or_refused(name: str, data: st.DataObject) -> None:
    target, seeds = TARGETS[name]
    target(data.draw(damaged(seeds) | st.binary(max_size=80)))
