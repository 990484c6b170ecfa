"""The logs of CI servers, as their runners write them, as a page shows them, and hostile ones."""

import json
import re
from pathlib import Path

import pytest

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.server_log import LONGEST_LINE, diagnosis_of_log, raw_lines, read_log
from tests.support.loom_process import run_loom

_DIGEST = "sha256:" + "ab" * 32


def _edge(edge: str, name: str) -> str:
    return f"\x1b[0Ksection_{edge}:1700000000:{name}\r\x1b[0K"


def gitlab(script: str, end: str, *, after: str = "") -> str:
    """A job's trace as gitlab-runner writes it. A line of `script` with `$ ` is a command."""
    lines = re.sub(r"^\$ (.*)$", "\x1b[32;1m$ \\1\x1b[0;m", script, flags=re.MULTILINE)
    return f"""\x1b[0KRunning with gitlab-runner 17.5.0 (c6eae8d7)\x1b[0;m
{_edge("start", "prepare_executor")}\x1b[0K\x1b[36;1mPreparing the "docker" executor\x1b[0;m\x1b[0;m
\x1b[0KUsing Docker executor with image python:3.12 ...\x1b[0;m
\x1b[0KUsing docker image sha256:{"12" * 32} for python:3.12 with digest python@{_DIGEST} ...\x1b[0;m
{_edge("end", "prepare_executor")}{_edge("start", "get_sources")}\x1b[0K\x1b[36;1mGetting source from Git repository\x1b[0;m
\x1b[32;1mFetching changes with git depth set to 20...\x1b[0;m
\x1b[32;1mChecking out 1ecfd275 as detached HEAD (ref is main)...\x1b[0;m
{_edge("end", "get_sources")}{_edge("start", "step_script")}\x1b[0K\x1b[36;1mExecuting "step_script" stage of the job script\x1b[0;m
{lines}
{_edge("end", "step_script")}{_edge("start", "after_script")}\x1b[0K\x1b[36;1mRunning after_script\x1b[0;m\x1b[0;m
{after}
{_edge("end", "after_script")}{_edge("start", "cleanup_file_variables")}\x1b[0K\x1b[36;1mCleaning up project directory\x1b[0;m
{_edge("end", "cleanup_file_variables")}\x1b[31;1mERROR: Job failed: {end}
\x1b[0;m
"""


PYTEST = """$ pip install -q pytest
WARNING: Running pip as the 'root' user can result in broken permissions
$ pytest -q
E       assert 3 == 4
tests/test_cart.py:12: AssertionError
FAILED tests/test_cart.py::test_total - assert 3 == 4"""

GITHUB = """Current runner version: '2.317.0'
##[group]Run actions/checkout@v4
with:
  repository: octo/hello
##[endgroup]
HEAD is now at 1ecfd275 error: handling
##[group]Run ./lint
\x1b[36;1m./lint\x1b[0m
##[endgroup]
##[error]lint.py:1: an annotation of a step that passes
##[group]Run make test
\x1b[36;1mmake test\x1b[0m
shell: /usr/bin/bash -e {0}
env:
  LEVEL: error
##[endgroup]
main.c:3:5: error: use of undeclared identifier 'x'
make: *** [Makefile:2: test] Error 1
##[error]Process completed with exit code 2.
##[group]Run ./upload
##[endgroup]
##[error]Process completed with exit code 9.
Post job cleanup.
error: of the clean up"""


def told(text: str | bytes, *, size: int = 1 << 18) -> Diagnosis:
    data = text.encode() if isinstance(text, str) else text
    return diagnosis_of_log(read_log(data[at : at + size] for at in range(0, len(data), size)), "job.log")


def stamped(text: str, stamp: str) -> str:
    return "".join(f"{stamp}{line}\n" for line in text.splitlines())


