"""The table of known failures, held to what real programs print, and to output that only looks alike."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from msgspec.structs import replace

from loom.analysis.known_failures import (
    NEAR,
    Cause,
    Failed,
    InSource,
    Known,
    causes,
    how_to_install,
    missing_command,
    packages,
    required_by,
    table,
)
from loom.record.documents import CommandPackage

REAL: list[dict[str, Any]] = msgspec.yaml.decode(Path(__file__).with_name("real_failures.yml").read_bytes())


def found(output: str, exit_code: int = 1, **more: Any) -> list[Cause]:
    shape = {
        "ended": "failure",
        "error": f"script/01 failed with exit code {exit_code}",
        "error_code": None,
        "exit_code": exit_code,
        "lines": output.split("\n"),
        "in_step": True,
        "image": "debian:trixie-slim",
        **more,
    }
    return causes(Failed(**shape))


@pytest.mark.parametrize("real", REAL, ids=lambda real: real["name"])
def test_what_a_real_program_prints(real: Mapping[str, Any]) -> None:
    first = found(real["output"], real["exit_code"])[0]
    assert (first.code, first.confidence) == (real["code"], real.get("confidence", "likely"))
    assert "{" not in first.summary + first.advice.replace("{memory:", "").replace("{pids:", "").replace("{build:", "")


LOOK_ALIKE = [
    ("command_not_found", "fatal: repository 'x' not found"),
    ("command_not_found", "Error: user 7 not found"),
    ("command_not_found", "GET /missing: 404 page not found"),
    ("command_not_found", "ModuleNotFoundError: No module named 'x'"),
    ("script_not_found", "cat: src/a.txt: No such file or directory\nAssertionError: 1 != 2"),
    ("missing_file", "open a.txt: no such file or directory (expected)\npanic: boom"),
    ("crlf", "warning: in the working copy of 'a.sh', CRLF will be replaced by LF the next time Git touches it"),
    ("bashism", "bash: line 1: ${x/}: bad substitution"),
    ("bashism", "the source: not found in the index"),
    ("wrong_architecture", "checking for exec format... ok"),
    ("image_denied", "HTTP 401: unauthorized: token expired"),
    ("image_denied", "remote: authentication required"),
    ("out_of_memory", "test_out_of_memory_is_reported PASSED"),
    ("out_of_memory", "warning: Cannot allocate memory for the cache, going on without\nError: expected 3, got 4"),
    ("disk_full", "retrying: no space left on device was reported by node 3, moved on\nAssertionError: 1 != 2"),
    ("port_in_use", "the port is used in 3 files"),
    ("segfault", "handles a segmentation fault of the child: ok 3"),
    ("rate_limited", "line 429: unexpected token"),
    ("waits_for_input", "Abort the transaction with ROLLBACK."),
    ("no_tty", "detected: not a tty, colours are off\nError: expected 3, got 4"),
    ("git_unknown_revision", "pathspec is a glob"),
    ("git_credentials", "touch: cannot touch '/etc/x': Permission denied"),
    (
        "package_not_found",
        "WARNING: Retrying after connection broken by 'x'\nERROR: No matching distribution found for idna",
    ),
    ("lock_file_outdated", "package-lock.json is up to date"),
    ("cmake_package", "ERROR: Could not find a version that satisfies the requirement a (from versions: none)"),
    ("compile_error", "error: pathspec 'main2' did not match any file(s) known to git"),
    ("compile_error", "error: failed to push some refs to 'origin'"),
    ("format_check", "All done! 0 files would be reformatted"),
    ("lint_failures", "Success: no issues found in 3 source files"),
    ("test_failures", "collected 3 items, FAILED is a word"),
    ("snapshot_tests", "3 snapshots passed"),
    ("assertion", "the panic: button was pressed"),
    ("certificate", "wrote the self-made certificate"),
    ("connection_refused", "connection refused by the firewall was expected: ok\nError: expected 3, got 4"),
    ("name_resolution", "the host's address is bad"),
    ("http_not_found", "test 404: Not a number"),
    ("unset_variable", "KeyError: 'name'"),
    ("unset_variable", "KeyError: 'id'"),
    ("read_only", "opened in read-only mode: file system is ext4"),
    ("user_unknown", 'FATAL:  role "app" does not exist'),
    ("not_executable", "touch: cannot touch '/etc/x': Permission denied"),
    ("command_not_found", "Template: not found"),
    ("command_not_found", "ERROR: test_db: not found"),
    ("locale", "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)"),
    ("test_failures", "not ok 3 - later # TODO not written yet"),
    ("snapshot_tests", " › 1 snapshot obsolete."),
    ("format_check", "1 file reformatted, 2 files left unchanged."),
    ("user_unknown", "Error: user 7 does not exist"),
    ("pip_hash", "the checksum mismatch is expected here"),
    ("waits_for_input", "debconf: unable to initialize frontend: Dialog"),
    ("wrong_option", "config: invalid option in line 3"),
    ("wrong_option", "invalid option in line 3 of the configuration: x"),
    ("docker_in_job", "curl: (7) Failed to connect to x port 80 after 0 ms: Could not connect to server"),
    ("locale", "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xe9 in position 0: unexpected end of data"),
    ("invalid_json", "the JSON input is fine"),
    ("archive_broken", "unexpected end of line"),
    ("engine_unavailable", "the engine is reached in 3 s"),
    ("shell_syntax", "SyntaxError: invalid syntax"),
    ("glibc", "module 'x' version 2 not found"),
]


@pytest.mark.parametrize(("code", "output"), LOOK_ALIKE)
def test_what_only_looks_alike(code: str, output: str) -> None:
    assert code in {known.code for known in table()}
    assert code not in {cause.code for cause in found(output) if cause.confidence == "likely"}


@pytest.mark.parametrize("known", [known for known in table() if known.example], ids=lambda known: known.code)
def test_each_entry_fits_its_example(known: Known) -> None:
    assert known.example is not None
    code = known.exit_code or 1
    ended = known.ended or "failure"
    command = "curl --unix-socket /var/run/docker.sock http://x" if known.command else "make test"
    first = found(f"something before\n{known.example}", code, command=command, ended=ended)[0]
    assert (first.code, first.confidence) == (known.code, "likely")


def test_each_entry_has_what_it_needs() -> None:
    codes = {known.code for known in table()}
    for known in table():
        assert set(known.instead_of) < codes, known
        assert bool(known.summary) == bool(known.advice) == (known.code != "accompanies"), known
        assert (known.example is not None) == (bool(known.output) and known.code != "accompanies"), known


@pytest.mark.parametrize("known", [known for known in table() if known.output], ids=lambda known: known.code)
def test_a_pattern_never_fits_a_line_without_what_it_requires(known: Known) -> None:
    lines = {line for real in REAL for line in real["output"].split("\n")} | {known.example or ""}
    for text in known.output:
        pattern, required = re.compile(text, re.IGNORECASE), required_by(text)
        assert all(required in line.lower() for line in lines if pattern.search(line)), text


def test_required_text() -> None:
    assert required_by(r"(?P<name>[\w.+-]+): (?:command )?not found\s*$") == "not found"
    assert required_by("a|bcd") == ""
    assert required_by("colou?rs? fitting") == " fitting"
    assert required_by(r"\d+ ab{2}cde") == "cde"


# -- confidence ---------------------------------------------------------------------------------------------------------

REFUSED = "curl: (7) Failed to connect to localhost port 80: Connection refused"


def test_noise_above_the_real_line_is_only_possible() -> None:
    said = found(f"{REFUSED}\nok\nTraceback (most recent call last):\nAssertionError: 1 != 2")
    assert [(cause.code, cause.confidence) for cause in said] == [("assertion", "likely")]
    said = found(f"{REFUSED}\nthe answer is wrong: expected 3, got 4")
    assert [(cause.code, cause.confidence) for cause in said] == [("connection_refused", "possible")]


def test_a_unit_that_went_on_for_long_did_not_fail_with_an_early_line() -> None:
    assert found("\n".join([REFUSED, *["working"] * NEAR]))[0].confidence == "likely"
    assert found("\n".join([REFUSED, *["working"] * (NEAR + 1)]))[0].confidence == "possible"


def test_a_line_that_only_reports_hides_no_reason() -> None:
    assert [cause.code for cause in found(f"{REFUSED}\nmake: *** [Makefile:2: test] Error 7", 2)] == [
        "connection_refused"
    ]
    assert [cause.code for cause in found("make: *** [Makefile:2: test] Error 7", 2)] == ["make_failed"]


def test_an_exit_code_counts_where_no_line_tells_more() -> None:
    assert [cause.code for cause in found("working", 137)] == ["killed"]
    assert [cause.code for cause in found("std::bad_alloc", 134)] == ["out_of_memory"]
    assert found("", 1) == []


# -- loom's own words, and ends that no output explains -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "codes"),
    [
        ({"ended": "canceled", "error": "interrupted", "exit_code": 143}, ["canceled"]),
        (
            {
                "ended": "error",
                "error": "the engine was lost while job a ran: dial unix: connect: connection refused",
                "error_code": "PROVIDER_FAILED",
            },
            ["provider_failed"],
        ),
        ({"ended": "error", "error": "the engine was lost while job a ran: x", "exit_code": None}, ["engine_lost"]),
        ({"ended": "timed_out", "error": "script/01 ran out of time"}, ["timed_out", "connection_refused"]),
        (
            {"ended": "timed_out", "error": "script/01 ran out of time: a step may take 2s; still running: sleep 60"},
            ["timed_out", "connection_refused"],
        ),
        ({"ended": "interrupted", "error": None}, ["loom_killed", "connection_refused"]),
        ({"error": "script/01 was killed: the job's container ran out of memory (exit code 137)"}, ["out_of_memory"]),
    ],
)
def test_how_the_job_ended_comes_before_its_output(more: Mapping[str, Any], codes: list[str]) -> None:
    said = found(REFUSED, **{"exit_code": 137, **more})
    assert [cause.code for cause in said] == codes
    assert all(cause.confidence == "possible" for cause in said[1:])


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
def test_a_prompt_at_the_time_limit(line: str, waits: bool) -> None:
    error = "script/01 ran out of time: a step may take 2s; still running: read x"
    said = found(f"before\n{line}", ended="timed_out", error=error)
    assert [(cause.code, cause.confidence) for cause in said if cause.line] == [("waits_for_input", "likely")] * waits
    assert found(f"{line}\nafter", ended="timed_out", error=error)[0].summary.endswith("while this ran: read x")


def test_an_error_of_looms_own_is_the_cause_with_its_hint() -> None:
    error = "image x:1: the registry has none of this tag\ncheck the name and the tag"
    said = found("", ended="error", error=error, error_code="IMAGE_NOT_FOUND", in_step=False, lines=error.split("\n"))
    assert said[0] == Cause(
        code="image_not_found",
        summary="image x:1: the registry has none of this tag",
        advice="check the name and the tag",
    )


def test_a_build_that_failed_has_its_own_reason_too() -> None:
    output = "RUN apt-get install -y jq\nE: Unable to locate package jq"
    said = found(output, ended="error", error="image_build failed", error_code="IMAGE_BUILD_FAILED", in_step=False)
    assert [cause.code for cause in said] == ["image_build_failed", "apt_no_index"]


# -- values -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mounts", "output", "command", "summary"),
    [
        (("/mnt/small:size=64k",), "dd: error writing '/mnt/small/big': No space left on device", "x", "/mnt/small"),
        (("/mnt/small",), "cat: write error: No space left on device", "cat a >/mnt/small/b", "/mnt/small"),
        ((), "cat: write error: No space left on device", "cat a >/dev/shm/b", "/dev/shm"),
        (("/mnt/small",), "cat: write error: No space left on device", "cat a >/mnt/smaller/b", ""),
    ],
)
def test_which_file_system_is_full(mounts: tuple[str, ...], output: str, command: str, summary: str) -> None:
    cause = found(output, command=command, tmpfs=lambda: mounts)[0]
    assert (summary or "full") in cause.summary
    assert ("docker system df" in cause.advice) == (summary == "")


def test_a_command_that_is_missing_on_this_machine() -> None:
    line = "bash: line 1: jq: command not found"
    assert [found(line, 127, image=image)[0].summary for image in (None, "x")] == [
        "the command jq is not there (on this machine)",
        "the command jq is not there",
    ]


@pytest.mark.parametrize(
    ("command", "image", "words"),
    [
        ("psql", "debian:trixie-slim", "apt-get install -y --no-install-recommends postgresql-client`"),
        ("psql", "postgres:17-alpine", "apk add --no-cache postgresql-client`"),
        ("xz", "python:3.13-alpine", "apk add --no-cache xz`"),
        ("ssh", "fedora:42", "dnf install -y openssh-clients`"),
        ("pytest", "python:3.13", "`pip install pytest`"),
        ("tsc", "node:20", "`npm install --save-dev typescript`"),
        ("frobnicate", "debian", "install it in the job (or its image)"),
        ("jq", None, "install it in the job (or its image)"),
    ],
)
def test_the_package_of_a_command(command: str, image: str | None, words: str) -> None:
    assert words in how_to_install(command, image)


@pytest.mark.parametrize(
    ("command", "by", "words"),
    [
        ("frob", "command", "`apk add --no-cache frob-tools`"),
        ("frob", "name", "`apk add --no-cache frob-tools`"),
        ("psql", "command", "`apk add --no-cache frob-tools`"),
        ("psql", "name", "--no-install-recommends postgresql-client`"),
        ("pytest", "command", "`pip install pytest`"),
    ],
)
def test_an_index_knows_commands_best_and_names_last(command: str, by: Literal["command", "name"], words: str) -> None:
    indexed = CommandPackage(command=command, package="frob-tools", manager="apk", by=by)
    line = f"sh: 1: {command}: not found"
    assert words in found(line, 127, image="mine", indexed=indexed)[0].advice
    assert "frob-tools" not in found("sh: 1: other: not found", 127, image="mine", indexed=indexed)[0].advice


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("on\n/run/loom/step.1: line 1: frob: command not found", "frob"),
        ("/run/loom/step.1: 1: frob: not found\nmake: *** [Makefile:2: all] Error 127", "frob"),
        ("a: 1: first: not found\na: 2: second: not found", "second"),
        ("sh: 1: ./run.sh: not found", None),
        ("sh: 1: sudo: not found", None),
        ("page 3: widget: not found here", None),
        ("", None),
    ],
)
def test_which_command_is_missing(output: str, name: str | None) -> None:
    assert missing_command(output.split("\n")) == name


def test_packages_are_well_formed() -> None:
    for command, package in packages().items():
        assert re.fullmatch(r"(?:pip|npm):\S+|[a-z0-9.+-]+(?: (?:apk|dnf)=[\w.+-]+)*", package), command


# -- what the checkout shows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (InSource(path="run.sh", ignored=True, rule=".gitignore:1: *.sh"), "ignored_file"),
        (InSource(path="run.sh", crlf=True), "crlf_file"),
        (InSource(path="run.sh", executable=False), "no_executable_bit"),
        (InSource(path="run.sh", script=True, interpreter="/usr/bin/python9"), "missing_interpreter"),
        (InSource(path="lib", empty_submodule=True), "submodule_missing"),
    ],
)
def test_what_the_checkout_shows_is_surer_than_the_line(seen: InSource, code: str) -> None:
    line = "/tmp/step.01: 1: ./run.sh: not found"
    said = found(line, 127, in_source={line: seen})
    assert [cause.code for cause in said] == [code]
    assert seen.path in said[0].summary


def test_an_error_of_loom_with_a_next_move_has_no_second_one() -> None:
    error = "no Docker engine answers at unix:///var/run/docker.sock (the default): permission denied\njoin the group"
    failed = Failed(
        ended="error",
        error=error,
        error_code="ENGINE_UNAVAILABLE",
        exit_code=None,
        lines=error.splitlines(),
        in_step=False,
    )
    assert [cause.code for cause in causes(failed)] == ["engine_unavailable"]
    printed = replace(failed, lines=[*failed.lines, "touch: cannot touch '/etc/x': Permission denied"])
    assert [cause.code for cause in causes(printed)] == ["engine_unavailable", "permission_denied"]
