"""What every provider promises (loom/providers/base.py), held against each of them."""

from __future__ import annotations

import io
import secrets
import tarfile
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from loom.cancel import Cancel
from loom.errors import ProviderError, RequestError
from loom.status import Ended
from loom.storage.selection import Everything, PathSelection
from loom.storage.workspace import Skipped, view_of
from tests.support.effort import effort
from tests.support.waiting import promptly

if TYPE_CHECKING:
    from conftest import Clock, Job, Site

EVERY_BYTE = bytes(range(1, 256)).decode("utf-8", "surrogateescape")


ENDS = {
    "true": 0,
    "false": 1,
    "exit 3": 3,
    "exit 255": 255,
    "exec sh -c 'exit 9'": 9,
    "kill -9 $$": 137,
    "kill -TERM $$": 143,
    "kill -INT $$": 130,
    "kill -PIPE $$": 141,
    "trap 'exit 7' EXIT; exit 1": 7,
    "trap 'exit 8' TERM; kill -TERM $$; exit 1": 8,
    "set +e; false; true": 0,
    "false; echo no": 1,
    "false | true": 0,
    "nosuchcommand": 127,
    "exec >&- 2>&-; exit 4": 4,
    "exec >/dev/null; echo no; exit 5": 5,
    "(exit 6)": 6,
    "if": 2,
}


def skipped(item: Skipped) -> None:
    raise AssertionError(item)


def test_a_step_ends_with_its_own_exit_code_and_another_runs(job: Job) -> None:
    for script, code in ENDS.items():
        ran = job.run(script)
        assert (script, ran.code, ran.exit.ended) == (script, code, Ended.EXITED)
        assert b"no" not in ran.out
        assert job.run("echo next").out == b"next\n", script


TEXTS = [
    b"plain\n",
    b"no newline",
    b"\xff\xfe\x80\n",
    b"a\r\nb\r\n",
    b"10%\r20%\r\x1b[K",
    b"\x1e",
    b"\x1eloom:",
    b"\x00\x01\x02",
    b"\n\n",
]


def test_output_is_exact(site: Site) -> None:
    """Also every byte many times, and a long line."""
    for number, text in enumerate(TEXTS):
        (site.workspace / f"text{number}").write_bytes(text)
    content = bytes(range(256)) * 4096 * effort(4, 12) + b"x" * effort(20_000_000, 50_000_000)
    (site.workspace / "binary").write_bytes(content)
    with site.job() as job:
        for number, text in enumerate(TEXTS):
            ran = job.run(f"cat text{number}; cat text{number} >&2")
            assert (ran.code, ran.out, ran.err) == (0, text, text)
        ran = job.run("cat binary")
    assert (ran.out == content, ran.err) == (True, b"")


def test_both_streams_at_once(job: Job) -> None:
    ran = job.run("i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done")
    assert ran.out == b"".join(b"out %d\n" % i for i in range(20000))
    assert ran.err == b"".join(b"err %d\n" % i for i in range(20000))


def test_output_is_live(job: Job) -> None:
    """The step ends only after its first line was heard."""
    let = lambda: job.session.inside({}).exec(["sh", "-c", "echo >go"], lambda *_: None, Cancel())  # noqa: E731
    ran = job.run("echo first; while [ ! -e go ]; do sleep 0.02; done; echo second", timeout_s=60, then=let)
    assert (ran.exit.ended, ran.out) == (Ended.EXITED, b"first\nsecond\n")


def test_merged_output_is_one_stream_in_exact_order(job: Job) -> None:
    """Of two pipes, the kernel keeps no order: every fifth to tenth of these pairs was recorded reversed."""
    pairs = "i=0; while [ $i -lt 2000 ]; do echo a$i; echo b$i >&2; i=$((i+1)); done; ls /not-there"
    ran = job.run(pairs, merge_output=True)
    lines = ran.out.decode().splitlines()
    assert ran.err == b""
    assert lines[:-1] == [f"{stream}{number}" for number in range(2000) for stream in "ab"]
    assert "/not-there" in lines[-1]
    assert job.run("echo next; echo again >&2").err == b"again\n"


