"""The command that ended a step, as its shell reports it, and the output that is its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from loom.cancel import Cancel
from loom.providers.command import Command, Share
from loom.providers.driver.endings import CHECKED, observable
from loom.providers.driver.steps import AUTO, SH
from loom.runner.own_output import OwnOutput
from loom.status import EndedBy, Stream

if TYPE_CHECKING:
    from conftest import Job

BASH = AUTO["bash"]


def ending(job: Job, script: str, *, shared: bool, shell: tuple[str, ...] = BASH) -> tuple[EndedBy | None, list[str]]:
    """Run a step that fails; return the command that ended it, and its own lines on both streams."""
    text: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}
    counts = {"stdout_lines": 0, "stderr_lines": 0}
    own = OwnOutput(counts)

    def hear(stream: Stream, data: bytes) -> None:
        text[stream] += data
        counts[f"{stream}_lines"] = text[stream].count(b"\n")

    share = Share(first=True, last=True) if shared else None
    command = Command(script=script, shell=shell, share=share, observed=True, began=own.began)
    exit_ = job.session.run(command, hear, Cancel())
    assert exit_.code != 0
    assert b"loom:" not in text["stdout"] + text["stderr"]
    found = own.ended_by(script, exit_)
    if found is None or found.stdout_lines is None or found.stderr_lines is None:
        return found, []
    lines = text["stdout"].decode().splitlines()[found.stdout_lines :]
    return found, [*lines, *text["stderr"].decode().splitlines()[found.stderr_lines :]]


SILENT = {
    "a test": ("echo a\ntest -f dist/app\necho no", "test -f dist/app", 2),
    "brackets": ('echo a\n\n[ "$HOME" = "" ]\necho no', '[ "$HOME" = "" ]', 3),
    "double brackets": ("[[ a == b ]]\necho no", "[[ a == b ]]", 1),
    "grep": ("echo x >f\ngrep -q y f", "grep -q y f", 2),
    "a pipe with pipefail": ("false | cat\necho no", "false | cat", 1),
    "a pipe of two lines": ("echo a |\n  grep -q b |\n  cat\necho no", "echo a | grep -q b | cat", 3),
    "exit": ("if [ -d / ]; then\n  exit 7\nfi", "exit 7", 2),
    "in a loop": ("for i in 1 2; do\n  [ $i = 1 ]\ndone", "[ $i = 1 ]", 2),
    "a subshell": ("echo a\n( exit 4 )", "( exit 4 )", 2),
    "a value": ('echo a\nx="$(false)"', 'x="$(false)"', 2),
    "the last of a list": ("echo a\n[ -f no ] && echo yes", "[ -f no ] && echo yes", 2),
    "a file that is read": ("printf 'true\\nfalse\\n' >lib.sh\n. ./lib.sh", "false", 2),
    "a program in place of the shell": ("echo a\nexec sh -c 'true; exit 5'", "exec sh -c 'true; exit 5'", 2),
    "after set +e": ("set +e\nfalse\nexit 3", "exit 3", 3),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_a_silent_end_has_its_command_and_line(shell_job: Job, shared: bool) -> None:
    with_own_shell = {"the last of a list": "[ -f no ]"}
    for name, (script, command, line) in SILENT.items():
        found, own = ending(shell_job, script, shared=shared)
        assert found is not None, name
        expected = command if shared else with_own_shell.get(name, command)
        assert (name, found.command.replace("(exit 4)", "( exit 4 )"), found.line, own) == (name, expected, line, [])


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_the_line_in_a_function_and_of_its_call(shell_job: Job, shared: bool) -> None:
    found, _ = ending(shell_job, "check() {\n  echo a\n  test -f no\n}\ntrue\ncheck", shared=shared)
    assert found is not None
    assert (found.command, found.line) == ("test -f no", 6)
    assert [(call.function, call.line) for call in found.stack] == [("check", 3), ("source" if shared else "main", 6)]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_the_line_in_a_function_of_a_file_that_is_read(shell_job: Job, shared: bool) -> None:
    script = "printf 'check() { test -f no; }\\n' >lib.sh\n. ./lib.sh\ntest -f lib.sh\ncheck"
    found, own = ending(shell_job, script, shared=shared)
    assert found is not None
    assert (found.command, found.line, own) == ("test -f no", 4, [])
    assert [(call.file, call.line) for call in found.stack] == [("./lib.sh", 1), (None, 4)]


INNER = '#!/bin/bash\nneed() {\n  [ -n "$1" ]\n}\n%s\n'
IN_SCRIPTS = {
    "a program": ("./in.sh", "[ -f no ]", "[ -f no ]", 5),
    "an argument": ("bash ./in.sh", "[ -f no ]", "[ -f no ]", 5),
    "xargs": ("echo a | xargs ./in.sh", "test -f no", "test -f no", 5),
    "a function": ("./in.sh", "need; exit $?", '[ -n "$1" ]', 5),
    "exit": ("./in.sh", "test -f no || exit 3", "exit 3", None),
    "in another": ("./out.sh", "false", "false", 5),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_a_silent_end_in_a_script_that_is_run_has_its_command_there(shell_job: Job, shared: bool) -> None:
    for name, (call, text, command, line) in IN_SCRIPTS.items():
        files = (
            f"cat >in.sh <<'E'\n{INNER % text}E\nprintf '#!/bin/bash\\nset -e\\n./in.sh\\n' >out.sh\nchmod +x *.sh\n"
        )
        found, own = ending(shell_job, f"{files}{call}", shared=shared)
        assert found is not None, name
        assert (name, found.command, found.stack[0].line, own) == (name, command, line, [])
        files_of = [(call.file or "").rpartition("/")[2] for call in found.stack]
        assert files_of == ["in.sh", *(["out.sh"] if name == "in another" else []), ""]


def test_a_script_that_the_step_survived_ended_nothing(shell_job: Job) -> None:
    files = "printf '#!/bin/bash\\nfalse\\n' >in.sh\nchmod +x in.sh\n"
    for script, command in (("./in.sh || true\ntest -f no", "test -f no"), ("./in.sh || exit 1", "exit 1")):
        found, _ = ending(shell_job, files + script, shared=True)
        assert found is not None
        assert found.command == command
    found, _ = ending(shell_job, f"{files}! ./in.sh\ngrep -q x ./in.sh", shared=True)
    assert found is not None
    assert (found.command, found.stack) == ("grep -q x ./in.sh", [])


@pytest.mark.parametrize("shell", [BASH, SH], ids=["bash", "sh"])
def test_processes_in_the_background_that_have_the_output_are_told(shell_job: Job, shell: tuple[str, ...]) -> None:
    for begun, told in (
        ("sleep 60 &", True),
        ("sleep 60 >log 2>&1 & until [ /proc/$!/fd/2 -ef log ]; do :; done", False),
        ("sleep 0 & wait", False),
    ):
        found, _ = ending(shell_job, f"{begun}\nfalse", shared=False, shell=shell)
        assert found is None or found.background == told, begun


def test_a_script_that_is_run_behaves_as_without_traps(shell_job: Job) -> None:
    """A program that replaces its shell, its own traps and what it prints."""
    text = "#!/bin/bash\nset -x\ntrap 'echo own $?' EXIT\nf() { return 3; }\nf || echo $? $_\n"
    text += "false | true; echo ${PIPESTATUS[*]}; exit 4\n"
    script = (
        f"cat >in.sh <<'E'\n{text}E\nbash in.sh || echo $?; bash -c 'sleep 60' &\n"
        "for i in {1..999}; do read -r c </proc/$!/comm; [ $c = sleep ] && break; done; echo $c; exit 9"
    )
    outputs = []
    for observed in (True, False):
        heard: list[bytes] = []
        command = Command(script=script, shell=BASH, observed=observed)
        shell_job.session.run(command, lambda _, data, heard=heard: heard.append(data), Cancel())
        outputs.append(sorted(re.sub(rb"\d{2,}", b"N", b"".join(heard)).splitlines()))
    assert outputs[0] == outputs[1]
    assert b"own 4" in outputs[0]


def test_what_a_value_or_a_subshell_survives_ended_nothing(shell_job: Job) -> None:
    for script in ("f() { v=$(false; true); }\nf\nexit 1", "v=$(grep -c x /dev/null; true)\nexit 1"):
        found, _ = ending(shell_job, script, shared=True)
        assert found is not None
        assert found.command == "exit 1"


def test_the_codes_of_a_pipeline(shell_job: Job) -> None:
    found, _ = ending(shell_job, "true | (exit 3) | cat", shared=True)
    assert found is not None
    assert (found.code, found.parts) == (3, [0, 3, 0])


def test_the_line_in_a_file_that_is_read(shell_job: Job) -> None:
    found, _ = ending(shell_job, "printf 'true\\nfalse\\n' >lib.sh\n. ./lib.sh", shared=True)
    assert found is not None
    assert [(call.file, call.line) for call in found.stack] == [("./lib.sh", 2), (None, 2)]


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_output_of_the_command_that_ended_it(shell_job: Job, shared: bool) -> None:
    tolerated = "ls /no1 || echo none\necho between >&2\nls /no2; echo no"
    _, own = ending(shell_job, tolerated, shared=shared)
    assert len(own) == 1
    assert "/no2" in own[0]
    assert ending(shell_job, "echo a >&2\necho one; printf two\nsh -c 'echo three; exit 1'", shared=shared)[1] == [
        "twothree"
    ]
    assert ending(shell_job, "ls /no || { echo failed; exit 1; }", shared=shared)[1][0] == "failed"
    assert ending(shell_job, "echo limit >&2\nexit 1", shared=shared)[1] == []
    assert "/no2" in ending(shell_job, "exec >/dev/null\nls /no1 || true\n{ ls /no2; } >out", shared=shared)[1][0]
    quick = "for i in $(seq 1000); do echo $i; done\nls /no"
    assert ending(shell_job, quick, shared=shared)[1] == []  # not known: the trap went
    slow = f"for i in $(seq {CHECKED + 1}); do sleep 0.01; done\nls /no"
    assert len(ending(shell_job, slow, shared=shared)[1]) == 1


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_a_script_sees_nothing_of_it(shell_job: Job, shared: bool) -> None:
    script = (
        'set -u\nset -- a b\ntrue && echo last: $_ $? "$*" $LINENO\necho $-\n'
        "trap 'echo err $BASH_COMMAND $LINENO' ERR\ntrap 'echo bye $?' EXIT\n"
        "{ echo in; } >file; cat file\nfalse | true || echo ${PIPESTATUS[*]}\nset -x; : x; { set +x; } 2>/dev/null\n"
        "ls /proc/self/fd | tail -n +5\nexec 12>log; echo logged >&12; cat log\n{ echo one; echo two; } | sort -r\n"
        "f() { echo f; return 3; }\nf"
    )
    outputs = []
    for observed in (True, False):
        heard: list[bytes] = []

        def hear(stream: Stream, data: bytes, heard: list[bytes] = heard) -> None:
            heard.append(data)

        share = Share(first=True, last=True) if shared else None
        command = Command(script=script, shell=BASH, share=share, observed=observed)
        code = shell_job.session.run(command, hear, Cancel()).code
        outputs.append((code, sorted(b"".join(heard).splitlines())))
    assert outputs[0] == outputs[1]
    assert (outputs[0][0], b"bye 3" in outputs[0][1]) == (3, True)


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("trap 'echo trapped' ERR\nf() { false; }", 0),
        ("f() { trap 'echo trapped' ERR; g; }\ng() { false; true; }\nset +e", 0),
    ],
)
def test_a_trap_that_a_file_sets_is_not_inherited(shell_job: Job, text: str, times: int) -> None:
    heard: list[bytes] = []
    script = f"cat >lib.sh <<'E'\n{text}\nE\n. ./lib.sh\nf\nexit 1"
    command = Command(script=script, shell=BASH, share=Share(first=True, last=True), observed=True)
    assert shell_job.session.run(command, lambda _, data: heard.append(data), Cancel()).code == 1
    assert b"".join(heard).count(b"trapped") == times


def test_a_plain_sh_tells_the_line_if_it_knows_it(shell_job: Job) -> None:
    found, _ = ending(shell_job, "echo a\ntest -f no", shared=False, shell=SH)
    assert found is None or (found.command, found.line) == ("test -f no", 2)


def test_a_script_that_lists_its_traps_gets_none() -> None:
    assert not observable(["echo", "trap -p"])
    assert not observable(["old=$(trap)"])
    assert not observable(["set -v"])
    assert observable(["trap 'echo bye' EXIT", "trap - ERR", "curl -v --verbose x"])
