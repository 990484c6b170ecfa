"""Steps that share one shell, as in GitLab's runner: what goes on from one to the next, and what ends the shell."""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING

import pytest

from loom.cancel import Cancel
from loom.config import AUTO_SHELL
from loom.providers.command import Share
from loom.providers.driver.steps import AUTO, SH
from loom.status import Ended, Status

if TYPE_CHECKING:
    from conftest import Job, Site

BASH = AUTO["bash"]
FIRST, NEXT, LAST = Share(first=True), Share(), Share(last=True)


@pytest.fixture(params=[BASH, SH], ids=["bash", "sh"])
def shell(request: pytest.FixtureRequest) -> tuple[str, ...]:
    chosen: tuple[str, ...] = request.param
    return chosen


CASES = {
    "variables": (["X=1", "export Y=2", 'echo "$X$Y"; sh -c "echo \\$Y"'], [0, 0, 0], "12\n2\n"),
    "functions": (["greet() { echo hello; }", "greet"], [0, 0], "hello\n"),
    "directory": (["mkdir -p a/b", "cd a/b", 'echo "${PWD##*/}"'], [0, 0, 0], "b\n"),
    "a failure ends it": (["echo one", "false", "echo no"], [0, 1], "one\n"),
    "exit ends it": (["exit 0", "echo no"], [0], ""),
    "exit with a code": (["exit 3", "echo no"], [3], ""),
    "set +e lasts": (["set +e", "false", "echo went on"], [0, 1, 0], "went on\n"),
    "the last code counts": (["set +e", "false"], [0, 1], ""),
    "a condition is no failure": (["false && echo no", "echo yes"], [1, 0], "yes\n"),
    "and at the end it is the result": (["true", "false && echo no"], [0, 1], ""),
    "a trap at the end": (["trap 'echo bye' EXIT", "echo hi"], [0, 0], "hi\nbye\n"),
    "a trap changes the code": (["trap 'exit 7' EXIT", "false"], [0, 7], ""),
    "exec replaces it": (["exec echo replaced", "echo no"], [0], "replaced\n"),
    "nothing to read": (["cat; echo x", "read -r line || echo empty", "cat"], [0, 0, 0], "x\nempty\n"),
    "redirection of everything": (["exec >log", "echo hidden", "cat log >&2"], [0, 0, 0], ""),
    "a background process": (["sleep 30 & echo $! >pid", 'kill -0 "$(cat pid)" && echo alive'], [0, 0], "alive\n"),
    "nounset": (["set -u", "echo fine"], [0, 0], "fine\n"),
    "a comment at the end": (["echo a # b", "#", "echo c"], [0, 0, 0], "a\nc\n"),
    "a line goes on at the end": (["echo a \\", "echo b"], [0, 0], "a\nb\n"),
    "arguments": (["set -- p q", 'echo "$# $2"'], [0, 0], "2 q\n"),
    "break outside of a loop": (["break 2>/dev/null || :", "echo on"], [0, 0], "on\n"),
    "closed outputs": (["exec 3>&1 >&- 2>&-", "echo back >&3"], [0, 0], "back\n"),
    "killed": (["kill -9 $$", "echo no"], [137], ""),
}


def test_steps_in_one_shell(shell_job: Job, shell: tuple[str, ...]) -> None:
    for name, (scripts, codes, out) in CASES.items():
        ran = shell_job.run_in_one_shell(*scripts, shell=shell)
        assert (name, [each.code for each in ran], b"".join(each.out for each in ran).decode()) == (
            name,
            codes,
            out,
        )
        assert shell_job.run("echo after").out == b"after\n", name


def test_each_step_has_its_own_output_and_outputs_for_later_steps(shell_job: Job, shell: tuple[str, ...]) -> None:
    one, two = shell_job.run_in_one_shell(
        'echo 1; echo e1 >&2; echo "A=b c" >>"$LOOM_ENV"',
        'echo 2; echo e2 >&2; echo s3cr >>"$LOOM_MASK"',
        shell=shell,
    )
    assert (one.out, one.err, two.out, two.err) == (b"1\n", b"e1\n", b"2\n", b"e2\n")
    assert (shell_job.session.handed_on(), shell_job.session.reported()["mask"]) == ({"A": "b c"}, [b"s3cr"])


def test_a_trace_goes_on_and_shows_nothing_of_ours_but_the_file(shell_job: Job) -> None:
    _, traced = shell_job.run_in_one_shell("set -x", "echo hi", shell=BASH)
    assert [line for line in traced.err.decode().splitlines() if "step" not in line] == ["++ echo hi", "+ exit 0"]


def test_what_a_step_changed_stays_and_what_the_caller_changes_arrives(shell_job: Job, shell: tuple[str, ...]) -> None:
    given = {"MINE": "old", "STEP": "1", "QUOTED": "it's\n$HOME"}
    shell_job.run("MINE=new", shell=shell, environment=given, share=FIRST)
    ran = shell_job.run('echo "$MINE $STEP $QUOTED"', shell=shell, environment={**given, "STEP": "it's\n2"}, share=LAST)
    assert ran.out == b"new it's\n2 it's\n$HOME\n"


