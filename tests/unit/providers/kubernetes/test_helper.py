"""The program that keeps a job's output in its pod, run here."""

import contextlib
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
from loom.providers.driver import protocol as driver
from loom.providers.kubernetes.pod import spec
from loom.providers.kubernetes.pod.spec import WAITING
from tests.support.waiting import until

MIB = 1 << 20


class Helper:
    def __init__(self, shell: list[str], folder: Path) -> None:
        self.io, self.spool = folder / "io", folder / "spool"
        self.io.mkdir()
        words = [spec.helper(900, 0)[2], "loom", str(self.io), str(self.spool), "900", str(WAITING)]
        self.shell = shell
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


@pytest.mark.slow
def test_the_limit_of_what_waits_is_one_of_bytes_and_not_of_lines(helper: Helper) -> None:
    lines = [b"line %d\n" % number for number in range(WAITING * 5)]
    with (helper.io / "out").open("wb", buffering=0) as out, (helper.io / "err").open("wb"):
        for line in lines:
            out.write(line)
            until(lambda: waiting_in(out) == 0, while_runs=helper.process)  # so each line is a read of its own
    until(lambda: (helper.spool / "out.end").exists(), while_runs=helper.process)
    assert (helper.spool / "out.1").read_bytes() == b"".join(lines)


def waiting_in(pipe: IO[bytes]) -> int:
    """How many bytes nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


class Sender:
    """A connection to a helper, which acknowledges what it reads."""

    def __init__(self, helper: Helper, out: int = 1, err: int = 1) -> None:
        token = driver.new_token()
        words = [
            spec.sender(b"", (1, 1))[2],
            "loom",
            str(helper.spool),
            str(helper.io / "in"),
            token.decode(),
            str(out),
            str(err),
        ]
        self.process = subprocess.Popen(
            [*helper.shell, "-c", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.heard = {"out": b"", "err": b""}
        self.done = {"out": out - 1, "err": err - 1}
        pipes = {"out": self.process.stdout, "err": self.process.stderr}
        self.readers = [threading.Thread(target=self._read, args=(name, pipe, token)) for name, pipe in pipes.items()]
        for reader in self.readers:
            reader.start()

    def _read(self, name: str, pipe: IO[bytes], token: bytes) -> None:
        cutter = driver.Cutter(token)
        while data := os.read(pipe.fileno(), 65536):
            for part in cutter.feed(data):
                if isinstance(part, bytes):
                    self.heard[name] += part
                elif part.text.startswith(b" done"):
                    self.done[name] = int(part.text.split()[1])
                    assert self.process.stdin is not None
                    with contextlib.suppress(OSError):
                        os.write(self.process.stdin.fileno(), b"a %b %d\n" % (name.encode(), self.done[name]))

    def rests(self) -> bool:
        """Nothing runs in it but the reader of commands: it does not look again and again."""
        children = [pid for pid, parent, state in _processes() if parent == self.process.pid]
        states = [state for pid, _, state in _processes() if pid in (self.process.pid, *children)]
        return len(children) == 1 and states == ["S", "S"]

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
        for reader in self.readers:
            reader.join(60)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def _processes() -> Iterator[tuple[int, int, str]]:
    """Each process, its parent and its state."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            yield int(stat.parent.name), int(parent), state


@pytest.fixture
def sender(helper: Helper) -> Iterator[Sender]:
    started = Sender(helper)
    yield started
    started.close()


@pytest.fixture
def streams(helper: Helper) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    with (helper.io / "out").open("wb", buffering=0) as out, (helper.io / "err").open("wb", buffering=0) as err:
        yield out, err


Streams = tuple[IO[bytes], IO[bytes]]


