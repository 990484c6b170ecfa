"""The telling line and the first place of real outputs for which no rule knows a cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from loom.analysis.diagnosis import diagnose
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
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_real_outputs(name: str, tmp_path: Path) -> None:
    output, telling, place = OUTPUTS[name]
    file, _, line = place.rpartition(":")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("")
    found = diagnose(evidence(lines=output.splitlines(), root=tmp_path))
    assert found.telling_line is not None
    assert telling in found.telling_line
    assert (found.places[0].file, found.places[0].line) == (file, int(line))
    assert found.causes == []