def test_a_step_starts_in_the_workspace_whatever_the_last_one_did(job: Job) -> None:
    where = job.run("pwd; cd /; export X=1; umask 000; Y=2").out
    assert where.decode().strip() == job.project_dir
    assert job.run('pwd; echo "[$X$Y]"').out == where + b"[]\n"


def test_steps_share_the_workspaces_files(files_site: Site) -> None:
    (files_site.workspace / "given").write_text("from outside\n")
    with files_site.job() as job:
        job.run("cat given; echo made >made")
        assert job.run("cat given made").out == b"from outside\nmade\n"


def test_standard_input_is_empty(job: Job) -> None:
    assert job.run("cat; read x || echo end").out == b"end\n"
    assert job.run("echo next").out == b"next\n"


def test_variables_hold_every_byte_but_nul(site: Site) -> None:
    with site.job(environment={"SESSION": EVERY_BYTE, "BOTH": "session"}) as job:
        ran = job.run(
            'printf "%s" "$SESSION$STEP$BOTH"', environment={"STEP": EVERY_BYTE + "\n'\"$(echo no)`", "BOTH": "step"}
        )
        assert ran.out == bytes(range(1, 256)) * 2 + b"\n'\"$(echo no)`step"
        assert job.run('printf "[%s]" "$STEP$BOTH"').out == b"[session]"


def test_a_script_holds_every_byte_but_nul(job: Job) -> None:
    ran = job.run(f"cat <<'END'\n{EVERY_BYTE}\nEND\n")
    assert ran.out == bytes(range(1, 256)) + b"\n"


def test_a_script_of_200_kilobytes(job: Job) -> None:
    script = "".join(f"x={i} # {'é' * 40}\n" for i in range(2300)) + "echo $x"
    assert len(script.encode()) > 200_000
    assert job.run(script).out == b"2299\n"


# Of the job, not of the run: the others go on.
def test_what_no_shell_can_take_is_refused(job: Job) -> None:
    for environment in ({"A-B": "1"}, {"A": "nul\0"}, {"": "x"}, {"1A": "x"}):
        with pytest.raises(ProviderError):
            job.run("true", environment=environment)
    with pytest.raises(ProviderError):
        job.run("echo \0")
    assert job.run("echo next").out == b"next\n"


def test_variables_are_handed_on_through_a_file(site: Site) -> None:
    with site.job() as job:
        job.run('echo "A=1" >>"$LOOM_ENV"; printf "B=it\'s \\$x \\\\\\\\ =\\nnonsense\\n=\\nC=\\n" >>"$LOOM_ENV"')
        assert job.session.handed_on() == {"A": "1", "B": "it's $x \\ =", "C": ""}
        job.run('test ! -s "$LOOM_ENV"')
        job.run('printf "A=2\\nD<<END\\none\\n\\n two\\nEND\\nE=last" >>"$LOOM_ENV"; exit 1')
        assert job.session.handed_on() == {"A": "2", "B": "it's $x \\ =", "C": "", "D": "one\n\n two", "E": "last"}
        ran = job.run('printf "%s" "$D"', environment=job.session.handed_on())
        assert ran.out == b"one\n\n two"
        value = "x" * 100_000
        job.run(f'printf "F=%s\\n" {value} >>"$LOOM_ENV"')
        assert job.session.handed_on()["F"] == value


def test_a_step_has_files_to_report_in_and_another_directory(job: Job) -> None:
    files = {"OUT": "output", "ADDED": "path"}
    job.run("mkdir -p 'a b'", files=files)
    ran = job.run('echo x=1 >>"$OUT"; printf /bin >"$ADDED"; pwd', files=files, start_in="a b")
    assert ran.out.endswith(b"/a b\n")
    assert {**job.session.reported()} == {"output": [b"x=1"], "path": [b"/bin"]}
    assert job.run('test ! -s "$OUT"', files=files).code == 0
    assert job.session.reported() == {}
    missing = job.run("echo no", start_in="nowhere")
    assert (missing.code, missing.out) == (1, b"")
    assert b"nowhere" in missing.err


