"""The table of known failures, held to what real programs print, and to output that only looks alike."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from loom.analysis.known_failures import (
    FAR,
    MOST_QUIET,
    Cause,
    Failed,
    InSource,
    Known,
    Says,
    causes,
    fitting,
    how_to_install,
    packages,
    required_by,
    table,
)

REAL: list[dict[str, Any]] = msgspec.yaml.decode(Path(__file__).with_name("real_failures.yml").read_bytes())
KNOWN = [real for real in REAL if real["code"]]


def failed(output: str, exit_code: int | None = 1, **more: Any) -> Failed:
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
    return Failed(**shape)


def found(output: str, exit_code: int | None = 1, **more: Any) -> list[Cause]:
    return causes(failed(output, exit_code, **more))


def rules_that_fit(asked: Failed) -> Iterator[tuple[Known, Says]]:
    """The rules whose words the end of the output has, each asked by itself."""
    return ((known, says) for _, known, says in fitting(asked) if says is not None)


def said(output: str, exit_code: int | None = 1, **more: Any) -> set[str]:
    """The causes of all rules whose words the output has, each rule asked by itself."""
    return {known.code for known, _ in rules_that_fit(failed(output, exit_code, **more))}


@pytest.mark.parametrize("real", REAL, ids=lambda real: real["name"])
def test_what_a_real_program_prints_has_its_own_cause_and_no_other(real: Mapping[str, Any]) -> None:
    asked = failed(real["output"], real["exit_code"], command=real.get("command"))
    first = causes(asked)
    assert [cause.code for cause in first] == [real["code"]] * (real["code"] is not None)
    assert {known.code for known, _ in rules_that_fit(asked)} <= {real["code"]}
    for cause in first:
        assert "{" not in cause.summary + re.sub(
            r"\{(?:memory|pids|build|user|docker_socket|runs_on):", "", cause.advice
        )


def test_each_rule_is_shown_by_a_real_program() -> None:
    shown = [says for real in KNOWN for _, says in rules_that_fit(failed(real["output"], real["exit_code"]))]
    assert [says.line for known in table().causes if not known.ended for says in known.says if says not in shown] == []


@pytest.mark.parametrize("real", KNOWN, ids=lambda real: real["name"])
def test_words_that_are_quoted_or_that_the_program_went_on_after_are_no_cause(real: Mapping[str, Any]) -> None:
    for output in look_alikes(real["output"], real["exit_code"]):
        assert said(output, real["exit_code"]) == set(), output


def look_alikes(output: str, exit_code: int) -> Iterator[str]:
    lines = output.split("\n")
    yield f"{output}\nlint failed: 14 issues"
    if exit_code in (1, 2):
        yield f"{output}\nartifact is 12 MB, maximum is 10 MB"
    for before in ("docs/log.txt:12:", "ok 3 - ", "> ", "handler installed for: "):
        yield "\n".join(f"{before}{line}" for line in lines)
    yield "\n".join(f"test_reports[{line}] PASSED" for line in lines)


NOTHING = [
    (1, "KeyError: 'customer_id'"),
    (1, "KeyError: 'CUSTOMER_ID'"),
    (
        1,
        'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    row["CUSTOMER_ID"]\nKeyError: \'CUSTOMER_ID\'',
    ),
    (1, "fatal: No names found, cannot describe anything."),
    (1, "curl: (7) Failed to connect to localhost port 80 after 0 ms: Could not connect to server"),
    (1, "Segmentation fault handler installed"),
    (1, "docs/errors.md:3:open a.txt: no such file or directory"),
    (1, "cp: cannot stat '.env.example': No such file or directory\nlint: 14 issues"),
    (1, "WARNING: no module named 'ujson', going on without it\nlint: 14 issues"),
    (1, "test_permission_denied ... ok\ntest_OutOfMemoryError ... ok\nFAILED (failures=1)"),
    (127, "fatal: repository 'x' not found"),
    (1, "GET /missing: 404 page not found"),
    (1, "open a.txt: no such file or directory (expected)\npanic: boom"),
    (1, "warning: in the working copy of 'a.sh', CRLF will be replaced by LF the next time Git touches it"),
    (1, "warning: Cannot allocate memory for the cache, going on without\nError: expected 3, got 4"),
    (1, "retrying: no space left on device was reported by node 3, moved on\nAssertionError: 1 != 2"),
    (1, "detected: not a tty, colours are off\nError: expected 3, got 4"),
    (1, "error: failed to push some refs to 'origin'"),
    (127, "Template: not found"),
    (1, "ERROR: test_db: not found"),
    (1, "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)"),
    (1, "debconf: unable to initialize frontend: Dialog"),
    (2, "a.sh: 1: Syntax error in line 3 of the template"),
    (126, "touch: cannot touch '/etc/x': Permission denied"),
    (1, "make: *** [Makefile:2: a] Error 127 (ignored)\nError: expected 3, got 4"),
    (
        2,
        "cat: a.txt: No such file or directory\nmake: [Makefile:2: a] Error 1 (ignored)\nmake: *** [Makefile:4: b] Error 1",
    ),
    (1, "Error: Cannot find module 'optional'\nRequire stack:\n- /w/a.js\ndone with 1 warning\nlint: 14 issues"),
    (1, "kubectl: error: the server doesn't have a resource type"),
    (1, "The unit is masked.\nE: Unable to locate package list for the mirror"),
]


@pytest.mark.parametrize(("exit_code", "output"), NOTHING)
def test_what_only_looks_alike(exit_code: int, output: str) -> None:
    assert found(output, exit_code) == []


def test_each_entry_has_what_it_needs() -> None:
    for known in table().causes:
        assert len(re.findall(r"\(\?P<(?!name2?>|program>)", "".join(says.line for says in known.says))) == 0, known
        assert known.says or known.ended or known.error or known.exit_code or "{path}" in known.summary, known
        if "{name}" in known.summary + known.advice:
            assert known.error or all("(?P<name>" in f"{says.line}{says.given}" for says in known.says), known


@pytest.mark.parametrize("says", [says for known in table().causes for says in known.says], ids=lambda says: says.line)
def test_a_rule_never_fits_a_line_without_what_it_requires(says: Says) -> None:
    required = required_by(says.line)
    pattern = re.compile(says.line.replace("{shell}", f"(?:{table().shell})"))
    assert all(required in line for real in REAL for line in real["output"].split("\n") if pattern.match(line))


def test_required_text() -> None:
    assert required_by(r"(?P<name>[\w.+-]+): (?:command )?not found\s*$") == "not found"
    assert required_by("a|bcd") == ""
    assert required_by("colou?rs? fitting") == " fitting"
    assert required_by(r"{shell}\d+ ab{2}cde") == "cde"


# -- the words that ended the step --------------------------------------------------------------------------------------

REFUSED = "curl: (7) Failed to connect to localhost port 80 after 0 ms: Could not connect to server"
MISSING = "bash: line 1: jq: command not found"
MISSING_FILE = "cat: a.txt: No such file or directory"


def test_another_line_after_the_words_is_another_matter() -> None:
    assert said(f"before\n{REFUSED}\n\n", 7) == {"connection_refused"}
    assert said(f"{REFUSED}\nok\nTraceback (most recent call last):\nAssertionError: 1 != 2", 7) == set()
    assert said(f"{REFUSED}\nworking", 7) == {"connection_refused"}
    assert said("\n".join([REFUSED, *["working"] * MOST_QUIET]), 7) == {"connection_refused"}
    assert said("\n".join([REFUSED, *["working"] * (MOST_QUIET + 1)]), 7) == set()
    assert said(f"{MISSING_FILE}\nworking") == said(f"{MISSING_FILE}\nworking", None) == set()
    assert said("E: Unable to locate package jq\nE: Package 'httpd' has no installation candidate", 100) == set()


def test_the_exit_code_belongs_to_the_words() -> None:
    assert said(REFUSED, 1) == set()
    assert said(REFUSED, None) == {"connection_refused"}
    assert said(f"{REFUSED}\nmake: *** [Makefile:2: test] Error 7", 2) == {"connection_refused"}
    assert said(f"{REFUSED}\nmake: *** [Makefile:2: test] Error 1", 2) == set()
    assert said(f"{MISSING}\nninja: build stopped: subcommand failed.", 1) == {"command_not_found"}


def test_tools_do_not_end_each_others_words() -> None:
    note = "[notice] A new release of pip is available: 25.0 -> 26.0"
    no_index = "E: Unable to locate package jq"
    assert said(no_index, 100) == {"apt_no_index"}
    assert said(f"{no_index}\n{note}", 100) == set()
    assert said(f"{no_index}\nE: and jqq\n{note}", 100) == set()
    assert said(f"{REFUSED}\nmake: *** [Makefile:2: test] Error 7\nMore details here: https://curl.se/x", 2) == set()


def test_what_another_command_printed_is_no_cause() -> None:
    offline = "W: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'"
    assert said("", 127, before=[MISSING]) == set()
    assert said("E: Unable to locate package jq", 100, before=[offline]) == {"name_resolution"}


@pytest.mark.parametrize(
    ("script", "codes"),
    [
        ("cat a.txt", {"missing_file"}),
        ("cd app && cat a.txt", {"missing_file"}),
        ("cat a.txt || true\ntest -f b.txt", set()),
        ("x=$(cat a.txt)", {"missing_file"}),
        ("if cat a.txt; then false; fi; test -f b.txt", set()),
        ("! cat a.txt; test -f b.txt", set()),
        ("set +e; cat a.txt; test -f b.txt", set()),
        ("./build.py", set()),
    ],
)
def test_a_script_that_may_survive_an_error_has_no_cause_unless_its_last_command_is_known(
    script: str, codes: set[str]
) -> None:
    assert said(MISSING_FILE, command=script) == codes
    assert said(MISSING_FILE, command=script, own=True) == ({"missing_file"} if "cat" in script else set())
    assert said(f"{MISSING_FILE}\nmake: *** [Makefile:2: all] Error 1", 2, command="make || exit 2") == {"missing_file"}
    assert said(MISSING, 127, command="x || jq") == {"command_not_found"}


def test_what_the_script_has_to_contain() -> None:
    words = "/tmp/step.01: 1: Bad substitution"
    assert said(words, 2, command="echo ${x^^}") == said(words, 2, command="echo ${!x}") == {"bashism"}
    assert said(words, 2, command="echo ${app.version}") == set()


def test_apt_found_the_network_at_last() -> None:
    lost = "Err:1 http://deb.debian.org x\n  Temporary failure resolving 'deb.debian.org'"
    no_package = "E: Unable to locate package jqq"
    assert said(f"{lost}\n{no_package}", 100) == {"name_resolution"}
    assert said(f"{lost}\nGet:1 http://deb.debian.org x\n{no_package}", 100) == {"apt_no_index"}


def test_the_end_is_looked_at_and_no_more() -> None:
    tail = ["npm error"] * (FAR - 2)
    assert said("\n".join(["npm error code E401", *tail])) == {"http_denied"}
    assert said("\n".join(["npm error code E401", *tail, *tail])) == set()


def test_an_exit_code_counts_where_no_line_tells_more() -> None:
    assert [cause.code for cause in found("working", 137)] == ["killed"]
    assert [cause.code for cause in found("", 124, command="timeout 3 make")] == ["timeout_command"]
    assert found("", 124, command="make") == []
    assert found("", 1) == []


# -- loom's own words, and ends that no output explains -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "codes"),
    [
        ({"ended": "canceled", "error": "interrupted"}, ["canceled"]),
        (
            {
                "ended": "error",
                "error": "the engine was lost while job a ran: dial unix: connect: connection refused",
                "error_code": "PROVIDER_FAILED",
                "in_step": False,
            },
            ["provider_failed"],
        ),
        ({"ended": "error", "error": "the engine was lost while job a ran: x", "exit_code": None}, ["engine_lost"]),
        ({"ended": "timed_out", "error": "script/01 ran out of time", "exit_code": 137}, ["timed_out"]),
        (
            {"ended": "timed_out", "error": "script/01 ran out of time: a step may take 2s; still running: sleep 60"},
            ["timed_out"],
        ),
        ({"ended": "interrupted", "error": None}, ["loom_killed"]),
        ({"error": "script/01 was killed: the job's container ran out of memory (exit code 137)"}, ["out_of_memory"]),
    ],
)
def test_how_the_job_ended_comes_before_its_output(more: Mapping[str, Any], codes: list[str]) -> None:
    assert [cause.code for cause in found(REFUSED, **{"exit_code": 7, **more})] == codes


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
    codes = ["waits_for_input"] * waits + ["timed_out"]
    assert [cause.code for cause in found(f"before\n{line}", ended="timed_out", error=error)] == codes
    assert found(f"{line}\nafter", ended="timed_out", error=error)[0].summary.endswith("while this ran: read x")
    assert found(line) == []


def test_an_error_of_looms_own_is_the_cause_with_its_hint() -> None:
    error = "image x:1: the registry has none of this tag\ncheck the name and the tag"
    assert found(
        "", ended="error", error=error, error_code="IMAGE_NOT_FOUND", in_step=False, lines=error.split("\n")
    ) == [
        Cause(
            code="image_not_found",
            summary="image x:1: the registry has none of this tag",
            advice="check the name and the tag",
        )
    ]


def test_the_words_of_an_engine_are_not_those_of_a_program() -> None:
    error = 'exec: "sh": executable file not found in $PATH: failed: No such file or directory'
    lines = ["container failed", "cat: failed: No such file or directory"]
    said = found("", None, ended="error", error=error, error_code="PROVIDER_FAILED", in_step=False, lines=lines)
    assert [cause.code for cause in said] == ["provider_failed"]


def test_a_build_that_failed_has_its_own_reason_too() -> None:
    output = "RUN apt-get install -y jq\nE: Unable to locate package jq"
    said = found(output, ended="error", error="image_build failed", error_code="IMAGE_BUILD_FAILED", in_step=False)
    assert [cause.code for cause in said] == ["image_build_failed"]
    said = found(output, None, ended="error", error="failed", error_code="IMAGE_BUILD_FAILED", in_step=False)
    assert [cause.code for cause in said] == ["image_build_failed", "apt_no_index"]


# -- values -------------------------------------------------------------------------------------------------------------


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
        ("npm", "debian", "--no-install-recommends npm`"),
        ("frobnicate", "debian", "install it in the job (or its image)"),
        ("jq", None, "install it in the job (or its image)"),
    ],
)
def test_the_package_of_a_command(command: str, image: str | None, words: str) -> None:
    assert words in how_to_install(command, image)


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
        (InSource(path="run.sh", ignored=True, maker="build, which this run left out"), "artifact_not_taken"),
    ],
)
def test_what_the_checkout_shows_is_surer_than_the_line(seen: InSource, code: str) -> None:
    line = "/tmp/step.01: 1: ./run.sh: not found"
    said = found(line, 127, in_source={line: seen})
    assert [cause.code for cause in said] == [code]
    assert seen.path in said[0].summary
    assert found(f"{line}\nlint failed: 14 issues", 127, in_source={line: seen}) == []
    assert [cause.code for cause in found(line, in_source={line: seen}, ended="interrupted")] == ["loom_killed"]


@pytest.mark.parametrize(
    ("command", "image", "told"), [("docker", "debian", True), ("docker", None, False), ("jq", "debian", False)]
)
def test_a_job_without_docker_is_told_how_to_get_an_engine_too(command: str, image: str | None, told: bool) -> None:
    lines = [f"/run/loom/step.1: line 1: {command}: command not found"]
    failed = Failed(ended="failure", error=None, error_code=None, exit_code=127, lines=lines, in_step=True, image=image)
    (found,) = causes(failed)
    assert (found.code, "docker_socket: true" in found.advice) == ("command_not_found", told)


@pytest.mark.parametrize("command", ["gh", "sudo"])
def test_a_job_of_githubs_is_told_of_another_image(command: str) -> None:
    lines = [f"/run/loom/step.1: line 1: {command}: command not found"]
    failed = Failed(
        ended="failure", error=None, error_code=None, exit_code=127, lines=lines, in_step=True, image="debian"
    )
    assert ["runs_on" in causes(replace(failed, of_github=of))[0].advice for of in (True, False)] == [True, False]


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        (MISSING_FILE, 1, "actions/checkout"),
        ("fatal: No names found, cannot describe anything.", 128, "fetch-depth: 0"),
        ("fatal: ambiguous argument 'origin/main': unknown revision", 128, "fetch-depth: 0"),
        ("fatal: bad revision 'HEAD~3'", 128, "fetch-depth: 0"),
    ],
)
def test_a_job_of_githubs_is_told_of_its_checkout(line: str, code: int, told: str) -> None:
    failed = Failed(ended="failure", error=None, error_code=None, exit_code=code, lines=[line], in_step=True)
    advice = [causes(replace(failed, of_github=of))[0].advice for of in (True, False)]
    assert [(told in one, "{" in one) for one in advice] == [(True, False), (False, False)]
