"""Going back into a failed job that ran on this machine: the same shell as in a container, on loom's own terminal."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import until

from .conftest import SLEEPS, Project, ended

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [test]
unit:
  stage: test
  variables: {COLOUR: green}
  secrets:
    TOKEN: {ref: "env://MY_TOKEN", file: false}
    KEY: {ref: "env://MY_TOKEN"}
  script:
    - echo "GREETING=hello $TOKEN" >> $LOOM_ENV; echo made > made.txt
    - |
      echo "looking"
      test -e fixed
    - cat made.txt; echo "$GREETING" | wc -c
"""
SECRET = "hunter2-correct-horse"
PROMPT = r"\[unit\] [^\r\n]*[#$] "


@pytest.fixture
def failing(project: Project) -> Project:
    project.workflow(WORKFLOW)
    return project


def loom(project: Project, *arguments: str) -> Any:
    return project.loom(*arguments, MY_TOKEN=SECRET)


def living(words: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip() == words.encode():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_the_shell_of_a_host_job_stands_where_its_step_failed(failing: Project) -> None:
    ran = loom(failing, "run", "--local")
    assert ran.code == 1, ran.out + ran.err
    shell = failing.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect("on this machine, in the files of unit")
    shell.expect(PROMPT)
    shell.sendline("echo =$GREETING=$TOKEN=$(cat $KEY)=$COLOUR=$LOOM_STEP=$TERM=; pwd; stty size")
    shell.expect(f"=hello {SECRET}={SECRET}={SECRET}=green=script/02=xterm=\r\n{ran.workspace}\r\n31 97\r\n")
    shell.expect(PROMPT)
    shell.sendline("history 10")
    shell.expect('1  echo "looking"\r\ntest -e fixed')
    shell.expect(PROMPT)
    shell.sendline("again; echo code=$?")
    shell.expect("looking\r\ncode=1")
    shell.expect(PROMPT)
    shell.sendline(SLEEPS)
    shell.expect("asleep")
    shell.sendcontrol("c")
    shell.expect(PROMPT)
    shell.sendline(SLEEPS)
    shell.expect("asleep")
    shell.sendcontrol("z")
    shell.expect("Stopped")
    shell.sendline("kill -9 %1; while kill -0 %1; do sleep 0.1; done; touch fixed; again && exit 7")
    assert ended(shell) == 7
    healed = loom(failing, "resume")
    assert healed.code == 0, healed.out + healed.err
    assert "goes on from script/02, on this machine" in healed.out
    assert healed.output("unit", "script/03") == ["made", str(len(f"hello {SECRET}\n"))]


def test_a_shell_opens_at_a_host_jobs_failure_and_asks_how_to_go_on(failing: Project) -> None:
    running = failing.on_terminal("run", "--local", "--stop-at=failure", "--stop-at", "unit:3", MY_TOKEN=SECRET)
    running.expect("failed with exit code 1")
    running.expect(PROMPT)
    running.sendline(f"echo =$GREETING=$(cat $KEY)=; again; echo code=$?; {SLEEPS}")
    running.expect(f"=hello {SECRET}={SECRET}=\r\nlooking\r\ncode=1\r\nasleep")
    running.sendcontrol("c")  # ends the command in the shell, not the run
    running.expect(PROMPT)
    running.sendline("exit")
    running.expect("etry")
    running.sendline("r")
    running.expect("failed with exit code 1")
    running.expect(PROMPT)
    running.sendline("touch fixed; exit")
    running.expect("etry")
    running.sendline("r")
    running.expect("before step script/03 of unit")
    running.expect(PROMPT)
    running.sendline("exit")
    running.expect("unit +.*passed")
    assert ended(running) == 0


def test_a_terminal_that_goes_away_takes_the_host_shell_with_it(failing: Project) -> None:
    loom(failing, "run", "--local")
    words = f"sleep {20000 + os.getpid()}"
    shell = failing.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect(PROMPT)
    shell.sendline(f"{words} & {words}")
    until(lambda: len(living(words)) == 2)
    os.close(shell.child_fd)  # what a terminal's window does when it goes
    shell.child_fd, shell.closed = -1, True
    until(lambda: not living(words))
    os.waitpid(shell.pid, 0)


def test_a_signal_and_a_timeout_end_the_command_on_the_host(failing: Project) -> None:
    loom(failing, "run", "--local")
    process = failing.start(
        *("exec", "unit", "--", "sh", "-c"),
        'trap "echo bye; exit 5" INT; echo up; while :; do sleep 0.1; done',
        MY_TOKEN=SECRET,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "bye\n")
    late = loom(
        failing, "exec", "unit", "--timeout", "4s", "--", "sh", "-c", 'trap "echo out; exit" TERM; sleep 4.5; sleep 60'
    )
    assert (late.code, late.out) == (4, "out\n")


def test_a_job_that_passes_after_going_on_saves_its_cache_under_the_key_it_began_with(project: Project) -> None:
    project.git("checkout", "-q", "-b", "work")  # a person may have touched what a protected branch's cache would get
    project.write("lock.txt", "1")
    project.workflow(
        """
version: v1
stages: [test]
unit:
  stage: test
  cache: {paths: [deps], key: {files: [lock.txt]}}
  script:
    - mkdir -p deps; echo one >> deps/made; echo changed > lock.txt
    - test -e fixed
    - test -e fixed2
    - cat deps/made
"""
    )
    ran = project.loom("run", "--local")
    assert ran.code == 1, ran.out
    for fixed in ("fixed", "fixed2"):
        assert project.loom("exec", "unit", "--", "touch", fixed).code == 0
        resumed = project.loom("resume")
    assert resumed.code == 0, resumed.out
    caches = resumed.manifest("unit")["caches"]
    assert [(fact["action"], fact["saved"]) for fact in caches] == [("save", True)]
    again = project.loom("run", "--local")
    (restored, *_) = again.manifest("unit")["caches"]
    assert (restored["action"], restored["hit"], restored["key"]) == ("restore", "exact", caches[0]["key"])