def test_the_shell_can_be_another(job: Job) -> None:
    bash = ("bash", "-eo", "pipefail")
    assert job.run("false | true", shell=bash).code == 1
    assert job.run("[[ a == a ]] && echo yes", shell=bash).out == b"yes\n"
    assert job.run("false | true; echo $0", shell=("sh", "{0}")).code == 0
    missing = job.run("true", shell=("no-such-shell", "-x"))
    assert missing.code == 127
    assert b"no-such-shell" in missing.err
    assert job.run("echo next").out == b"next\n"


def test_a_background_child_does_not_hold_the_step_and_loses_nothing(site: Site) -> None:
    """Neither between two steps nor before the end."""
    with site.job() as job:
        ran = job.run("(while [ ! -e let ]; do sleep 0.02; done; echo late; echo >ended) & echo now")
        assert ran.out == b"now\n"
        assert job.run("echo >let; while [ ! -e ended ]; do sleep 0.02; done; echo next").out == b"late\nnext\n"
        job.run("(sleep 0.2; echo last; echo last >&2; echo >printed; sleep 30; echo never; echo never >never) &")
        printed = ["sh", "-c", "while [ ! -e printed ]; do sleep 0.02; done"]
        assert job.session.inside({}).exec(printed, lambda *_: None, Cancel(), timeout_s=60).code == 0
    assert (job.heard.out, job.heard.err) == (b"last\n", b"last\n")
    assert not (site.workspace / "never").exists()


def test_a_timeout_ends_everything_that_the_step_started(site: Site, clock: Clock) -> None:
    mark = f"600.{secrets.randbelow(10**9):09}"  # on this machine, those of tests in containers can be seen too
    with site.job(grace_s=5.0) as job:
        job.run(f"sleep {mark} &")
        with promptly():
            script = f"(setsid sh -c 'sleep {mark}; true' &) ; sleep {mark} & echo now; sleep 600"
            ran = job.run(script, timeout_s=3600, then=clock.hour)
        assert ran.exit.ended is Ended.TIMED_OUT
        assert ran.out == b"now\n"
        # What is killed stands in /proc until the kernel has run it for the last time.
        seen = f"grep -qs '[6]{mark[1:]}' /proc/[0-9]*/cmdline"
        assert job.run(f"for _ in $(seq 1000); do {seen} || exit 0; sleep 0.02; done; exit 1").code == 0
        assert job.run("echo next").out == b"next\n"


def test_a_step_has_time_to_clean_up_and_no_more(site: Site, clock: Clock) -> None:
    with site.job(grace_s=300.0) as job, promptly():
        sleeps = "sleep 600 & until grep -q ^sleep /proc/$!/cmdline; do :; done"
        script = f"trap 'echo cleaning; exit 3' TERM; {sleeps}; echo up; wait"
        ran = job.run(script, timeout_s=3600, then=clock.hour)
        assert (ran.exit.ended, ran.code, ran.out) == (Ended.TIMED_OUT, 3, b"up\ncleaning\n")
        assert ran.exit.still_ran == ("sleep 600",)
    with site.job(grace_s=1.0) as job:
        with promptly():
            ran = job.run("trap '' TERM; echo up; while :; do sleep 0.1; done", timeout_s=3600, then=clock.hour)
        assert (ran.exit.ended, ran.code) == (Ended.TIMED_OUT, 137)
        assert ran.seconds >= 1.0
        assert job.run("echo next").out == b"next\n"


def test_a_cancel_ends_the_step_and_no_other_runs(job: Job) -> None:
    cancel = Cancel()
    with promptly():
        script = "trap 'echo cleaning; exit 3' TERM; echo up; sleep 600 & wait"
        ran = job.run(script, cancel=cancel, then=cancel.request)
    assert (ran.exit.ended, ran.code, ran.out) == (Ended.CANCELED, 3, b"up\ncleaning\n")
    assert job.run("echo no", cancel=cancel).exit.ended is Ended.CANCELED
    # What has to run after all (after_script) brings a flag of its own.
    assert job.run("echo after").out == b"after\n"


