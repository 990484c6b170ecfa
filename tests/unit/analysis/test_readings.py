"""The table of readings, held to what real programs print, and to output that only looks alike."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loom.analysis.diagnosis import Diagnosis, diagnose
from loom.analysis.readings import (
    LineContext,
    NamedFile,
    reading_by_source,
    reading_in_conflict,
    reading_of,
    required_by,
    table,
)
from tests.unit.analysis.test_diagnosis import evidence

REAL: dict[str, dict[str, Any]] = {
    f"{program} {number}": {"code": None, "exit_code": 1, "command": program.partition(" ")[0], **real}
    for program, cases in msgspec.yaml.decode(Path(__file__).with_name("real_failures.yml").read_bytes()).items()
    for number, real in enumerate(cases)
}
LINES = [line for real in REAL.values() for line in real["output"].split("\n")]
DEBIAN = LineContext(image="debian:trixie-slim")


def found(output: str, exit_code: int | None = 1, command: str = "tool", **more: Any) -> Diagnosis:
    job = {"exit_code": exit_code, "failing_command": command, "image": {"name": "debian:trixie-slim"}, **more}
    return diagnose(evidence(lines=output.split("\n"), job=job))


def codes(output: str, exit_code: int | None = 1, command: str = "tool", **more: Any) -> list[str]:
    return [reading.code for reading in found(output, exit_code, command, **more).readings]


@pytest.mark.parametrize("real", REAL.values(), ids=REAL)
def test_the_telling_line_of_a_real_program_has_its_reading_and_claims_no_more(real: Mapping[str, Any]) -> None:
    told = found(real["output"], real["exit_code"], real["command"])
    assert [reading.code for reading in told.readings] == [real["code"]] * (real["code"] is not None)
    of_one_line = None if "\n" in real["output"] else real["output"] or None
    assert real.get("telling", of_one_line) in (None, told.telling_line)
    assert told.ended_by is None
    for reading in told.readings:
        assert reading.line == (told.telling_line or "").strip()[:200]
        assert not re.search(r"\b(?:likely|because|cause)\b", f"{reading.text} {reading.advice}")
        assert "{" not in reading.text + re.sub(r"\{(?:memory|pids|build|user|docker_socket):", "", reading.advice)


def test_each_expression_is_shown_by_a_real_program() -> None:
    shell = f"(?:{table().shell})"
    unseen = [
        text
        for known in table().readings
        for text in (() if known.ended else known.lines)
        if not any(re.match(text.replace("{shell}", shell), line) for line in LINES)
    ]
    assert unseen == []


@pytest.mark.parametrize(
    "text", [text for known in table().readings for text in known.lines], ids=lambda text: str(text)[:60]
)
def test_an_expression_never_fits_a_line_without_what_it_requires(text: str) -> None:
    pattern = re.compile(text.replace("{shell}", f"(?:{table().shell})"))
    assert all(required_by(text) in line for line in LINES if pattern.match(line))


def test_required_text() -> None:
    assert required_by(r"(?P<name>[\w.+-]+): (?:command )?not found\s*$") == "not found"
    assert required_by("a|bcd") == ""
    assert required_by("colou?rs? fitting") == " fitting"
    assert required_by(r"{shell}\d+ ab{2}cde") == "cde"


@pytest.mark.parametrize("before", ["docs/log.txt:12:", "ok 3 - ", "> ", "handler installed for: "])
def test_a_quoted_line_is_not_read(before: str) -> None:
    for real in REAL.values():
        for line in real["output"].split("\n") if real["code"] else ():
            assert line[:1].isspace() or reading_of(f"{before}{line}", DEBIAN) is None, line


REFUSED = "curl: (7) Failed to connect to localhost port 80 after 0 ms: Could not connect to server"
MISSING_FILE = "cat: a.txt: No such file or directory"


def test_a_line_is_read_only_where_one_command_alone_can_have_printed_it() -> None:
    assert codes(MISSING_FILE, command="cat a.txt") == ["missing_file"]
    for script in (
        "cat a.txt || true\ntest -f b.txt",
        "cat server.log; exit 1",
        "tail -f log & ./test",
        "x=$(cat a.txt)",
        "if cat a.txt; then false; fi",
        "! cat a.txt",
        "cat a.txt | wc -l",
    ):
        assert codes(MISSING_FILE, command=script) == [], script
    ended = {"command": "exit 1", "line": 2, "code": 1}
    for own, said in (([], [MISSING_FILE]), (["no a"], [])):
        told = diagnose(evidence([MISSING_FILE, "no a"], own, said, ended_by=ended))
        assert told.readings == []
    for silent in ("test -f b", "[ -f b ]", "(( 1 == 2 ))", "cat a.txt && echo || cat b", "cat a.txt; exit 1"):
        ended = {"command": silent, "line": 2, "code": 1}
        told = diagnose(evidence([MISSING_FILE], [MISSING_FILE], ended_by=ended, job={"failing_command": "a\nb"}))
        assert told.readings == [], silent
    ended = {"command": "cat a.txt", "line": 2, "code": 1}
    for background in (True, False):
        ended |= {"background": background}
        told = diagnose(evidence([MISSING_FILE], [MISSING_FILE], ended_by=ended))
        assert (bool(told.readings), bool(told.beside)) == (not background, background)
    told = diagnose(evidence([REFUSED, MISSING_FILE], [MISSING_FILE], ended_by=ended, job={"failing_command": "a\nb"}))
    assert [reading.code for reading in told.readings] == ["missing_file"]


def test_an_error_of_another_tool_after_a_known_line_is_the_telling_one() -> None:
    assert codes(f"{REFUSED}\nworking", command="curl x") == ["connection_refused"]
    assert codes(f"{REFUSED}\nTraceback (most recent call last):\n  File 'a'\nAssertionError: 1 != 2") == []
    assert codes(f"make: [Makefile:2: a] Error 1 (ignored)\n{REFUSED}") == ["connection_refused"]
    assert codes(f"{REFUSED}\nmake: [Makefile:2: a] Error 7 (ignored)\n12 kB, budget 10 kB") == []


def test_what_a_program_survived_is_not_read() -> None:
    trace = (
        "Traceback (most recent call last):\n  File 'a', line 1\nConnectionRefusedError: [Errno 111] Connection refused"
    )
    assert codes(trace, command="python3 a.py") == ["connection_refused"]
    assert codes(f"ERROR:root:reading\n{trace}", command="python3 a.py") == []
    assert codes(f"{trace}\n3 of 4 passed", command="python3 a.py") == []
    assert codes(f"{MISSING_FILE}\n3 of 4 passed", command="python3 a.py") == []
    assert codes(f"{MISSING_FILE}\nfile b is read", command="cat a.txt b.txt") == ["missing_file"]


@pytest.mark.parametrize(
    ("line", "waits"),
    [
        ("Continue? [y/N] ", True),
        ("Password: ", True),
        ("Are you sure you want to continue connecting (yes/no/[fingerprint])? ", True),
        ("Enter passphrase for key '/root/.ssh/id_rsa': ", True),
        ("working: 3 of 7", False),
        ("login as app worked.", False),
    ],
)
def test_a_prompt_is_read_at_the_time_limit(line: str, waits: bool) -> None:
    error = "script/01 ran out of time: a step may take 2s; still running: read x"
    told = found(f"before\n{line}", status="timed_out", error=error)
    assert [reading.code for reading in told.readings] == ["waits_for_input"] * waits
    assert told.ended_by is not None
    assert (told.ended_by.by, told.ended_by.says) == ("loom", error)
    assert told.telling_line == (line if waits else error)
    assert codes(line) == []


# -- values -------------------------------------------------------------------------------------------------------------


def test_a_command_that_is_missing_on_this_machine() -> None:
    line = "bash: line 1: jq: command not found"
    told = [reading_of(line, LineContext(image=image)) for image in (None, "x")]
    assert [each and each.text for each in told] == [
        "the command jq was not found (on this machine)",
        "the command jq was not found",
    ]


# -- what the checkout shows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (NamedFile(path="run.sh", ignored=True, rule=".gitignore:1: *.sh"), "ignored_file"),
        (NamedFile(path="run.sh", crlf=True), "crlf_file"),
        (NamedFile(path="run.sh", executable=False), "no_executable_bit"),
        (NamedFile(path="run.sh", script=True, interpreter="/usr/bin/python9"), "missing_interpreter"),
        (NamedFile(path="lib", empty_submodule=True), "submodule_missing"),
        (NamedFile(path="run.sh", undeclared="unit"), "undeclared_input"),
        (NamedFile(path="run.sh", ignored=True, maker="build, which this run left out"), "artifact_not_taken"),
    ],
)
def test_what_the_checkout_shows_of_a_file(seen: NamedFile, code: str) -> None:
    told = reading_by_source("/tmp/step.01: 1: ./run.sh: not found", seen)
    assert (told.code, seen.path in told.text, "{" in told.text + told.advice) == (code, True, False)


def test_a_marker_of_a_conflict_is_told_at_its_line_alone() -> None:
    assert reading_in_conflict("sh: 3: Syntax error", "a.sh:3", "echo\n<<<<<<< HEAD") is not None
    assert reading_in_conflict("a.md:3: MD040", "a.md:3", "as in <<<<<<< HEAD\n=======") is None


@pytest.mark.parametrize(
    ("command", "image", "told"), [("docker", "debian", True), ("docker", None, False), ("jq", "debian", False)]
)
def test_a_job_without_docker_is_told_how_to_get_an_engine_too(command: str, image: str | None, told: bool) -> None:
    reading = reading_of(f"/run/loom/step.1: line 1: {command}: command not found", LineContext(image=image))
    assert reading is not None
    assert (reading.code, "docker_socket: true" in reading.advice) == ("command_not_found", told)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/run/loom/step.1: line 1: gh: command not found", "--image LABEL=IMAGE"),
        ("/run/loom/step.1: line 1: sudo: command not found", "--image LABEL=IMAGE"),
        (MISSING_FILE, "actions/checkout"),
        ("fatal: No names found, cannot describe anything.", "fetch-depth: 0"),
        ("fatal: ambiguous argument 'origin/main': unknown revision", "fetch-depth: 0"),
        ("fatal: bad revision 'HEAD~3'", "fetch-depth: 0"),
    ],
)
def test_a_job_of_githubs_is_told_of_its_own_means(line: str, told: str) -> None:
    readings = [reading_of(line, LineContext(image="debian", of_github=of)) for of in (True, False)]
    assert [told in (each.advice if each else "") for each in readings] == [True, False]


def test_the_depth_of_a_clone_is_told_where_git_lacks_a_revision() -> None:
    line = "fatal: bad revision 'HEAD~30'"
    short, whole = (reading_of(line, LineContext(image="debian", depth=depth)) for depth in (20, 0))
    assert short is not None
    assert whole is not None
    assert short.advice.startswith("the job's clone is 20 commits deep")
    assert "GIT_DEPTH" not in whole.advice
