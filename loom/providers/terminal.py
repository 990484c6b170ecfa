"""The caller's terminal and streams, for commands in a place."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Iterator, Mapping

from loom.record.lines import STANDARD_OUTPUT
from loom.status import OnOutput, Stream


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Put the terminal in raw mode (also ^C and ^Z reach the shell) and restore it."""
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def kind(environment: Mapping[str, str]) -> str:
    """Return the caller's TERM, for a place whose commands have none of their own in `environment`; empty to leave it."""
    return "" if "TERM" in environment else os.environ.get("TERM", "")


def size_of(descriptor: int) -> tuple[int, int]:
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(descriptor, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 24, 80
    return (rows or 24), (columns or 80)


def write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def to_streams(out: int, err: int) -> OnOutput:
    """Return an `on_output` that writes to two descriptors: standard output and standard error."""
    targets = {"stdout": (out, STANDARD_OUTPUT), "stderr": (err, "standard error")}

    def write(stream: Stream, data: bytes) -> None:
        descriptor, name = targets[stream]
        try:
            write_all(descriptor, data)
        except OSError as error:
            error.filename = name
            raise

    return write