def test_a_second_cancel_gives_no_time(site: Site) -> None:
    cancel = Cancel()
    with site.job(grace_s=300.0) as job:
        again = threading.Timer(0.3, cancel.request)
        with promptly():
            script = "trap '' TERM; echo up; while :; do sleep 0.1; done"
            ran = job.run(script, cancel=cancel, then=lambda: (cancel.request(), again.start()))
        again.join()
        assert (ran.exit.ended, ran.code) == (Ended.CANCELED, 137)


def test_a_secret_is_a_file_outside_the_workspace_for_the_job_alone(site: Site) -> None:
    content = bytes(range(256)) + b"\\n\\0%s%%"
    with site.job() as job:
        path = job.session.put_secret("KEY", content)
        ran = job.run(f'cat "{path}"; ls -l "{path}" >&2')
        assert ran.out == content
        assert ran.err.startswith(b"-rw-------")
        assert job.run("ls -A").out == b""
        for name in ("", "..", "a/b"):
            with pytest.raises(RequestError):
                job.session.put_secret(name, b"")
    from pathlib import Path

    assert not Path(path).exists()


def test_archives_go_in_and_out_of_the_jobs_view(files_site: Site) -> None:
    incoming = io.BytesIO()
    with tarfile.open(fileobj=incoming, mode="w") as archive:
        for name, mode in (("dist/tool", 0o755), ("dist/data", 0o644)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = 3, mode
            archive.addfile(member, io.BytesIO(b"in\n"))
    with files_site.job() as job:
        view = view_of(job.session.files())
        view.write(lambda: nullcontext(io.BytesIO(incoming.getvalue())))
        assert job.run("cat dist/data; test -x dist/tool; test ! -x dist/data").out == b"in\n"
        job.run("mkdir -p out/deep; echo deep >out/deep/file; ln -s deep/file out/link; echo alone >alone")
        found = {}
        for entry, content in view.read(PathSelection(["out", "alone", "missing"]), skipped):
            found[entry.path] = content.read() if content is not None else entry.target
        assert found == {
            "alone": b"alone\n",
            "out": "",
            "out/deep": "",
            "out/deep/file": b"deep\n",
            "out/link": "deep/file",
        }
        assert "dist/tool" in [entry.path for entry, _ in view.read(Everything("."), skipped)]


@pytest.mark.parametrize(("name", "make"), [("LOOM_ENV", "mkfifo"), ("LOOM_MASK", "mkdir")])
def test_a_steps_file_that_became_something_else_is_no_hang(site: Site, name: str, make: str) -> None:
    with site.job() as job:
        assert job.run(f"rm ${name}; {make} ${name}", timeout_s=30).code == 0
        with pytest.raises(ProviderError) as refused:
            job.run("echo next", timeout_s=30)
        assert "in the place of $LOOM_ENV or $LOOM_MASK" in str(refused.value.hint)


def test_a_command_beside_the_steps_stands_where_they_do(site: Site) -> None:
    """Also before the first step: a person may stop at it."""
    (site.workspace / "file").write_text("from the snapshot")
    with site.job(environment={"OF_JOB": "a"}) as job:
        heard: list[bytes] = []
        inside = job.session.inside({"OF_STEP": "b"})
        ended = inside.exec(
            ["sh", "-c", 'cat file; echo "$OF_JOB$OF_STEP"; exit 5'], lambda _, data: heard.append(data), Cancel()
        )
        assert (ended.code, ended.ended, b"".join(heard)) == (5, Ended.EXITED, b"from the snapshotab\n")
        assert inside.exec(["nosuchcommand"], lambda *_: None, Cancel()).code == 127
        assert inside.exec(["sleep", "60"], lambda *_: None, Cancel(), timeout_s=0.5).ended is Ended.TIMED_OUT
        assert job.run("cat file").out == b"from the snapshot"


def test_a_step_that_kills_the_driver_on_this_machine_ends_the_job_as_its_own_failure(host_site: Site) -> None:
    with host_site.job() as job:
        assert job.run("kill -9 $PPID; sleep 5").code == 137
        ran = job.run("sleep 600.5 & echo before; kill -9 0; sleep 5")
        assert (ran.code, ran.exit.ended, ran.exit.ended_session, ran.out) == (137, Ended.EXITED, True, b"before\n")
        with pytest.raises(ProviderError, match="has ended its session"):
            job.run("echo next")
