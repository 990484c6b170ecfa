"""Causes, lines, places and commands of a diagnosis, from plain values; each known failure by its example."""

import pytest

from loom.analysis.diagnosis import (
    Evidence,
    Ignored,
    diagnose,
    lines_that_matter,
    missing_paths,
    places_in,
)
from loom.analysis.known_failures import Known, table
from loom.render.diagnosis import lines
from loom.render.diagnosis.agent import MOST_BYTES
from loom.render.screen import Look


def evidence(**more: object) -> Evidence:
    job = {
        "job_id": "test",
        "status": "failure",
        "exit_code": 1,
        "error": "script/01 failed with exit code 1",
        "failing_step": "script/01",
        "failing_section": None,
        "failing_command": "make test",
        "failing_tests": [],
        "image": None,
        "steps": [{"step": "script/01", "attempt": 1, "command": "make test"}],
        **(more.pop("job", {}) or {}),  # type: ignore[dict-item]
    }
    shape = {
        "run_id": "1",
        "state": "failure",
        "receipt": {
            "invocation": {
                "options": {"container": True, "var": ["A=b c"], "names": ["test", "other"]},
                "variables": {},
            }
        },
        "pipeline": {"jobs": []},
        "job": job,
        **more,
    }
    return Evidence(**shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("sh: 1: frobnicate: not found", "command_not_found"),
        ("bash: line 3: jq: command not found", "command_not_found"),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
        ("Error: listen EADDRINUSE: address already in use :::8080", "port_in_use"),
        ("cat: a.txt: No such file or directory", "missing_file"),
        ("fatal: detected dubious ownership in repository at '/workspace'", "dubious_ownership"),
        ("./run.sh: /bin/sh^M: bad interpreter", "crlf"),
        ("sh: 2: [[: not found", "bashism"),
        ("exec /usr/bin/x: exec format error", "wrong_architecture"),
        ("Error response from daemon: pull access denied for x, repository does not exist", "image_denied"),
        ("ModuleNotFoundError: No module named 'requests'", "python_module"),
        ("Error: Cannot find module 'express'", "node_module"),
        ("curl: (6) Could not resolve host: example.org", "name_resolution"),
        ("connect: connection refused", "connection_refused"),
        (
            'localhost:1 can\'t be reached: Get "http://localhost:1/v2/": dial tcp: connect: connection refused',
            "registry_unreachable",
        ),
        ("sh: 1: TOKEN: parameter not set", "unset_variable"),
        ("FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "out_of_memory"),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found", "glibc"),
        ("the input device is not a TTY", "no_tty"),
        ("./deploy.sh: Permission denied", "permission_denied"),
    ],
)
def test_known_failures(line: str, code: str) -> None:
    found = diagnose(evidence(lines=["something before", line, "make: *** [all] Error 1"]))
    assert found.causes[0].code == code
    assert "{" not in found.causes[0].summary


@pytest.mark.parametrize(("code", "name"), [(137, "killed"), (139, "segfault"), (126, "not_executable")])
def test_exit_codes_speak(code: int, name: str) -> None:
    assert diagnose(evidence(job={"exit_code": code})).causes[0].code == name


def test_a_registry_that_is_down_is_no_service_of_the_job() -> None:
    said = (
        'localhost:1 can\'t be reached: Get "http://localhost:1/v2/": dial tcp 127.0.0.1:1: connect: connection refused'
    )
    refused = "curl: (7) Failed to connect to localhost port 80: Connection refused"
    found = diagnose(evidence(lines=[refused, said.replace("refused", "Connection refused")]))
    assert [cause.code for cause in found.causes] == ["registry_unreachable"]
    assert [cause.code for cause in diagnose(evidence(lines=[refused])).causes] == ["connection_refused"]


def test_a_file_that_git_ignores_is_named_first() -> None:
    asked: list[str] = []

    def ignored(paths: object) -> Ignored | None:
        asked.extend(paths)  # type: ignore[arg-type]
        return Ignored(path="app/.env", rule=".gitignore:3: .env")

    found = diagnose(
        evidence(
            lines=["cat: .env: No such file or directory"],
            job={"failing_command": "cd app && cat .env"},
            ignored=ignored,
        )
    )
    assert asked == [".env", "app/.env"]
    assert [cause.code for cause in found.causes] == ["ignored_file"]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("cat: a/b.txt: No such file or directory", "a/b.txt"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data/x.json'", "data/x.json"),
        ("Error: ENOENT: no such file or directory, open '/workspace/conf.js'", "conf.js"),
        ("open config.yml: no such file or directory", "config.yml"),
        ("sh: 1: ./gen.sh: not found", "./gen.sh"),
        ("ls: cannot access 'dist': No such file or directory", "dist"),
        ("python: can't open file '/workspace/tool.py': [Errno 2] No such file or directory", "tool.py"),
        ("ModuleNotFoundError: No module named 'pkg._version'", "pkg/_version.py"),
        ("sh: 1: cannot open in.txt: No such file", "in.txt"),
    ],
)
def test_missing_paths(line: str, path: str) -> None:
    assert path.removeprefix("./") in missing_paths([line], None)