def test_another_shell_goes_on_where_the_last_saved_step_ended(shell_job: Job) -> None:
    shell_job.run(
        "mkdir -p sub; cd sub; plain=1; export LIST='a b'; arr=(x 'y z'); f() { echo f$1; }",
        shell=BASH,
        share=FIRST,
    )
    failed = shell_job.run("cd /; plain=2; false", shell=BASH, share=NEXT)
    assert (failed.exit.status, failed.exit.goes_on) == (Status.FAILURE, False)
    again = shell_job.run('f 1; echo "${PWD##*/} $plain $LIST ${arr[1]}"; [[ $- == *e* ]]', shell=BASH, share=LAST)
    assert (again.out, again.err, again.code) == (b"f1\nsub 1 a b y z\n", b"", 0)


def test_plain_sh_goes_on_without_functions(shell_job: Job) -> None:
    shell_job.run("mkdir -p sub; cd sub; plain='it''s'; export Q=2", shell=SH, share=FIRST)
    shell_job.run("false", shell=SH, share=NEXT)
    again = shell_job.run("""echo "${PWD##*/} $plain $(sh -c 'echo "$Q"')"; false; echo no""", shell=SH, share=LAST)
    assert (again.out, again.code) == (b"sub its 2\n", 1)


def test_a_shell_that_cannot_go_on_says_so(shell_site: Site, shell: tuple[str, ...]) -> None:
    with shell_site.job() as job:
        ran = job.run("false; echo no", shell=shell, share=NEXT)
    assert (ran.code, b"are not there any more" in ran.err) == (1, True)


def test_a_step_out_of_time_ends_the_shell_and_its_processes(shell_site: Site, shell: tuple[str, ...]) -> None:
    mark = f"600.{secrets.randbelow(10**9):09}"
    with shell_site.job(grace_s=5) as job:
        assert job.run(f"(sleep {mark}; echo late >late) & :", shell=shell, share=FIRST).exit.goes_on
        ran = job.run("sleep 60", shell=shell, share=NEXT, timeout_s=0.5)
        assert (ran.exit.ended, ran.exit.goes_on) == (Ended.TIMED_OUT, False)
        assert any(f"sleep {mark}" in line for line in ran.exit.still_ran)
        assert job.run(f"grep -l '[6]{mark[1:]}' /proc/[0-9]*/cmdline 2>/dev/null || :").out == b""
        assert job.run_in_one_shell("echo again", shell=shell)[0].out == b"again\n"


def test_a_canceled_step_that_ignores_the_signal_is_killed(shell_site: Site, shell: tuple[str, ...]) -> None:
    cancel = Cancel()
    timer = threading.Timer(0.5, lambda: cancel.request(None))
    with shell_site.job(grace_s=0.3) as job:
        assert job.run("trap '' TERM", shell=shell, share=FIRST).exit.goes_on
        timer.start()
        ran = job.run("while :; do sleep 0.1; done", shell=shell, share=LAST, cancel=cancel)
        assert ran.exit.ended is Ended.CANCELED
        assert job.run("echo next").out == b"next\n"


def test_a_shell_that_is_still_open_ends_before_another_command(shell_site: Site, shell: tuple[str, ...]) -> None:
    with shell_site.job() as job:
        job.run("trap 'echo bye >bye' EXIT", shell=shell, share=FIRST)
        assert job.run("cat bye").out == b"bye\n"
        job.run("trap 'echo again >bye' EXIT", shell=shell, share=FIRST)
    assert (shell_site.workspace / "bye").read_text() == "again\n"


@pytest.mark.docker
def test_every_sh(sh_job: Job) -> None:
    ran = sh_job.run_in_one_shell("X=1; f() { echo f; }", 'f; echo "$X"', "false", "echo no", shell=SH)
    assert ([each.code for each in ran], ran[1].out) == ([0, 0, 1], b"f\n1\n")
    assert sh_job.run('echo "$X"; f', shell=("sh",), share=NEXT).out.startswith(b"1\n")
    assert sh_job.run("echo after").out == b"after\n"


@pytest.mark.docker
def test_every_sh_fails_with_any_command_of_a_pipe(any_sh: Site) -> None:
    """As with GitLab's runner, whose shell has `pipefail` wherever it knows that."""
    with any_sh.job(shell=AUTO_SHELL) as job:
        ran = job.run_in_one_shell("false | true; echo no")
        assert [(each.code, each.out) for each in ran] == [(1, b"")]
        assert job.run("(exit 3) | true; echo no", share=NEXT).code == 3
        assert job.run("(exit 3) | true; echo no").code == 3


@pytest.mark.docker
def test_a_return_ends_every_sh_and_is_an_error_for_bash(any_sh: Site) -> None:
    """In GitLab's runner, the script is one `eval` at the top level of a shell."""
    with any_sh.job(shell=AUTO_SHELL) as job:
        for steps, code in ((("return 0", "echo no"), 0), (("true", "return 4; echo no"), 4), (("return 0",), 0)):
            ran = job.run_in_one_shell(*steps)
            is_bash = job.session.facts.auto_shell == BASH
            assert (ran[-1].code, ran[-1].out) == (1 if is_bash else code, b""), steps
            assert (b"can only `return'" in ran[-1].err) == is_bash
        off = job.run_in_one_shell("set +e", "return 0", "echo on")
        assert off[-1].out == (b"on\n" if is_bash else b"")
