"""The telling line and the first place of real outputs for which no rule knows a cause."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.analysis.diagnosis import diagnose
from loom.analysis.output import output_of, texts
from loom.record.documents import Highlight, Highlights
from loom.record.events import OutputEvent
from loom.record.sections import CommandReader
from loom.status import Stream
from tests.unit.analysis.test_diagnosis import evidence

OUTPUTS = {
    "asan": (
        (
            "==20==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x502000000018\n"
            "    #0 0x556b2aff51cd in main c/san.c:2\nSUMMARY: heap-buffer-overflow"
        ),
        "AddressSanitizer",
        "c/san.c:2",
    ),
    "go": (
        (
            "fatal error: all goroutines are asleep - deadlock!\n\ngoroutine 1 [sync.Mutex.Lock]:\nmain.main()\n"
            "\t/workspace/gor/m.go:8 +0x5f\nexit status 2"
        ),
        "deadlock",
        "gor/m.go:8",
    ),
    "lua": (
        "lua5.4: lua/a.lua:2: attempt to index a nil value (local 't')\nstack traceback:\n\tlua/a.lua:2: in main chunk",
        "attempt to index",
        "lua/a.lua:2",
    ),
    "perl": (
        (
            'Global symbol "$h" requires explicit package name at pl/b.pl line 3.\n'
            "Execution of pl/b.pl aborted due to compilation errors."
        ),
        "Global symbol",
        "pl/b.pl:3",
    ),
    "prove": (
        "#   Failed test 'sums'\n#   at t/a.t line 3.\n#          got: '2'\n#     expected: '3'\nResult: FAIL",
        "Failed test 'sums'",
        "t/a.t:3",
    ),
    "ruby": (
        "rb/app.rb:2:in `fetch': key not found: :port (KeyError)\n\tfrom rb/app.rb:2:in `go'\n\tfrom rb/app.rb:4:in `<main>'",
        "key not found",
        "rb/app.rb:2",
    ),
    "rake": (
        (
            "rake aborted!\nArgumentError: RELEASE is not set (ArgumentError)\n"
            "/workspace/rb/Rakefile:2:in `block in <top (required)>'\nTasks: TOP => default"
        ),
        "RELEASE is not set",
        "rb/Rakefile:2",
    ),
    "meson": (
        (
            "The Meson build system\nProject version: undefined\nFound pkg-config: NO\n\n"
            "mes/meson.build:2:0: ERROR: Dependency lookup for nonesuch failed.\n\nA full log can be found at /workspace/b/log.txt"
        ),
        "Dependency lookup",
        "mes/meson.build:2",
    ),
    "assert": (
        "checking\na: c/a.c:3: main: Assertion `1 == 2' failed.\n/run/loom/step.2: line 1:    16 Aborted    /tmp/a",
        "Assertion",
        "c/a.c:3",
    ),
    "bandit": (
        ">> Issue: [B602] subprocess call with shell=True\n   Location: ./py/b.py:2:0\nTotal issues (by severity):\n\tUndefined: 0",
        "py/b.py",
        "py/b.py:2",
    ),
    "make": (
        "gcc -c bad.c\nbad.c:3:12: error: expected ‘;’ before ‘return’\nmake: *** [par.mk:5: b] Error 1\nc ok",
        "expected ‘;’",
        "bad.c:3",
    ),
    "a group of exceptions": (
        (
            '  + Exception Group Traceback (most recent call last):\n  |   File "/workspace/as/a.py", line 6, in main\n'
            "  |     async with asyncio.TaskGroup() as g:\n  | ExceptionGroup: unhandled errors (2 sub-exceptions)\n"
            "  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n"
            '    |   File "/workspace/as/a.py", line 4, in w\n    |     raise ValueError(f"worker {n}")\n'
            "    | ValueError: worker 0 got a bad reply\n    +------------------------------------"
        ),
        "ValueError: worker 0",
        "as/a.py:4",
    ),
    "an exception in a log": (
        (
            "2026-11-28 23:22:30,570 ERROR etl row 7 skipped\nTraceback (most recent call last):\n"
            '  File "/workspace/log/a.py", line 5, in <module>\n    int("x")\nValueError: invalid literal for int(): \'x\'\n'
            "2026-11-28 23:22:30,613 INFO etl processed 100 rows\n"
            "2026-11-28 23:22:30,613 CRITICAL etl checksum mismatch: expected 4fa1, got 99bc"
        ),
        "checksum mismatch",
        "log/a.py:5",
    ),
    "vite": (
        (
            "✓ 4 modules transformed.\n✗ Build failed in 389ms\nerror during build:\nBuild failed with 1 error:\n\n"
            'Error: [vite]: Rolldown failed to resolve import "left-padd" from "/workspace/vt/main.js".\n'
            "    at viteLog (file:///workspace/node_modules/vite/dist/node/chunks/node.js:35507:57)"
        ),
        "left-padd",
        "",
    ),
    "less": (
        "NameError: variable @nope is undefined in /workspace/le/a.less on line 1, column 12:\n1 a { color: @nope; }\n2 \n",
        "@nope is undefined",
        "le/a.less:1",
    ),
    "sass": (
        "Error: Undefined variable.\n  ╷\n1 │ a { color: $nope; }\n  │            ^^^^^\n  ╵\n  ss/a.scss 1:12  root stylesheet",
        "Undefined variable",
        "ss/a.scss:1",
    ),
    "rollup": (
        '[!] RollupError: ro/main.js (1:8): "nope" is not exported by "ro/lib.js"\nro/main.js (1:8)\n1: import {nope} from "./lib.js";',
        "is not exported",
        "ro/main.js:1",
    ),
    "jshint": (
        "jh/a.js: line 3, col 6, Expected an identifier and instead saw ';'.\njh/a.js: line 3, col 7, Missing semicolon.\n\n2 errors",
        "Expected an identifier",
        "jh/a.js:3",
    ),
    "commitlint": (
        (
            "⧗   input: Bad message.\n✖   subject may not be empty [subject-empty]\n✖   type may not be empty [type-empty]\n\n"
            "✖   found 3 problems, 0 warnings\nⓘ   Get help: https://github.com/conventional-changelog/commitlint"
        ),
        "subject may not be empty",
        "",
    ),
    "mkdocs": (
        (
            "INFO    -  Building documentation to directory: /tmp/mk\n"
            "WARNING -  A reference to 'gone.md' is included in the 'nav' configuration, which is not found in the files.\n\n"
            "Aborted with 1 warnings in strict mode!"
        ),
        "gone.md",
        "",
    ),
    "eslint": (
        (
            "Oops! Something went wrong! :(\n\nESLint: 8.57.1\n\nESLint couldn't find a configuration file. To set up a "
            "configuration file for this project, please run:\n\n    npm init @eslint/config\n\nIf you need more help, please stop by."
        ),
        "couldn't find a configuration",
        "",
    ),
    "node": (
        (
            "listen(port)\n       ^\n\nReferenceError: port is not defined\n"
            "The loader read it as an ES module.\n    at w/a.js:1:8\n\nNode.js v20.20.2"
        ),
        "port is not defined",
        "w/a.js:1",
    ),
    "a warning before the reason": (
        "warning: cannot open cache, ignored\ntable users has 3 duplicate keys",
        "3 duplicate",
        "",
    ),
    "a linker below cmake": (
        (
            "/usr/bin/ld: t.c:(.text+0x5): undefined reference to `missing_fn'\ncollect2: error: ld returned 1 exit status\n"
            "gmake[2]: *** [CMakeFiles/t.dir/build.make:101: t] Error 1\ngmake: *** [Makefile:91: all] Error 2"
        ),
        "undefined reference",
        "",
    ),
    "a test that counts no errors": ("ok 12 tests, errors: 0\n3 files would be reformatted", "3 files", ""),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_real_outputs(name: str, tmp_path: Path) -> None:
    output, telling, place = OUTPUTS[name]
    file = place.rpartition(":")[0]
    (tmp_path / (file or "none")).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / (file or "none")).write_text("\n" * 999)
    found = diagnose(evidence(lines=output.splitlines(), root=tmp_path))
    assert found.telling_line is not None
    assert telling in found.telling_line
    assert [f"{place.file}:{place.line}" for place in found.locations[:1]] == [place] * bool(place)
    assert found.readings == []


def test_what_the_other_stream_printed_in_the_middle_of_a_traceback_comes_after_it() -> None:
    printed: list[tuple[Stream, str]] = [
        ("stderr", "Traceback (most recent call last):"),
        ("stdout", "using defaults"),
        ("stderr", '  File "/workspace/a.py", line 3, in <module>'),
        ("stdout", "coverage is 71.2 %, needed 80 %"),
        ("stderr", "FileNotFoundError: [Errno 2] No such file or directory: '/nonexistent/x'"),
    ]
    events = [OutputEvent(number, "", stream, text) for number, (stream, text) in enumerate(printed, 1)]
    output = output_of(events, Highlights(), {"stdout_lines": 2, "stderr_lines": 3}, None)
    assert texts(output.lines) == [printed[at][1] for at in (0, 2, 4, 1, 3)]
    assert diagnose(replace(evidence(), output=output)).readings == []


def test_workflow_commands_are_read_as_people_see_them() -> None:
    printed = [
        "::debug::error 0",
        "::group::Build",
        "::endgroup::",
        "::error file=src/x.py,line=7::no such%0Afile",
        "end",
    ]
    events = [OutputEvent(number, "", "stdout", text) for number, text in enumerate(printed, 1)]
    output = output_of(events, Highlights(), {"stdout_lines": 5}, None, CommandReader())
    assert texts(output.lines) == ["Build", "Error: no such (src/x.py:7)", "file", "end"]
    found = diagnose(replace(evidence(), output=output))
    assert found.telling_line == "Error: no such (src/x.py:7)"
    assert [(each.file, each.line, each.message) for each in found.failures] == [("src/x.py", 7, "no such\nfile")]


def test_lines_that_people_do_not_see_leave_one_gap() -> None:
    told = [
        Highlight(seq=seq, line=seq, offset=0, text=text, why="error")
        for seq, text in ((3, "error: a"), (7, "::debug::error"))
    ]
    last = [OutputEvent(20, "", "stdout", "end")]
    output = output_of(last, Highlights(lines=told), {"stdout_lines": 20}, None, CommandReader())
    assert texts(output.lines) == ["…", "error: a", "…", "end"]


@pytest.mark.parametrize(("complete", "told"), [(True, "error: early"), (False, "error: late")])
def test_of_more_errors_than_are_kept_the_last_ones_tell(complete: bool, told: str) -> None:
    early = [Highlight(seq=3, line=3, offset=0, text="error: early", why="error")]
    last = [OutputEvent(number, "", "stdout", text) for number, text in ((19, "error: late"), (20, "end"))]
    output = output_of(last, Highlights(lines=early, complete=complete), {"stdout_lines": 20}, None)
    assert diagnose(replace(evidence(), output=output)).telling_line == told
