"""The program that keeps a job's output in its pod, run here."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.providers.kubernetes.pod import WAITING
from loom.providers.kubernetes.scripts import program
from tests.support.waiting import until

MIB = 1 << 20


class Helper:
    def __init__(self, shell: list[str], folder: Path) -> None:
        self.io, self.spool = folder / "io", folder / "spool"
        self.io.mkdir()
        words = [program("helper.sh"), "loom", str(self.io), str(self.spool), "900", str(WAITING)]
        self.process = subprocess.Popen([*shell, "-c", *words], start_new_session=True)
        until(lambda: (self.io / "in").exists(), while_runs=self.process)

    def segment(self, number: int) -> int:
        """The size of a segment of the standard output; 0 for one that does not exist."""
        path = self.spool / f"out.{number}"
        return path.stat().st_size if path.exists() else 0

    def size(self) -> int:
        return sum(self.segment(number) for number in range(1, 40))


@pytest.fixture(params=[["sh"], ["bash"], ["busybox", "sh"]], ids=" ".join)
def helper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Helper]:
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"{request.param[0]} is not installed")
    started = Helper(request.param, tmp_path)
    yield started
    os.killpg(started.process.pid, signal.SIGKILL)
    started.process.wait(60)


def test_the_limit_of_what_waits_is_one_of_bytes_and_not_of_lines(helper: Helper) -> None:
    lines = [b"line %d\n" % number for number in range(1000)]
    with (helper.io / "out").open("wb", buffering=0) as out, (helper.io / "err").open("wb"):
        for line in lines:
            out.write(line)
            until(lambda: waiting_in(out) == 0, while_runs=helper.process)  # so each line is a read of its own
    until(lambda: (helper.spool / "out.end").exists(), while_runs=helper.process)
    assert (helper.spool / "out.1").read_bytes() == b"".join(lines)


def waiting_in(pipe: IO[bytes]) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_a_job_waits_when_the_limit_is_reached_and_goes_on_with_room(helper: Helper) -> None:
    def write() -> None:
        with (helper.io / "out").open("wb", buffering=0) as out:
            for _ in range(40):
                out.write(bytes(MIB))

    with (helper.io / "err").open("wb"):
        writing = threading.Thread(target=write)
        writing.start()
        until(lambda: helper.segment(WAITING) >= 2 * MIB, while_runs=helper.process)
        assert 16 * MIB <= helper.size() <= 32 * MIB
        assert helper.segment(WAITING + 1) == 0
        for number in range(1, 40):
            with (helper.spool / "room.out").open("w") as room:
                room.write(f"{number}\n")
        writing.join(60)
        until(lambda: (helper.spool / "out.end").exists(), while_runs=helper.process)
    assert helper.size() == 40 * MIB
