"""Nobody reads, nobody can be told, or there is no stream at all: a run comes to what it comes to all the same."""

import base64
import json
import os
import pty
import shlex
import subprocess
import sys

import pytest

from tests.support.loom_process import run_loom

from .conftest import Make, Project, new_project

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [s]
good: {stage: s, script: ['seq 30000']}
bad: {stage: s, script: ['seq 30000', exit 5]}
"""


def shell(project: Project, line: str) -> "subprocess.CompletedProcess[str]":
    """A line of bash in which `loom` is the program; the exit code is that of its first command."""
    return subprocess.run(
        ["bash", "-c", f'loom() {{ {sys.executable} -m loom "$@"; }}\n{line}\nexit ${{PIPESTATUS[0]}}'],
        cwd=project.root,
        env=project.environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a run; tests only read it."""
    project = new_project(tmp_path_factory.mktemp("ran"), WORKFLOW)
    project.loom("run", "--local", "good")
    return project


@pytest.mark.parametrize(
    ("end", "job"),
    [
        ("| true", "good"),
        ("| true", "bad"),
        ("--stream | head -1", "bad"),
        ("--json | head -1", "good"),
        ("--format github | head -1", "bad"),
        ("--format gitlab | head -1", "good"),
        (">&-", "bad"),
        ("<&-", "good"),
        ("<&- >&- 2>&-", "good"),
        ("<&- >&- 2>&-", "bad"),
    ],
)
def test_a_run_ends_with_its_own_code(make: Make, end: str, job: str) -> None:
    project = make(WORKFLOW)
    code, status = {"good": (0, "success"), "bad": (1, "failure")}[job]
    ran = shell(project, f"loom run --local {job} {end}")
    assert (ran.returncode, ran.stderr) == (code, "")
    receipt = project.last().receipt
    assert receipt is not None
    assert receipt.status == status


@pytest.mark.parametrize(("job", "code"), [("good", 0), ("bad", 1)])
def test_a_terminal_that_was_closed_before_the_start_is_a_reader_that_left(make: Make, job: str, code: int) -> None:
    project = make(WORKFLOW)
    controller, terminal = pty.openpty()
    os.close(controller)
    ran = subprocess.run(
        [sys.executable, "-m", "loom", "run", "--local", job],
        cwd=project.root,
        env=project.environ,
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(terminal)
    assert (ran.returncode, ran.stderr) == (code, "")


def test_a_hangup_that_nohup_ignores_ends_no_run() -> None:
    program = """
import os, signal
from loom.cancel import Cancel, signals
cancel = Cancel()
with signals(cancel):
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    cancel.wait(60)
raise SystemExit(cancel.exit_code)
"""
    quoted = shlex.quote(program)
    for ignored, code in (("", 129), ("trap '' HUP;", 143)):
        ran = subprocess.run(["bash", "-c", f"{ignored} exec {sys.executable} -c {quoted}"], timeout=120, check=False)
        assert ran.returncode == code


def test_reading_the_beginning_of_a_log_is_no_failure(ran: Project) -> None:
    read = shell(ran, "loom logs good | head -1")
    assert (read.returncode, read.stdout, read.stderr) == (0, "1\n", "")


@pytest.mark.parametrize(
    ("command", "code"), [("", 2), ("nonsense", 2), ("run --nope", 2), ("run nope", 2), ("--help", 0), ("show", 0)]
)
def test_nobody_reads_what_a_command_says(ran: Project, command: str, code: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [sys.executable, "-m", "loom", *command.split()]
    ended = subprocess.run(words, cwd=ran.root, env=ran.environ, stdout=writing, stderr=writing, check=False)
    os.close(writing)
    assert ended.returncode == code


def test_a_thread_that_still_works_changes_no_exit_code_where_nobody_reads() -> None:
    program = """
import sys, threading, time
from loom.commands import terminal
from loom.util import startup
terminal.complete()
print("unread")
threading.Thread(target=time.sleep, args=(0.3,)).start()
startup.leave(4)
"""
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (4, b"")


def test_a_closed_stream_changes_no_exit_code() -> None:
    program = "import sys; from loom.util import startup; sys.stdout.close(); startup.leave(4)"
    ended = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (4, b"")


def into_a_full_file(project: Project, command: str) -> "subprocess.CompletedProcess[str]":
    return run_loom(tuple(command.split()), cwd=project.root, environ=project.environ, out_to="/dev/full")


@pytest.mark.parametrize("form", ["", "--json", "--format github", "--stream"])
def test_output_that_has_no_room_is_said_and_where_the_record_is(make: Make, form: str) -> None:
    project = make(WORKFLOW)
    ran = into_a_full_file(project, f"run --local good {form}")
    assert ran.returncode == 3
    assert ran.stderr.splitlines() == [
        "loom: standard output can't be written: No space left on device",
        f"  the run finished (success); its record is complete: {project.last().paths.receipt}",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "runs --json",
        "show --json",
        "logs good",
        "logs good --json",
        "diagnose --json",
        "diagnose --format agent",
        "diff last last --json",
        "check --format json",
        "compile --format json",
        "config show",
        "doctor --json",
        "clean --dry-run --json",
        "cache ls --json",
        "snapshot --json",
        "exec good --json -- echo hi",
        "schema",
        "--help",
    ],
)
def test_no_command_loses_its_output_in_silence(ran: Project, command: str) -> None:
    ended = into_a_full_file(ran, command)
    assert ended.returncode == (125 if command.startswith("exec") else 3), ended.stderr
    assert "loom: standard output can't be written: No space left on device\n" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_exec_as_a_document_has_every_byte(ran: Project) -> None:
    ended = shell(ran, r"""loom exec good --json -- sh -c 'printf "a\377"; printf "\303\244" >&2; : "$1"' sh $'\377'""")
    assert ended.returncode == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert (document["stdout"], base64.b64decode(document["stdout_b64"])) == ("a\ufffd", b"a\377")
    assert document["stderr"] == "\u00e4"
    assert "stderr_b64" not in document
    assert document["command"][-1] == "\ufffd"


def test_a_very_long_last_line_is_cut_on_the_screen_and_whole_in_the_record(make: Make) -> None:
    long = "head -c {size} /dev/zero | tr '\\0' {letter}"
    steps = (
        f"echo before; {long.format(size=5000, letter='a')}; echo; {long.format(size=3_000_000, letter='b')}; exit 5"
    )
    project = make(f"version: v1\nstages: [s]\nbad:\n  stage: s\n  script:\n    - |\n      {steps}\n")
    output = project.loom("run", "--local", code=1)
    assert len(output) < 10_000
    assert "at least 1,294,064 characters left out, which are in the events file" in output
    assert output == project.loom("show")
    assert project.loom("logs", "bad").count("b") == 3_000_001


def test_a_long_line_among_short_ones_is_cut_in_its_middle(make: Make) -> None:
    steps = "echo before; head -c 200000 /dev/zero | tr '\\0' x; echo y; echo after; exit 5"
    project = make(f"version: v1\nstages: [s]\nbad:\n  stage: s\n  script:\n    - |\n      {steps}\n")
    output = project.loom("run", "--local", code=1)
    at = output.index("│ before\n")
    shown = [line.strip().removeprefix("│ ") for line in output[at - 4 :].splitlines()[:3]]
    cut = f"{'x' * 1000}… (198,001 characters left out, which are in the events file) …{'x' * 999}y"
    assert shown == ["before", cut, "after"]
    assert output == project.loom("show")