@pytest.mark.parametrize("shell", [["sh"], ["bash"], ["busybox", "sh"]], ids=" ".join)
def test_a_connection_that_is_there_before_the_helper_loses_no_command(shell: list[str], tmp_path: Path) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    helper = Helper.__new__(Helper)
    helper.shell, helper.io, helper.spool = shell, tmp_path / "io", tmp_path / "spool"
    for folder in (helper.io, helper.spool):
        folder.mkdir()
    os.mkfifo(helper.spool / "wake")
    (helper.spool / "received").write_text("0\n")
    sender = Sender(helper)
    try:
        assert sender.process.stdin is not None
        os.write(sender.process.stdin.fileno(), b"c 1 hello\n")
        until(lambda: any(parent == sender.process.pid for _, parent, _ in _processes()), while_runs=sender.process)
        assert list(helper.io.iterdir()) == []
        os.mkfifo(helper.io / "new")  # as the helper does it, last of all
        reading = os.open(helper.io / "new", os.O_RDWR)
        (helper.io / "new").rename(helper.io / "in")
        assert os.read(reading, 100) == b"hello\n"
        os.close(reading)
    finally:
        sender.close()


@pytest.mark.slow
def test_a_silent_job_costs_nothing_and_is_heard_at_once(helper: Helper, sender: Sender, streams: Streams) -> None:
    out, err = streams
    for number in range(3):
        until(sender.rests, while_runs=helper.process)
        out.write(b"%d" % number)
        until(lambda: len(sender.heard["out"]) == number + 1, while_runs=helper.process)  # noqa: B023
    until(sender.rests, while_runs=helper.process)
    err.write(b"x")
    until(lambda: sender.heard == {"out": b"012", "err": b"x"}, while_runs=helper.process)


@pytest.mark.slow
def test_a_trickle_on_both_streams(helper: Helper, sender: Sender, streams: Streams) -> None:
    for number in range(40):
        for name, pipe in zip(("out", "err"), streams, strict=True):
            pipe.write(b"line %d\n" % number)
            until(lambda: sender.heard[name].endswith(b"line %d\n" % number), while_runs=helper.process)  # noqa: B023


@pytest.mark.slow
def test_a_flood_that_ends_in_silence_and_then_the_end(helper: Helper, sender: Sender) -> None:
    flood = b"".join(b"line %d\n" % number for number in range(1_500_000))
    with (helper.io / "out").open("wb", buffering=0) as out, (helper.io / "err").open("wb", buffering=0) as err:
        out.write(flood)
        until(lambda: len(sender.heard["out"]) == len(flood), while_runs=helper.process)
        assert sender.heard["out"] == flood
        err.write(b"meanwhile")
        until(lambda: sender.heard["err"] == b"meanwhile", while_runs=helper.process)
        out.write(b"last")
        until(lambda: sender.heard["out"].endswith(b"last"), while_runs=helper.process)
    assert sender.process.wait(60) == 0
    assert sender.heard == {"out": flood + b"last", "err": b"meanwhile"}
    assert (helper.segment(1), helper.segment(2)) == (0, 0)  # what was acknowledged is gone


@pytest.mark.slow
def test_a_second_connection_ends_the_first_and_begins_with_its_segment(
    helper: Helper, sender: Sender, streams: Streams
) -> None:
    out, _ = streams
    out.write(bytes(3 * MIB) + b"first")
    until(lambda: sender.heard["out"].endswith(b"first"), while_runs=helper.process)
    begun = sender.done["out"] + 1
    second = Sender(helper, out=begun)
    try:
        assert sender.process.wait(60) == -signal.SIGKILL
        out.write(b"second")
        until(lambda: second.heard["out"].endswith(b"firstsecond"), while_runs=helper.process)
        assert begun > 1
        assert len(second.heard["out"]) < 3 * MIB
    finally:
        second.close()


@pytest.mark.slow
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


@pytest.mark.slow
def test_of_two_connections_that_live_the_newer_one_hears_all(helper: Helper, sender: Sender, streams: Streams) -> None:
    until(sender.rests, while_runs=helper.process)
    (helper.spool / "sender").write_bytes(b"")  # so the next one does not know of it
    second = Sender(helper)
    try:
        until(second.rests, while_runs=helper.process)
        text = b""
        while sender.process.poll() is None:
            for pipe in streams:
                pipe.write(b"x\n")
            text += b"x\n"
            until(lambda: second.heard == {"out": text, "err": text}, while_runs=helper.process)  # noqa: B023
        assert sender.process.returncode == 1
    finally:
        second.close()