def pasted(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[mK]|section_\w+:\d+:\w+\r?", "", text)


@pytest.mark.parametrize(
    "text",
    [
        gitlab(PYTEST, "exit code 1", after="$ echo error: of the clean up\nerror: of the clean up"),
        stamped(gitlab(PYTEST, "exit code 1"), "2024-05-22T12:43:46.962646Z 00O "),
        pasted(gitlab(PYTEST, "exit code 1", after="$ false\nerror: of the clean up")),
    ],
    ids=["raw", "timestamps", "pasted"],
)
def test_log_of_gitlab(text: str) -> None:
    found = told(text)
    assert (found.step, found.command, found.exit_code) == ("step_script", "pytest -q", 1)
    assert (found.telling_line, found.state) == ("E       assert 3 == 4", "failure")
    assert found.log is not None
    assert (found.log.format, found.log.commit, found.log.ref) == ("gitlab", "1ecfd275", "main")
    assert (found.image, found.log.image_digest, found.log.runner) == ("python:3.12", _DIGEST, "17.5.0")
    assert [(each.file, each.line) for each in found.locations] == [("tests/test_cart.py", 12)]
    assert not any("clean up" in line for line in found.lines)


def test_line_that_the_runner_divided_is_one_line() -> None:
    """With timestamps, `+` continues the line before."""
    at = "2024-05-22T12:43:46.962646Z 00O"
    text = f"{at} Running with gitlab-runner 17.5.0\n{at} main.go:3:2: unde\n{at}+fined: foo\n"
    assert told(text).telling_line == "main.go:3:2: undefined: foo"


@pytest.mark.parametrize(
    "text",
    [
        GITHUB,
        stamped(GITHUB, "2024-05-01T10:00:00.1234567Z "),
        stamped(GITHUB, "test\tRun make\t2024-05-01T10:00:00.1Z "),
    ],
    ids=["plain", "timestamps", "gh run view"],
)
def test_log_of_github(text: str) -> None:
    found = told(text)
    assert (found.step, found.exit_code, found.state) == ("make test", 2, "failure")
    assert found.telling_line == "main.c:3:5: error: use of undeclared identifier 'x'"
    assert found.log is not None
    assert (found.log.format, found.log.commit) == ("github", "1ecfd275")
    assert not any("LEVEL" in line or "clean up" in line for line in found.lines)


def test_image_and_depth_of_a_job_on_github() -> None:
    other = f"##[command]docker pull node:22\nDigest: sha256:{'01' * 32}\nmain.c:3:5"  # of a step's own
    text = GITHUB.replace("  repository: octo/hello", "  fetch-depth: 3").replace("main.c:3:5", other)
    start = (
        f"##[group]Starting job container\n##[command]/usr/bin/docker pull node:22\nDigest: {_DIGEST}\n##[endgroup]\n"
    )
    facts = read_log([f"{start}{text}\nDigest: sha256:{'00' * 32}".encode()]).facts
    assert (facts.image, facts.digest, facts.images, facts.depth) == ("node:22", _DIGEST, {"node:22": _DIGEST}, "3")


def test_action_that_fails_with_its_own_words() -> None:
    text = "##[group]Run actions/upload@v4\n##[endgroup]\n##[error]No files were found with the provided path: dist\n"
    found = told(text)
    assert (found.step, found.telling_line) == ("actions/upload@v4", "No files were found with the provided path: dist")


@pytest.mark.parametrize(
    ("end", "state", "exit_code", "said"),
    [
        ("exit code 7", "failure", 7, None),
        ("command terminated with exit code 137", "failure", 137, None),
        ("execution took longer than 1h0m0s seconds", "timed_out", None, "took longer"),
        ("canceled", "canceled", None, "canceled"),
    ],
)
def test_how_a_job_of_gitlab_ended(end: str, state: str, exit_code: int | None, said: str | None) -> None:
    found = told(gitlab("$ ./slow\nworking", end))
    assert (found.state, found.exit_code) == (state, exit_code)
    assert said is None or (found.error and said in found.error)


def test_system_failure_before_the_script_names_the_runners_section() -> None:
    text = (
        f'Running with gitlab-runner 17.5.0\n{_edge("start", "prepare_executor")}Preparing the "docker" executor\n'
        'WARNING: Failed to pull image with policy "always": manifest unknown\n'
        f'{_edge("end", "prepare_executor")}ERROR: Job failed (system failure): failed to pull image "nothing:1"\n'
    )
    found = told(text)
    assert (found.state, found.step) == ("error", "prepare_executor")
    assert found.error == 'failed to pull image "nothing:1"'


def test_silent_command_is_its_own_telling_line() -> None:
    found = told(gitlab("$ echo error: expected\nerror: expected\n$ test -f dist/app", "exit code 1"))
    assert found.telling_line == "`test -f dist/app` gave 1"


def test_known_failure_is_named() -> None:
    found = told(gitlab("$ jqq .\n/usr/bin/bash: line 154: jqq: command not found", "exit code 127"))
    assert [cause.code for cause in found.readings] == ["command_not_found"]


def test_earlier_line_that_tells_is_kept_from_a_long_log() -> None:
    noise = "".join(f"[{number}] building target\n" for number in range(20_000))
    found = told(gitlab(f"$ make\nmain.c:3:5: error: 'x' undeclared\n{noise}done", "exit code 2"), size=777)
    assert found.telling_line == "main.c:3:5: error: 'x' undeclared"
    assert (found.lines_total, found.output_read) == (20_002, "highlights")


def test_script_that_prints_the_runners_titles_stays_one_section() -> None:
    text = 'Preparing the "docker" executor\nGetting source from Git repository\nerror: real'
    found = told(gitlab(f"$ ./ci\n{text}", "exit code 1"))
    assert (found.step, found.telling_line) == ("step_script", "error: real")


def test_log_that_passed_has_nothing_to_diagnose() -> None:
    assert not told(gitlab("$ true", "x").replace("ERROR: Job failed: x", "Job succeeded")).failed


def test_hostile_lines_are_bounded_and_shown_without_controls() -> None:
    long = b"x" * (5 * LONGEST_LINE) + b"the end: error"
    (line,) = raw_lines([long[at : at + 1000] for at in range(0, len(long), 1000)])
    assert len(line) <= 2 * LONGEST_LINE
    assert line.endswith("the end: error")
    found = told(b"\xff\xfe error \x1b]0;title\x07\x1b[2Jhere\n" + b"section_start:1:" * 1000 + b"\n")
    assert found.telling_line is not None
    assert "\x1b" not in "".join(found.lines)


@pytest.mark.slow
def test_diagnose_reads_a_file_and_standard_input(tmp_path: Path) -> None:
    log, environ = tmp_path / "job.log", {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    log.write_text(gitlab(PYTEST, "exit code 1"))
    shown = run_loom(("diagnose", str(log)), cwd=tmp_path, environ=environ).stdout
    assert "failed, step step_script, exit code 1" in shown
    assert f"GitLab's log {log}" in shown
    assert "again:" not in shown
    document = json.loads(run_loom(("diagnose", str(log), "--json"), cwd=tmp_path, environ=environ).stdout)
    assert document["telling_line"] == "E       assert 3 == 4"
    agent = run_loom(("diagnose", str(log), "--format", "agent"), cwd=tmp_path, environ=environ).stdout
    assert "tests/test_cart.py:12" in agent


def test_log_that_is_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    refused = run_loom(("diagnose", "empty.log"), cwd=tmp_path, environ=environ)
    assert (refused.returncode, "the log is empty" in refused.stderr) == (2, True)


def test_a_step_that_the_job_survived_did_not_end_it() -> None:
    """GitHub's log is the same for a step with `continue-on-error`; who has the plan knows."""
    steps = "##[group]Run ./lint\n##[endgroup]\nlint: bad\n##[error]Process completed with exit code 3.\n"
    steps += "##[group]Run make test\n##[endgroup]\nFAILED a\n##[error]Process completed with exit code 1.\n"
    found = [read_log([steps.encode()], survived) for survived in ((), ("./lint",))]
    assert [(log.unit.name, log.facts.exit_code) for log in found] == [("./lint", 3), ("make test", 1)]
