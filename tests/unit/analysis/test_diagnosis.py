"""Causes, lines, locations and commands of a diagnosis, from plain values; each known failure by its example."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from loom.analysis.diagnosis import (
    Diagnosis,
    Evidence,
    diagnose,
)
from loom.analysis.locations import locations_in
from loom.analysis.named_files import missing_paths
from loom.analysis.output import ReadLine, ReadOutput, lines_that_matter
from loom.analysis.readings import NamedFile
from loom.render.diagnosis import lines
from loom.render.diagnosis.agent import MOST_BYTES
from loom.render.look import Look


def output(lines: Sequence[str], own: Sequence[str] | None = None, said: Sequence[str] = ()) -> ReadOutput:
    """Return what a step printed; `own`: its last command, `said`: the last one that printed something."""
    found = [ReadLine(line) for line in lines]
    left = {"own": list(own or ()), "said": list(said)}
    for line in reversed(found if own is not None else ()):
        line.part = next((part for part in ("own", "said") if line.text in left[part]), "before")
        if line.part != "before":
            left[line.part].remove(line.text)
    return ReadOutput(found, own is not None)


def evidence(
    lines: Sequence[str] = (), own: Sequence[str] | None = None, said: Sequence[str] = (), **more: object
) -> Evidence:
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
                "var": ["A=b c"],
                "names": ["test", "other"],
                "flags": {"container": True},
            }
        },
        "pipeline": {"jobs": []},
        "job": job,
        "output": output(lines, own, said),
        **more,
    }
    return Evidence(**shape)  # type: ignore[arg-type]


def test_a_file_that_git_ignores_is_named_first() -> None:
    asked: list[str] = []

    def look(paths: Sequence[str]) -> dict[str, NamedFile]:
        asked.extend(paths)
        return {"app/.env": NamedFile(path="app/.env", ignored=True, rule=".gitignore:3: .env")}

    found = diagnose(
        evidence(
            lines=["cat: .env: No such file or directory"],
            job={"failing_command": "cd app && cat .env"},
            find_files=look,
        )
    )
    assert asked == [".env", "app/.env"]
    assert [cause.code for cause in found.readings] == ["ignored_file"]


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


def shown_of(lines: Sequence[str], telling: str | None = None) -> list[str]:
    return lines_that_matter(output(lines).lines, telling=telling)


def test_lines_that_matter_keep_the_error_and_the_end() -> None:
    lines = [f"ok {n}" for n in range(200)]
    lines[100] = "AssertionError: 1 != 2"
    shown = shown_of(lines)
    assert len(shown) <= 14
    assert "AssertionError: 1 != 2" in shown
    assert shown[-1] == "ok 199"
    assert "…" in shown
    assert shown_of(["a", "b", ""]) == ["a", "b"]
    assert shown_of([]) == []


def test_lines_that_matter_show_another_error_among_many_alike() -> None:
    lines = [f"ERROR worker {number}: retry failed" for number in range(1, 300)]
    lines[100] = "FATAL: schema version mismatch"
    shown = shown_of(lines)
    assert "FATAL: schema version mismatch" in shown
    assert shown[-1] == "ERROR worker 299: retry failed"


def test_locations_are_the_projects_own() -> None:
    lines = [
        '  File "/usr/lib/python3.11/unittest/case.py", line 57, in x',
        '  File "/workspace/src/app.py", line 12, in y',
        "src/main.c:3:7: error: expected ';'",
        "node_modules/x/index.js:1:2",
        "app/a.ts(4,5): error TS1005",
    ]
    assert [(p.file, p.line) for p in locations_in(lines)] == [("app/a.ts", 4), ("src/main.c", 3), ("src/app.py", 12)]


def test_the_command_that_reproduces_keeps_the_inputs() -> None:
    assert diagnose(evidence()).reproduce == "loom run --var 'A=b c' --container test"


@pytest.mark.slow
def test_the_agents_text_is_never_too_long() -> None:
    huge = ["é" * 5000 + " error"] * 60
    tests = [{"name": "n" * 900, "message": "m" * 9000, "file": "f" * 500, "line": 1}] * 30
    found = diagnose(
        evidence(lines=huge, job={"failing_tests": tests, "failing_command": "x\n" * 3000, "error": "e" * 5000})
    )
    text = "".join(f"{line}\n" for line in lines("agent", found, Look(), now_ns=0))
    assert len(text.encode()) <= MOST_BYTES
    assert text.startswith("run 1: failure")
    assert "failed: job test" in text
    assert "reproduce: " in text


@pytest.mark.parametrize("printed", ["begin", "error: no answer", "Killed"])
def test_the_telling_line_of_a_step_that_ran_out_of_time_is_looms(printed: str) -> None:
    job = {"status": "timed_out", "error": "script/01 ran out of time", "failing_step": "script/01"}
    assert diagnose(evidence(lines=[printed], job=job)).telling_line == "script/01 ran out of time"


def test_the_telling_line_of_a_child_pipeline_names_its_job() -> None:
    job = {"error": "child pipeline: run 2 ended with failure: bad", "failing_section": "child", "failing_step": None}
    found = diagnose(evidence(lines=["✗ bad  failed in 1 s"], job=job, unit=(None, "child")))
    assert found.telling_line == "child pipeline: run 2 ended with failure: bad"


def test_what_happened_beside_the_step_is_told_beside_it() -> None:
    of_service, of_step = "service db ended while the job ran: exit code 3", "script/01: a process was killed"
    job = {"warnings": [of_service, of_step, "script/02: other", "no cache"]}
    found = diagnose(evidence(lines=["assert 1 == 2"], job=job))
    assert (found.beside, found.readings, found.ended_by) == ([of_service, of_step], [], None)
    for form in ("text", "agent"):
        assert f"beside it: {of_service}" in "\n".join(lines(form, found, Look(), now_ns=0))


def test_the_command_that_is_all_of_the_step_is_told_once() -> None:
    ended = {"command": "python3 - <<'P' print(1) P", "line": 1, "code": 1}
    step = "python3 - <<'P'\n  print(1)\nP\n"
    told = [diagnose(evidence(ended_by=ended, job={"failing_command": text})) for text in (step, f"true\n{step}")]
    assert [each.ended_by and each.ended_by.exit_code for each in told] == [1, 1]
    assert ["ended by" in "\n".join(lines("text", each, Look(), now_ns=0)) for each in told] == [False, True]


def test_an_error_that_the_script_survived_is_one_line_of_its_own() -> None:
    before = ["PASS test_denied: Permission denied is shown", "fatal: No names found", "open x: no such file"]
    ended = {"command": "exit 1", "line": 2, "code": 1}
    found = diagnose(
        evidence(lines=[*before, "12 MB, maximum is 10 MB"], own=["12 MB, maximum is 10 MB"], ended_by=ended)
    )
    assert (found.telling_line, found.earlier_error) == ("12 MB, maximum is 10 MB", "fatal: No names found")
    assert (found.readings, found.failures) == ([], [])
    for form in ("text", "agent"):
        shown = "\n".join(lines(form, found, Look(), now_ns=0))
        assert "before that: fatal: No names found" in shown
    assert not found.survived
    said = diagnose(evidence(lines=before, own=[], said=before[1:2], ended_by=ended))
    assert (said.survived, said.told) == (True, "`exit 1` gave 1; before that: fatal: No names found")
    assert diagnose(evidence(lines=before)).earlier_error is None
    own = {"lines": ["x.IOError: retried", "none"], "own": ["none"], "ended_by": ended}
    assert diagnose(evidence(**own)).earlier_error == "x.IOError: retried"
    assert diagnose(evidence(**own, job={"failing_command": "echo x.IOError: retried"})).earlier_error is None


def test_locations_of_warnings_and_of_calls_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("\n" * 9)
    printed = ["a.c:9:1: warning: unused", "v.push(1);", "string_at(0)", "a.c:3:1: error: expected ;"]
    found = diagnose(evidence(lines=printed, root=tmp_path))
    assert [(each.file, each.line) for each in found.locations] == [("a.c", 3)]


def test_the_telling_line_is_among_those_shown() -> None:
    many = ["x.c:1: error: this one", *(f"line {number} failed" for number in range(99))]
    assert shown_of(many, telling="x.c:1: error: this one")[0] == "x.c:1: error: this one"
    assert len(shown_of(many, telling="x.c:1: error: this one")) <= 14


def test_errors_that_a_program_survived_do_not_tell() -> None:
    ignored = ["ls: cannot access 'x': No such file", "make: [a.mk:2: a] Error 2 (ignored)", "size 12 kB, budget 10 kB"]
    for printed, told in (
        ([*ignored, "make: *** [a.mk:4: a] Error 1"], "size 12 kB, budget 10 kB"),
        (["ModuleNotFoundError: No module named 'x'", "91 % are translated"], "91 % are translated"),
        (["connecting to db.example.com:5432", "FATAL: password refused"], "FATAL: password refused"),
        (
            ["rake aborted!", "ArgumentError: RELEASE is not set", "Rakefile:2:in `block'"],
            "ArgumentError: RELEASE is not set",
        ),
    ):
        found = diagnose(evidence(lines=printed, root=Path("/nonexistent")))
        assert found.telling_line == told


def made(root: Path, recipes: str, *printed: str, script: str = "make") -> Diagnosis:
    (root / "Makefile").write_text(recipes)
    ended = {"command": "make", "line": 1, "code": 2}
    return diagnose(evidence(printed, printed, ended_by=ended, root=root, job={"failing_command": script}))


def test_make_names_the_line_of_the_recipe_that_ended_it(tmp_path: Path) -> None:
    missing, gave = "cat: x: No such file or directory", "make: *** [Makefile:3: a] Error 1"
    survived = made(tmp_path, "a:\n\t@cat x || true\n\t@test -f y\n", missing, gave)
    assert survived.ended_by is not None
    assert (survived.ended_by.by, survived.ended_by.text) == ("make", "`test -f y` at Makefile:3 gave 1")
    assert (survived.telling_line, survived.readings) == ("`test -f y` at Makefile:3 gave 1", [])
    shown = made(tmp_path, "a:\n\ttrue\n\tcat x\n", "true", "cat x", missing, gave)
    assert (shown.telling_line, [each.code for each in shown.readings]) == (missing, ["missing_file"])
    for recipe in ("@cat x", "cat x; test -f y"):
        hidden = made(tmp_path, f"a:\n\ttrue\n\t{recipe}\n", "true", recipe, missing, gave)
        assert (hidden.telling_line, hidden.readings) == (missing, [])
    for code, read in ((127, ["command_not_found"]), (1, [])):
        absent = ("make: go: No such file or directory", f"make: *** [Makefile:2: a] Error {code}")
        found = made(tmp_path, "a:\n\t@$(GO) test\n", *absent)
        assert (found.telling_line, [each.code for each in found.readings]) == (absent[0], read)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/Makefile").write_text("a:\n\ttrue; \\\n\t  false\n")
    inner = ("make[1]: Entering directory '/workspace/sub'", "make[1]: *** [Makefile:2: a] Error 1")
    below = made(tmp_path, "a:\n\n\t$(MAKE) -C sub\n", *inner, "make[1]: Leaving directory '/workspace/sub'", gave)
    assert below.ended_by is not None
    assert below.ended_by.text == "`true; false` at sub/Makefile:2 gave 1"
    for other in (["cat log"], ["make", "echo no"]):
        quoted = diagnose(
            evidence([gave], [gave], ended_by={"command": other[-1], "line": 2, "code": 1}, root=tmp_path)
        )
        assert quoted.ended_by is not None
        assert quoted.ended_by.by == "shell"


@pytest.mark.parametrize(
    ("script", "command", "code", "line", "says", "is_read"),
    [
        ("./a.sh || ./o.sh", "./o.sh", 6, "x: line 1: ./a.sh: No such file or directory", None, False),
        ("true && ./a.sh", "./a.sh", 127, "x: line 1: ./a.sh: No such file or directory", None, True),
        ("./a.sh || ./o.sh", "./a.sh || ./o.sh", 6, "sh: step.1: line 1: ./a.sh: not found", None, False),
        ("echo; nope", "nope", 127, "sh: /run/loom/step.1: line 1: nope: not found", "nope: not found", True),
    ],
)
def test_a_line_of_a_list_is_read_if_it_is_of_the_command_that_ended_it(
    script: str, command: str, code: int, line: str, says: str | None, is_read: bool
) -> None:
    ended = {"command": command, "line": 1, "code": code}
    found = diagnose(evidence([line], [line], ended_by=ended, job={"failing_command": script, "exit_code": code}))
    assert found.ended_by is not None
    assert (found.ended_by.says, [each.line for each in found.readings]) == (says, [line] * is_read)


def test_a_line_behind_a_silent_command_is_that_of_a_trap() -> None:
    line = "E: Unable to locate package foo"
    found = [diagnose(evidence([line], job={"failing_command": script})) for script in ("false", "apt-get install foo")]
    assert [len(each.readings) for each in found] == [0, 1]


def test_what_the_shell_says_of_the_command_tells_more_than_an_earlier_error() -> None:
    lines = ["error: of a log", "sh: /run/loom/step.1: line 1: nope: not found"]
    ended = {"command": "nope", "line": 1, "code": 127}
    assert diagnose(evidence(lines, lines, ended_by=ended)).telling_line == lines[1]


def test_a_long_clean_up_before_exit_is_no_reason() -> None:
    said = [f"removing {number}" for number in range(20)]
    ended = {"command": "exit 1", "line": 3, "code": 1}
    found = diagnose(evidence(lines=["a.c:3:1: error: no x", *said], own=[], said=said, ended_by=ended))
    assert found.telling_line == "a.c:3:1: error: no x"
    assert diagnose(evidence(lines=said, own=[], said=said[:2], ended_by=ended)).telling_line == "removing 1"


def test_the_lines_of_a_script_that_have_the_command_are_named(tmp_path: Path) -> None:
    text = "#!/bin/bash\nneed() {\n  [ -f  a ]\n}\n# exit 4\n[ -f b ] || exit 4\nneed\n[ -f c ] || exit 4\n[ -f a ]\n"
    (tmp_path / "in.sh").write_text(text)
    for command, function, told in (
        ("exit 4", None, "`exit 4` in in.sh (line 6 or 8) gave 1, called from ci.yml:7"),
        ("[ -f a ]", "need", "`[ -f a ]` at in.sh:3 gave 1, called from ci.yml:7"),
        ("exit 5", None, "`exit 5` in in.sh gave 1, called from ci.yml:7"),
    ):
        frames = [{"file": "/workspace/in.sh", "line": None, "function": function}, {"line": 3, "function": "main"}]
        ended = {"command": command, "line": 3, "code": 1, "stack": frames}
        step = {"step": "script/01", "attempt": 1, "file": "ci.yml", "line": 5, "literal": True}
        found = diagnose(evidence(ended_by=ended, root=tmp_path, job={"steps": [step]}))
        assert found.ended_by is not None
        assert found.ended_by.text == told
