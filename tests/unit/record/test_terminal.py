"""A run on a terminal whose reader is slow, as on a busy machine: what is on it in the end, line by line."""

import codecs
import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pytest

from tests.support.effort import effort

from .conftest import Make, Project

pytestmark = pytest.mark.slow

ROWS, COLUMNS = 24, 100
CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


class Terminal:
    """What a terminal shows of what was written to it, and what has scrolled out of it: enough for what loom sends."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0
        self._rest = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def feed(self, data: bytes) -> None:
        text, self._rest = self._rest + self._decode(data), ""
        at = text.rfind("\x1b")
        if at >= 0 and not CONTROL.fullmatch(text, at) and not re.search("[A-Za-z]", text[at:]):
            text, self._rest = text[:at], text[at:]
        for match in CONTROL.finditer(text):
            self._take(match[0], match[1], match[2])

    def _take(self, written: str, number: str | None, command: str | None) -> None:
        if written == "\r":
            self.column = 0
        elif written == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif command == "A":
            self.row = max(self.row - int(number or 1), len(self.lines) - ROWS, 0)
        elif command == "K":
            self.lines[self.row] = "" if number == "2" else self.lines[self.row][: self.column]
        elif command is None:
            for character in written:
                self._print(character)

    def _print(self, character: str) -> None:
        if self.column == COLUMNS:
            self._take("\n", None, None)
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1


class OnTerminal:
    def __init__(self, project: Project, *arguments: str) -> None:
        self.descriptor, other = pty.openpty()
        termios.tcsetwinsize(other, (ROWS, COLUMNS))
        self.terminal = Terminal()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loom", *arguments],
            cwd=project.root,
            env={**project.environ, "TERM": "xterm", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)},
            stdin=other,
            stdout=other,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)

    def read_until(self, seen: Callable[[list[str]], bool] = lambda _: False, *, bytes_at_once: int = 300) -> list[str]:
        """Read slowly, until what is shown is as wanted, or to the end; all lines."""
        deadline = time.monotonic() + 120
        while not seen(self.terminal.lines):
            assert time.monotonic() < deadline, self.terminal.lines
            try:
                data = os.read(self.descriptor, bytes_at_once)
            except OSError:
                break
            if not data:
                break
            self.terminal.feed(data)
            time.sleep(0.002)
        return self.terminal.lines

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.descriptor)


JOBS = 6
FAILING = "version: v1\nstages: [s]\n" + "".join(
    f"job{number}:\n  stage: s\n  script: ['sleep 1; for i in 1 2 3 4 5 6 7 8 9 10; do echo job{number} line $i; sleep 0.{number}; done; exit 3']\n"
    for number in range(JOBS)
)


@pytest.mark.parametrize("turn", range(effort(1, 2)))
def test_no_line_of_a_failure_is_lost(make: Make, turn: int) -> None:
    on = OnTerminal(make(FAILING), "run", "--local", "-j", str(JOBS), "--keep", "never")
    try:
        lines = [line.rstrip() for line in on.read_until()]
        assert on.process.wait(60) == 1
    finally:
        on.close()
    for number in range(JOBS):
        shown = [line.partition("│ ")[2] for line in lines if f"│ job{number} line" in line]
        assert shown == [f"job{number} line {count}" for count in range(1, 11)], "\n".join(lines)
        assert sum(f"✗ job{number} " in line for line in lines) == 1, "\n".join(lines)
        assert sum(f"/job{number}/user/script/01/" in line for line in lines) == 1, "\n".join(lines)
    assert sum(line.startswith("receipt: ") for line in lines) == 1
    assert "" not in lines[:-1], "the area left something"


LONG = "version: v1\nstages: [s]\nlong:\n  stage: s\n  script: [\"trap '' TERM; echo begun; while :; do sleep 0.1; done\"]\n"


def test_an_interrupt_is_answered_on_the_terminal_at_once(make: Make) -> None:
    on = OnTerminal(make(LONG), "run", "--local", "--keep", "never")
    try:
        on.read_until(lambda lines: any("begun" in line for line in lines))
        on.process.send_signal(signal.SIGINT)
        on.read_until(lambda lines: any(line.startswith("interrupted: steps have 10 s") for line in lines))
        assert on.process.poll() is None, "it was told when the jobs had ended"
        assert any("a second ^C ends them at once" in line for line in on.terminal.lines)
        on.process.send_signal(signal.SIGINT)
        lines = on.read_until()
        assert on.process.wait(60) == 130
    finally:
        on.close()
    assert sum(line.startswith("interrupted again: everything is ended at once") for line in lines) == 1
    assert lines[-2].startswith("receipt: ") or lines[-3].startswith("receipt: ")


def test_an_interrupt_is_answered_in_plain_output_and_recorded(make: Make) -> None:
    project = make(LONG)
    command = [sys.executable, "-m", "loom", "run", "--local", "--stream"]
    with subprocess.Popen(command, cwd=project.root, env=project.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = iter(process.stdout.readline, "")
        while "begun" not in next(shown) and process.poll() is None:
            pass
        process.terminate()
        assert "interrupted: steps have 10 s, then after_script; a second signal ends them at once\n" in shown
        process.terminate()
        assert "interrupted again: everything is ended at once\n" in shown
        assert process.wait(60) == 143
    assert "interrupted: steps have 10 s" in project.loom("show")


def test_no_line_is_lost_where_another_made_the_output_non_blocking(make: Make) -> None:
    project = make("version: v1\nstages: [s]\nmany: {stage: s, script: ['seq 20000']}\n")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-m", "loom", "run", "--local", "--stream"]
    with subprocess.Popen(command, cwd=project.root, env=project.environ, stdout=writing) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            deadline = time.monotonic() + 60
            while int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), sys.byteorder) < 60000:
                assert time.monotonic() < deadline, "the pipe was never full"
                time.sleep(0.02)
            shown = [line.rpartition(b" ")[2] for line in pipe.read().splitlines() if line.startswith(b"many")]
    assert process.returncode == 0
    assert [int(word) for word in shown if word.isdigit()][-20000:] == list(range(1, 20001))