def test_lines_that_matter_keep_the_error_and_the_end() -> None:
    lines = [f"ok {n}" for n in range(200)]
    lines[100] = "AssertionError: 1 != 2"
    shown = lines_that_matter(lines)
    assert len(shown) <= 14
    assert "AssertionError: 1 != 2" in shown
    assert shown[-1] == "ok 199"
    assert "…" in shown
    assert lines_that_matter(["a", "b", ""]) == ["a", "b"]
    assert lines_that_matter([]) == []


def test_places_are_the_projects_own() -> None:
    lines = [
        '  File "/usr/lib/python3.11/unittest/case.py", line 57, in x',
        '  File "/workspace/src/app.py", line 12, in y',
        "src/main.c:3:7: error: expected ';'",
        "node_modules/x/index.js:1:2",
        "app/a.ts(4,5): error TS1005",
    ]
    assert [(p.file, p.line) for p in places_in(lines)] == [("app/a.ts", 4), ("src/main.c", 3), ("src/app.py", 12)]


def test_the_command_that_reproduces_keeps_the_inputs() -> None:
    assert diagnose(evidence()).reproduce == "loom run --local --container --var 'A=b c' test"


def test_the_agents_text_is_never_too_long() -> None:
    huge = ["é" * 5000 + " error"] * 400
    tests = [{"name": "n" * 900, "message": "m" * 9000, "file": "f" * 500, "line": 1}] * 30
    found = diagnose(
        evidence(lines=huge, job={"failing_tests": tests, "failing_command": "x\n" * 3000, "error": "e" * 5000})
    )
    text = "".join(f"{line}\n" for line in lines("agent", found, Look(), now_ns=0))
    assert len(text.encode()) <= MOST_BYTES
    assert text.startswith("run 1: failure")
    assert "failed: job test" in text
    assert "reproduce: " in text


@pytest.mark.parametrize("known", [known for known in table() if known.output], ids=lambda known: known.code)
def test_each_known_failure_fits_its_example_first(known: Known) -> None:
    assert known.example is not None
    found = diagnose(evidence(lines=["something before", known.example, "make: *** [all] Error 1"]))
    assert found.causes[0].code == known.code
    assert "{" not in found.causes[0].summary


def test_the_table_names_only_what_is_in_it() -> None:
    codes = {known.code for known in table()}
    for known in table():
        assert set(known.instead_of) < codes, known
        conditions = (known.ended, known.error, known.exit_code, known.output or None)
        assert sum(condition is not None for condition in conditions) == (known.code != "ignored_file"), known


@pytest.mark.parametrize(
    ("line", "exit_code", "codes"),
    [
        ("exec /usr/bin/x: exec format error", 126, ["wrong_architecture"]),
        ("./run.sh: /bin/sh^M: bad interpreter: No such file or directory", 126, ["crlf"]),
        ("./deploy.sh: Permission denied", 126, ["not_executable", "permission_denied"]),
    ],
)
def test_a_surer_cause_stands_alone(line: str, exit_code: int, codes: list[str]) -> None:
    found = diagnose(evidence(lines=[line], job={"exit_code": exit_code}))
    assert [cause.code for cause in found.causes] == codes


def test_an_engine_that_went_away_is_no_service_of_the_job() -> None:
    error = "the engine was lost while job test ran: dial unix /run/docker.sock: connect: connection refused"
    found = diagnose(evidence(lines=["working"], job={"status": "error", "error": error}))
    assert [cause.code for cause in found.causes] == ["engine_lost"]


def test_the_signal_that_ended_a_canceled_job_explains_nothing() -> None:
    assert diagnose(evidence(job={"status": "canceled", "exit_code": 143})).causes == []
    assert [cause.code for cause in diagnose(evidence(job={"exit_code": 143})).causes] == ["terminated"]


def test_a_command_that_is_missing_on_this_machine() -> None:
    line = "bash: line 1: jq: command not found"
    summaries = [
        diagnose(evidence(lines=[line], job={"image": image})).causes[0].summary for image in (None, {"name": "x"})
    ]
    assert summaries == ["the command jq is not there (on this machine)", "the command jq is not there"]
