"""Going back into a failed job: keep, exec, shell, resume, rerun, pull; on a real engine, and on a real terminal."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import docker
import pexpect
import pytest

from loom.providers.docker.container.cleanup import remove_run
from tests.support.connections import serve_each
from tests.support.effort import effort
from tests.support.own_engine import load_busybox
from tests.support.waiting import until

from .conftest import SLEEPS, Project, Ran, ended

pytestmark = pytest.mark.docker

MODES = ("bind_mount", "overlay", "ephemeral_volume")
FAILING = """
version: v1
stages: [build, test]
unit:
  stage: build
  image: debian:trixie-slim
  variables: {COLOUR: green}
  secrets:
    TOKEN: {ref: "env://MY_TOKEN", file: false}
    KEY: {ref: "env://MY_TOKEN"}
  script:
    - echo "GREETING=hello $TOKEN" >> $LOOM_ENV; echo made > made.txt; echo outside > /etc/outside; rm doomed
    - |
      echo "looking"
      test -e fixed
    - cat made.txt /etc/outside; echo "$GREETING" | wc -c
after:
  stage: test
  image: debian:trixie-slim
  script: ["echo after"]
"""
SECRET = "hunter2-correct-horse"
# The engine starts a command with a terminal of no size, and sets the size a moment later.
DRAWS = (
    "stty raw -echo; while stty size | grep -q ^0; do :; done; echo size $(stty size); dd bs=1 count=1 2>/dev/null | od -c; while ! stty size | grep -q 120; do :; done;"
    " echo size $(stty size); dd bs=1 count=1 2>/dev/null | od -An -tx1 | grep -q 03 && exit 7"
)
PROMPT = r"\[unit\] [^\r\n]*[#$] "


@pytest.fixture
def failing(project: Project) -> Iterator[Project]:
    project.write("doomed", "x\n")
    project.workflow(FAILING)
    yield project
    clean(project)


@pytest.fixture(scope="module")
def kept(project_of_module: Project) -> Iterator[Project]:
    """For tests that look into a kept container, and leave it as it was."""
    project_of_module.write("doomed", "x\n")
    project_of_module.workflow(FAILING)
    assert run(project_of_module).code == 1
    yield project_of_module
    clean(project_of_module)


@pytest.fixture
def debugged(project: Project) -> Iterator[Project]:
    yield project
    clean(project)


def clean(project: Project) -> None:
    client = docker.from_env()
    try:
        runs = [path.parent.name for path in project.record_files("run.json")]
        for run in sorted(runs, reverse=True):
            assert [left.problem for left in remove_run(client, run) if left.problem] == []
        for run in runs:
            label = {"label": f"loom.run={run}"}
            assert client.containers.list(all=True, filters=label) == []
            assert client.volumes.list(filters=label) == []
            assert client.networks.list(filters=label) == []
            assert client.images.list(filters=label) == []
    finally:
        client.close()


def loom(project: Project, *arguments: str) -> Any:
    return project.loom(*arguments, MY_TOKEN=SECRET)


def run(project: Project, *arguments: str) -> Any:
    return project.run("--keep", "on-failure", *arguments, MY_TOKEN=SECRET)


def containers_of(run_id: str) -> list[Any]:
    client = docker.from_env()
    try:
        return client.containers.list(all=True, filters={"label": f"loom.run={run_id}"}, ignore_removed=True)
    finally:
        client.close()


def run_id_of(project: Project) -> str:
    (path,) = project.record_files("run.json")
    return path.parent.name


# -- keep and exec


def test_only_the_last_runs_with_kept_jobs_stay(failing: Project) -> None:
    first, second, third = (run(failing) for _ in range(3))
    shown = failing.loom("clean", "--dry-run", LOOM_KEEP_WORKSPACES="2")
    assert f"would remove {first.workspace}" in shown.out
    assert str(second.workspace) not in shown.out
    assert containers_of(first.receipt["run_id"])
    cleaned = failing.loom("clean", LOOM_KEEP_WORKSPACES="2")
    assert cleaned.code == 0, cleaned.err
    assert not first.workspace.exists()
    assert containers_of(first.receipt["run_id"]) == []
    for ran in (second, third):
        assert ran.workspace.exists()
        assert loom(failing, "exec", ran.receipt["run_id"], "unit", "--", "true").code == 0


REPAIR = (
    "echo fixed > fixed; mkdir -p 'deep er'; ln -s ../fixed 'deep er/link'; chmod +x README; head -c 99 /dev/zero > bin"
)


@pytest.mark.parametrize("mode", MODES)
def test_a_failed_job_is_kept_entered_and_gone_on_from_and_its_repair_is_pulled(failing: Project, mode: str) -> None:
    ran = run(failing, "--mount-mode", mode)
    assert ran.code == 1
    run_id = ran.receipt["run_id"]
    assert f"look inside: loom shell {run_id} unit" in ran.out
    assert ran.manifest("unit")["kept"]["step"] == "script/02"
    inside = loom(
        failing,
        *("exec", "unit", "--", "sh", "-c"),
        'echo "$GREETING|$TOKEN|$(cat $KEY)|$COLOUR|$LOOM_STEP|$PWD|$(umask)"; ls; cat /etc/outside; exit 9',
    )
    assert inside.code == 9, inside.err
    first, *rest = inside.out.splitlines()
    assert first == f"hello {SECRET}|{SECRET}|{SECRET}|green|script/02|/workspace|0022"
    assert "made.txt" in rest
    assert "doomed" not in rest
    assert rest[-1] == "outside"

    again = loom(failing, "resume")
    assert again.code == 1, again.out + again.err
    assert "goes on from script/02, in its kept container" in again.out
    extent = again.receipt["extent"]
    assert (extent["parent_run_id"], extent["proof"]) == (run_id, False)
    assert [one["how"] for one in extent["assisted"]] == ["exec"], "what the steps changed is no edit"
    assert extent["tree_sha"] is None, "the command may have changed files"
    assert [(one["job_id"], one["from_step"]) for one in extent["reused"]] == [("unit", "script/02")]

    assert loom(failing, "exec", "unit", "--", "sh", "-c", REPAIR).code == 0
    assert loom(failing, "pull").code == 0  # what it lays out is older than what the job leaves
    healed = loom(failing, "resume")
    assert healed.code == 0, healed.out + healed.err
    assert healed.output("unit", "script/03") == ["made", "outside", str(len(f"hello {SECRET}\n"))]
    assert healed.output("after") == ["after"]
    assert failing.leftovers() == []
    for file in (failing.home / ".local/state/loom").rglob("*"):
        assert not (file.is_file() and SECRET.encode() in file.read_bytes()), file

    assert {path.stat().st_mode & 0o777 for path in failing.record_files("saved/unit.zst")} == {0o600}
    pulled = loom(failing, "pull", "--apply")
    assert pulled.code == 0, pulled.out + pulled.err
    assert (failing.root / "fixed").read_text() == "fixed\n"
    # The places are gone, and the workspace: the record of the run that failed has the repair as well.
    failing.git("checkout", "-q", ".")
    failing.git("clean", "-qfd")
    for path in failing.tmp.glob("*/loom-run-local-*"):
        shutil.rmtree(path)
    pulled = loom(failing, "pull", again.receipt["run_id"], "unit", "--apply")
    assert pulled.code == 0, pulled.out + pulled.err
    assert (failing.root / "fixed").read_text() == "fixed\n"
    assert (failing.root / "deep er/link").readlink() == Path("../fixed")
    assert os.access(failing.root / "README", os.X_OK)
    assert (failing.root / "bin").read_bytes() == bytes(99)
    assert not (failing.root / "doomed").exists()


def test_without_its_container_a_job_is_not_gone_on_from(failing: Project) -> None:
    ran = run(failing)
    for container in containers_of(ran.receipt["run_id"]):
        container.remove(force=True, v=True)
    refused = loom(failing, "resume")
    assert refused.code == 2, refused.out + refused.err
    assert "job unit has no container to continue in: it was kept, and is gone" in refused.err
    assert "loom rerun" in refused.err


@pytest.mark.parametrize("mode", MODES[:2])
def test_a_kept_container_whose_files_somebody_removed_is_not_taken_for_a_job_that_deleted_them(
    failing: Project, mode: str
) -> None:
    ran = run(failing, "--mount-mode", mode)
    for workspace in failing.tmp.glob("*/loom-run-local-*[0-9]"):
        shutil.rmtree(workspace)
    for command in (["pull", "unit", "--apply"], ["exec", "unit", "--", "true"], ["resume"]):
        refused = loom(failing, *command)
        assert refused.code == (125 if command[0] == "exec" else 2), refused.out + refused.err
        assert "files" in refused.err.splitlines()[0]
    assert (failing.root / "README").exists()
    assert failing.loom("clean", ran.receipt["run_id"]).code == 0


def test_a_command_that_closes_its_output_is_waited_for(kept: Project) -> None:
    closed = "exec >&- 2>&-; sleep 2; exit 6"
    assert loom(kept, "exec", "unit", "--", "sh", "-c", closed).code == 6
    assert loom(kept, "exec", "--timeout", "1s", "unit", "--", "sh", "-c", closed.replace("2;", "60;")).code == 4


def test_many_commands_at_once_are_all_run(kept: Project) -> None:
    with ThreadPoolExecutor(effort(10, 40)) as many:
        numbers = range(effort(12, 5000))
        done = list(many.map(lambda n: loom(kept, "exec", "unit", "--", "sh", "-c", f"exit {n % 100}"), numbers))
    assert [one.err for one in done if one.code == 125] == []
    assert [(one.code, n, one.out, one.err) for one, n in zip(done, numbers, strict=True) if one.code != n % 100] == []


STAYS = """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  script: ["echo up; test ! -e again || sleep 100", "exit 1"]
"""


class Cut:
    """Passes the engine's socket on, until the connections that are open then are cut."""

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self._open: list[socket.socket] = []
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        serve_each(listener, self._serve)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect("/var/run/docker.sock")
            self._open += (client, engine)
            back = threading.Thread(target=self._pass, args=(engine, client), daemon=True)
            back.start()
            self._pass(client, engine)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def test_a_kept_container_stays_when_a_resume_loses_its_engine(debugged: Project) -> None:
    debugged.workflow(STAYS)
    run(debugged)
    assert loom(debugged, "exec", "unit", "--", "sh", "-c", "echo kept > again").code == 0
    between = Cut(debugged.tmp / "cut.sock")
    lost = debugged.start("resume", "--from", "unit:1", "--stream", DOCKER_HOST=between.url)
    assert lost.stdout is not None
    until(lambda: "up" in lost.stdout.readline(), while_runs=lost)
    between.cut()
    out, err = lost.communicate(timeout=60)
    assert lost.returncode == 3, out + err
    assert loom(debugged, "exec", "unit", "--", "sh", "-c", "cat again; rm again").out == "kept\n"
    assert "unit goes on from script/01, in its kept container" in loom(debugged, "resume").out


def test_a_command_ends_with_a_loom_that_is_killed_at_once(kept: Project) -> None:
    script = "echo in; exec sleep 12345"
    begun = kept.start("exec", "unit", "--", "sh", "-c", script, MY_TOKEN=SECRET)
    assert begun.stdout is not None
    assert begun.stdout.readline() == "in\n"
    begun.kill()
    begun.communicate()
    look = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep 12345'"
    until(lambda: loom(kept, "exec", "unit", "--", "sh", "-c", look).out == "0\n")


@pytest.mark.parametrize("name", ["QUIT", "USR1", "USR2"])
def test_a_signal_that_asks_for_no_end_is_the_commands_alone(kept: Project, name: str) -> None:
    child = "(trap 'echo child >told' USR1 USR2; sleep 100 >&- 2>&- & echo in; wait) &"
    script = f"{child} trap 'sleep 0.2; cat told; echo got; kill %1; exit 9' {name}; while :; do wait; done"
    begun = kept.start("exec", "unit", "--", "sh", "-c", script, MY_TOKEN=SECRET)
    assert begun.stdout is not None
    assert begun.stdout.readline() == "in\n"
    begun.send_signal(getattr(signal, f"SIG{name}"))
    out, err = begun.communicate(timeout=60)
    assert (begun.returncode, out) == (9, "got\n"), err


@pytest.mark.parametrize(("mode", "number"), [("bind_mount", signal.SIGINT), ("overlay", signal.SIGKILL)])
def test_a_second_resume_is_refused_and_names_the_first(debugged: Project, mode: str, number: signal.Signals) -> None:
    debugged.workflow(STAYS)
    ran = run(debugged, "--mount-mode", mode)
    assert loom(debugged, "exec", "unit", "--", "sh", "-c", "echo kept > again").code == 0
    first = debugged.start("resume", "--from", "unit:1", "--stream")
    try:
        assert first.stdout is not None
        until(lambda: "up" in first.stdout.readline())
        for command in (["resume", ran.receipt["run_id"]], ["exec", ran.receipt["run_id"], "unit", "--", "true"]):
            refused = loom(debugged, *command)
            assert refused.code == (125 if command[0] == "exec" else 2), refused.out + refused.err
            assert f"is in use by `loom resume --from` (process {first.pid}) since " in refused.err
        first.send_signal(number)
        first.communicate(timeout=60)
        assert first.returncode in (-number, 128 + number)
    finally:
        first.kill()
        first.communicate()
    # It was interrupted in the kept container, which stays, with what was made by hand.
    assert loom(debugged, "exec", "unit", "--", "sh", "-c", "cat again; rm again").out == "kept\n"
    assert "unit goes on from script/01, in its kept container" in loom(debugged, "resume").out


def test_a_resume_is_refused_while_somebody_stands_in_the_container(failing: Project) -> None:
    run(failing)
    standing = failing.start("exec", "unit", "--", "sh", "-c", "echo in; exec sleep 100", MY_TOKEN=SECRET)
    try:
        assert standing.stdout is not None
        assert standing.stdout.readline() == "in\n"
        assert loom(failing, "exec", "unit", "--", "true").code == 0
        refused = loom(failing, "resume")
        assert refused.code == 2
        assert f"is in use by `loom exec unit` (process {standing.pid}) since " in refused.err
    finally:
        standing.send_signal(signal.SIGTERM)
        standing.communicate(timeout=60)
    assert "goes on from script/02" in loom(failing, "resume").out


def expire(ran: Ran) -> None:
    """Let the time of a kept job be over."""
    manifest = ran.logs / "jobs/unit/manifest.json"
    document = json.loads(manifest.read_text())
    document["kept"]["expires_at"] = "2020-01-01T00:00:00.000000Z"
    manifest.write_text(json.dumps(document))


def test_nothing_of_a_run_with_a_kept_container_goes_while_no_engine_answers(failing: Project) -> None:
    ran = run(failing, "--mount-mode", "bind_mount")
    run_id = ran.receipt["run_id"]
    down = {"DOCKER_HOST": "unix:///nonexistent"}
    for which in ((run_id,), ("--keep-last", "0")):
        refused = failing.loom("clean", *which, **down)
        assert refused.code == 3, refused.out + refused.err
        assert "its sessions on docker are left: no Docker engine answers" in refused.out
    assert failing.loom("pull", run_id, "unit", **down).out.endswith("+made\n"), "its files are here"
    assert failing.loom("verify", run_id, "unit", **down).code == 1
    assert loom(failing, "exec", run_id, "unit", "--", "cat", "made.txt").out == "made\n"
    assert failing.loom("clean", run_id).code == 0
    assert containers_of(run_id) == []


@pytest.mark.parametrize("mode", MODES[::2])
def test_an_expired_container_goes_when_nobody_is_in_it_and_its_changes_stay(failing: Project, mode: str) -> None:
    ran = run(failing, "--mount-mode", mode)
    run_id = ran.receipt["run_id"]
    assert re.search(rf"look inside: loom shell {run_id} unit \(kept until [-0-9]+ [0-9:]+, [0-9.]+ ?k?B\)", ran.out)
    assert re.search(r"kept until \S+ \S+ the container of unit in ", failing.loom("clean", "--dry-run").out)
    name = ran.manifest("unit")["kept"]["container_name"]
    expire(ran)

    standing = failing.start(
        "exec", "unit", "--", "sh", "-c", "echo fixed > fixed; echo in; exec sleep 100", MY_TOKEN=SECRET
    )
    try:
        assert standing.stdout is not None
        assert standing.stdout.readline() == "in\n"
        listed = failing.loom("clean", "--dry-run")
        assert f"in use by `loom exec unit` (process {standing.pid})" in listed.out
        assert failing.loom("clean").code == 0
        assert len(containers_of(run_id)) == 1
        refused = failing.loom("clean", run_id)
        assert refused.code == 2, refused.out
    finally:
        standing.send_signal(signal.SIGTERM)
        standing.communicate(timeout=60)

    assert "would remove the container of unit in" in failing.loom("clean", "--dry-run").out
    cleaned = failing.loom("clean", "--json")
    assert cleaned.code == 0, cleaned.out + cleaned.err
    (gone,) = json.loads(cleaned.out)["items"]
    assert (gone["name"], gone["removed"], gone["problems"]) == (name, True, [])
    assert failing.leftovers() == []
    for path in failing.tmp.glob("*/loom-run-local-*"):
        shutil.rmtree(path)
    assert "+fixed" in failing.loom("pull", run_id, "unit").out


def test_the_changes_of_a_job_that_destroyed_its_repository_are_saved(failing: Project) -> None:
    ran = run(failing, "--mount-mode", "ephemeral_volume")
    command = "echo fixed > fixed; rm -r .git; echo gone > .git"
    assert loom(failing, "exec", "unit", "--", "sh", "-c", command).code == 0
    expire(ran)
    assert failing.loom("clean").code == 0
    assert failing.leftovers() == []
    assert "+fixed" in failing.loom("pull", ran.receipt["run_id"], "unit").out


def test_no_more_is_kept_than_its_limit(debugged: Project) -> None:
    debugged.workflow(
        """
version: v1
stages: [test]
small: {stage: test, image: debian:trixie-slim, script: ["head -c 1000000 /dev/zero > /opt/a; exit 1"]}
large: {stage: test, image: debian:trixie-slim, script: ["head -c 3000000 /dev/zero > /opt/a; exit 1"]}
"""
    )
    first = debugged.run("--keep", "on-failure", LOOM_KEEP_MAX_SIZE="2m")
    assert "its container takes 3.0 MB, and at most 2.1 MB are kept (keep_max_size)" in first.out
    assert "look inside: loom shell" in first.out
    refused = loom(debugged, "resume")
    assert "job large has no container to continue in: its container takes 3.0 MB" in refused.err
    assert "--keep" not in refused.err
    second = debugged.run("--keep", "on-failure", LOOM_KEEP_MAX_SIZE="2m")
    listed = debugged.loom("clean", "--dry-run", LOOM_KEEP_MAX_SIZE="1500k")
    assert f"would remove the container of small in {first.receipt['run_id']}" in listed.out
    assert debugged.loom("clean", LOOM_KEEP_MAX_SIZE="1500k").code == 0
    assert containers_of(first.receipt["run_id"]) == []
    assert len(containers_of(second.receipt["run_id"])) == 1


def test_the_size_of_a_kept_container_counts_its_volume(failing: Project) -> None:
    failing.write("large", "x" * 3_000_000)
    ran = failing.run(
        "--keep", "on-failure", "--mount-mode", "ephemeral_volume", MY_TOKEN=SECRET, LOOM_KEEP_MAX_SIZE="2m"
    )
    assert "and at most 2.1 MB are kept (keep_max_size)" in ran.out
    assert failing.leftovers() == []


def test_a_kept_container_that_was_stopped_wakes_with_its_services(debugged: Project) -> None:
    debugged.workflow(
        """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  secrets: {KEY: {ref: "env://MY_TOKEN"}}
  services:
    - name: web
      image: debian:trixie-slim
      command: [bash, -c, "exec 3<>/dev/null; sleep 100000"]
      ready: {command: ["true"]}
  script: ["getent hosts web", "test -e fixed"]
"""
    )
    ran = run(debugged)
    assert ran.code == 1, ran.out + ran.err
    kept = containers_of(ran.receipt["run_id"])
    assert len(kept) == 2
    for container in kept:
        container.kill()
    inside = loom(debugged, "exec", "unit", "--", "sh", "-c", "getent hosts web; cat $KEY; touch fixed")
    assert inside.code == 0, inside.err
    assert "web" in inside.out
    assert SECRET in inside.out
    assert "was stopped and runs again" in inside.err
    healed = loom(debugged, "resume")
    assert healed.code == 0, healed.out + healed.err
    assert debugged.leftovers() == []


def test_a_kept_service_does_not_start_again_without_its_secrets(debugged: Project) -> None:
    debugged.workflow(
        """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  services:
    - name: web
      image: debian:trixie-slim
      secrets: {KEY: {ref: "env://MY_TOKEN"}}
      command: [sh, -c, "cat $KEY_FILE; echo; echo up; exec sleep 100000"]
      ready: {log: ^up$}
  script: ["test -e fixed"]
"""
    )
    ran = run(debugged)
    assert ran.code == 1, ran.out + ran.err
    kept = containers_of(ran.receipt["run_id"])
    assert loom(debugged, "exec", "unit", "--", "getent", "hosts", "web").code == 0
    for container in kept:
        container.kill()
    inside = loom(debugged, "exec", "unit", "--", "true")
    assert inside.code == 125
    assert "has ended, and its secrets are gone" in inside.err
    assert loom(debugged, "clean", "--keep-last", "0").code == 0
    assert debugged.leftovers() == []


def test_outside_of_a_repository_no_other_ones_run_is_taken(kept: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for command in (["rerun"], ["resume"], ["pull", "--apply"]):
        done = subprocess.run(
            [sys.executable, "-m", "loom", *command], cwd=outside, env=kept.environ, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"loom: no run of {outside} yet\n")


def test_exec_ends_when_nobody_reads_any_more(kept: Project) -> None:
    # Much more than the engine has room for in between.
    command = f"{sys.executable} -m loom exec unit -- cat /dev/zero </dev/null"
    done = subprocess.run(
        ["bash", "-c", f"({command}; echo $? >&2) | head -c 10 | wc -c"],
        cwd=kept.root,
        env={**kept.environ, "MY_TOKEN": SECRET},
        capture_output=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"10\n", b"141\n")


def test_exec_ends_and_says_so_when_its_output_has_no_room(kept: Project) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "loom", "exec", "unit", "--", "cat", "/dev/zero"],
            cwd=kept.root,
            env={**kept.environ, "MY_TOKEN": SECRET},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 125
    assert done.stderr.startswith("loom: standard output can't be written: No space left on device\n")
    names = "for f in /proc/[0-9]*/comm; do read -r name <$f && echo $name; done"
    assert "cat" not in loom(kept, "exec", "unit", "--", "sh", "-c", names).out.split()


def test_exec_passes_everything_through(kept: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loom", "exec", "unit", "--", "sh", "-c", "cat; echo err >&2; kill -9 $$"],
        cwd=kept.root,
        env={**kept.environ, "MY_TOKEN": SECRET},
        input=b"\x00\xffbytes",
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (137, b"\x00\xffbytes", b"err\n")
    asked = loom(kept, "exec", "unit", "--json", "--step", "1", "--", "sh", "-c", "echo [$GREETING]; exit 4")
    document = json.loads(asked.out)
    assert (asked.code, document["exit_code"], document["stdout"], document["step"]) == (4, 4, "[]\n", "script/01")
    late = loom(kept, "exec", "unit", "--timeout", "1s", "--", "sleep", "100")
    assert late.code == 4
    assert "ended after 1s" in late.err
    missing = loom(kept, "exec", "unit", "--", "no-such-command")
    assert missing.code == 127
    assert loom(kept, "exec", "nope", "--", "true").code == 125
    assert loom(kept, "exec", "unit", "--step", "9", "--", "true").code == 125
    assert loom(kept, "exec", "unit").code == 125
    assert loom(kept, "shell", "unit").code == 2  # no terminal


def test_a_signal_ends_the_command_inside(kept: Project) -> None:
    process = kept.start(
        *("exec", "unit", "--", "sh", "-c"),
        'trap "echo bye; exit 5" INT; echo up; while :; do sleep 0.1; done',
        MY_TOKEN=SECRET,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "bye\n")


@pytest.mark.parametrize("mode", MODES[::2])
def test_nothing_is_kept_where_no_person_is_and_new_containers_stand_in(failing: Project, mode: str) -> None:
    ran = failing.run("--mount-mode", mode, MY_TOKEN=SECRET)
    assert ran.code == 1
    assert "look inside" not in ran.out
    assert containers_of(ran.receipt["run_id"]) == []
    for text in ("one", "two"):
        command = f"echo $GREETING; echo {text} >>mine; cat made.txt; ls /etc/outside"
        inside = loom(failing, "exec", "unit", "--", "sh", "-c", command)
        assert inside.out == f"hello {SECRET}\nmade\n"
        assert inside.code == 2
        assert "nothing was kept" in inside.err
        assert ("what you change" in inside.err) == (mode == "ephemeral_volume"), inside.err
        assert failing.leftovers() == []
    resumed = loom(failing, "resume")
    assert resumed.code == 2
    assert "loom rerun" in resumed.err
    if mode == "ephemeral_volume":
        return  # nobody would bring the changes back, and loom says so
    assert loom(failing, "exec", "unit", "--", "cat", "mine", "made.txt").out == "one\ntwo\nmade\n"
    assert "+two" in loom(failing, "pull", "unit").out


# -- on a terminal


def test_the_shell_stands_where_the_step_failed(failing: Project) -> None:
    run(failing)
    shell = failing.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect("in the kept container of unit")
    shell.expect(PROMPT)
    shell.sendline("echo =$GREETING=$LOOM_STEP=; while stty size | grep -q ^0; do sleep 0.1; done; stty size")
    shell.expect(f"=hello {SECRET}=script/02=\r\n31 97\r\n")
    shell.expect(PROMPT)
    shell.setwinsize(40, 120)
    shell.sendline('until [ "$(stty size)" = "40 120" ]; do sleep 0.1; done; stty size')
    shell.expect("40 120\r\n")
    shell.expect(PROMPT)
    shell.sendline("history 10")
    shell.expect('1  echo "looking"\r\ntest -e fixed')
    shell.expect(PROMPT)
    shell.sendline("again; echo code=$?")
    shell.expect("looking\r\ncode=1")
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
    assert loom(failing, "resume").code == 0


def test_a_terminal_that_goes_away_takes_the_shell_with_it(kept: Project) -> None:
    shell = kept.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect(PROMPT)
    shell.sendline("sleep 12345")
    (container,) = containers_of(run_id_of(kept))
    until(lambda: "sleep 12345" in str(container.top()["Processes"]))
    shell.close(force=False)
    until(lambda: "sleep 12345" not in str(container.top()["Processes"]))


@pytest.mark.parametrize("options", [["--stop-at=failure"], ["--stop-at", "unit:2"]], ids=["failure", "before"])
def test_a_terminal_that_closes_in_a_run_leaves_its_record_and_the_repairs(
    failing: Project, options: list[str]
) -> None:
    running = failing.on_terminal("run", "--local", "--container", *options, MY_TOKEN=SECRET)
    running.expect(PROMPT)
    running.sendline("echo by-hand > repair; echo do'ne'")
    running.expect("done")
    os.close(running.child_fd)  # nothing but what the kernel does then
    assert os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1]) == 129
    (receipt,) = failing.record_files("receipts/*.json")
    assert json.loads(receipt.read_text())["exit_code"] == 129
    assert loom(failing, "exec", "unit", "--", "cat", "repair").out == "by-hand\n"


def test_a_shell_opens_before_a_step_of_after_script(debugged: Project) -> None:
    debugged.workflow(
        """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  script: ["true"]
  after_script: ["echo first", "echo left by-$(cat hand)"]
"""
    )
    running = debugged.on_terminal("run", "--local", "--stop-at", "unit:after_script/2", "--stream")
    running.expect("before step after_script/02 of unit")
    running.expect(PROMPT)
    running.sendline("echo hand > hand; exit")
    running.expect("left by-hand")
    assert ended(running) == 0


def test_a_shell_gets_every_key_at_once(kept: Project) -> None:
    shell = kept.on_terminal("shell", "unit", MY_TOKEN=SECRET)
    shell.expect(PROMPT)
    shell.send("\x10")  # the engine would hold it back for its ^P ^Q
    shell.expect("looking")
    shell.send("\x15exit 4\r")
    assert ended(shell) == 4


def test_a_loom_that_is_killed_takes_its_shell_and_its_command_with_it(kept: Project) -> None:
    (container,) = containers_of(run_id_of(kept))
    shell = kept.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect(PROMPT)
    shell.sendline("nohup sleep 12346 & sleep 12347")
    command = kept.start("exec", "unit", "--", "sh", "-c", "sleep 12348; echo", MY_TOKEN=SECRET)

    def all_there() -> bool:
        seen = str(container.top()["Processes"])
        return seen.count("loom_look() {") == 2 and all(f"sleep 1234{n}" in seen for n in (6, 7, 8))

    until(all_there)
    for process in (shell, command):
        os.kill(process.pid, signal.SIGKILL)
    command.communicate(timeout=60)
    until(lambda: "1234" not in str(container.top()["Processes"]))


def test_exec_on_a_terminal(kept: Project) -> None:
    """A program that draws: it has the window's size, also when that changes, and every key; the terminal is as it was."""
    assert (
        "a job of the last run" in loom(kept, "exec", "-t", "nosuch", "--", "true").err
    )  # before what a terminal mends
    refused = loom(kept, "exec", "-t", "unit", "--", "true")
    assert (refused.code, "requires an interactive terminal" in refused.err) == (125, True)
    shown = pexpect.spawn(
        "sh",
        [
            "-c",
            f"stty -a >before; {sys.executable} -m loom exec -t unit -- sh -c '{DRAWS}'; echo code=$?; stty -a >after",
        ],
        cwd=str(kept.root),
        env={**kept.environ, "MY_TOKEN": SECRET},
        encoding="utf-8",
        timeout=60,
        dimensions=(31, 97),
    )
    shown.expect("size 31 97")
    shown.setwinsize(40, 120)
    shown.send("a")
    shown.expect("size 40 120")
    shown.send("\x03")  # not a signal: the program set the terminal to raw mode
    shown.expect(r"code=7\r\n")
    assert ended(shown) == 0
    assert (kept.root / "before").read_text() == re.sub(
        "rows .*columns [0-9]+", "rows 31; columns 97", (kept.root / "after").read_text()
    )

    late = kept.on_terminal(
        "exec", "-t", "--timeout", "5s", "unit", "--", "sh", "-c", "echo up; sleep 100", MY_TOKEN=SECRET
    )
    late.expect("up")
    late.expect("was ended after 5s")
    assert ended(late) == 4


def test_a_shell_without_bash(debugged: Project, busybox: bytes) -> None:
    with closing(docker.from_env()) as client:
        load_busybox(client, busybox)
    debugged.workflow(
        "version: v1\nstages: [test]\nunit:\n  stage: test\n  image: ash:test\n"
        "  script: ['echo N=two >> $LOOM_ENV', 'echo now; exit 3']\n"
    )
    assert run(debugged).code == 1
    shell = debugged.on_terminal("shell", MY_TOKEN=SECRET)
    shell.expect(PROMPT)
    shell.sendline("again; echo code=$? $N")
    shell.expect("now\r\ncode=3 two")
    shell.sendline("exit 6")
    assert ended(shell) == 6


def test_a_shell_opens_at_the_failure_and_asks_how_to_go_on(failing: Project) -> None:
    running = failing.on_terminal(
        "run", "--local", "--container", "--stop-at=failure", "--stop-at", "unit:3", MY_TOKEN=SECRET
    )
    running.expect("failed with exit code 1")
    running.expect(PROMPT)
    running.sendline("echo =$GREETING=; exit")
    running.expect(f"=hello {SECRET}=")
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
    running.expect("after +.*passed")
    assert ended(running) == 0
    extent = json.loads(loom(failing, "show", "last", "--json").out)["receipt"]["extent"]
    assert [one["how"] for one in extent["assisted"]] == ["shell", "shell", "shell"]


def test_two_jobs_fail_at_once_and_wait_for_the_person(debugged: Project) -> None:
    job = "  stage: test\n  image: debian:trixie-slim\n  script: ['false', 'echo went on']\n"
    debugged.workflow(f"version: v1\nstages: [test]\none:\n{job}two:\n{job}")
    running = debugged.on_terminal(
        "run", "--local", "--container", "--stop-at=failure", "-j", "2", "--keep", "never", MY_TOKEN=SECRET
    )
    prompt = r"\[(one|two)\] [^\r\n]*[#$] "
    running.expect(prompt)
    first = running.match.group(1)
    running.sendline("exit")
    running.expect("etry")
    running.sendline("n")
    running.expect(prompt)
    assert running.match.group(1) != first
    running.sendline("exit")
    running.expect("etry")
    running.sendline("f")
    running.expect("receipt: ([^\r\n]+)")
    receipt = json.loads(Path(running.match.group(1)).read_text())
    assert ended(running) == 1
    steps = Path(receipt["logs_dir"]) / "jobs"
    assert (steps / first / "user/script/02").exists()
    assert not (steps / ({"one", "two"} - {first}).pop() / "user/script/02").exists()


# -- again, and back


SYNCED = """
version: v1
stages: [test, publish]
unit:
  stage: test
  image: {name: "debian:trixie-slim", user: "1000:1000"}
  script:
    - echo made > made.txt; echo of the job >> both
    - test -e one && test -e two
    - cat both; ls -R; echo more >> "becomes/a directory"; touch becomes/own
after:
  stage: publish
  image: debian:trixie-slim
  script: ['cat both; ls -R']
"""


@pytest.mark.parametrize("mode", MODES[::2])
def test_sync_merges_what_changed_in_the_checkout_since_the_last_sync(debugged: Project, mode: str) -> None:
    for name in ("both", "old name", "gives/way", "becomes"):
        debugged.write(name, f"{name}\n")
    debugged.workflow(SYNCED)
    run(debugged, "--mount-mode", mode)
    debugged.write("one", "")
    first = loom(debugged, "resume", "--sync")
    assert (first.code, "brought one (added)" in first.out) == (1, True), first.out + first.err
    (debugged.root / "one").unlink()
    debugged.write("two", "")
    undone = loom(debugged, "resume", "--sync")
    assert undone.code == 1, "one was undone"
    assert {"brought one (deleted)", "brought two (added)"} <= set(undone.out.splitlines())
    assert loom(debugged, "exec", "unit", "--", "sh", "-c", "echo by hand > hand; echo by hand > two").code == 0
    debugged.write("one", "")
    debugged.write("both", "of the checkout\n")
    debugged.write("two", "of the checkout\n")
    (debugged.root / "old name").rename(debugged.root / "new name")
    shutil.rmtree(debugged.root / "gives")
    debugged.write("gives", "a file now\n")
    (debugged.root / "becomes").unlink()
    debugged.write("becomes/a directory", "x\n")
    refused = loom(debugged, "resume", "--sync")
    assert refused.code == 2
    assert "unit: both (changed in the job's files as well)\n  unit: two (" in refused.err
    assert "--sync=theirs" in refused.err
    look = loom(debugged, "exec", "unit", "--", "sh", "-c", "cat two; ls")
    assert look.out == "by hand\nREADME\nbecomes\nboth\ngives\nhand\nmade.txt\nold name\ntwo\n"

    healed = loom(debugged, "resume", "--sync=theirs")
    assert healed.code == 0, healed.out + healed.err
    assert "brought both (modified), over the job's change" in healed.out
    content, *listed = healed.output("unit", "script/03")
    assert content == "of the checkout"
    assert {"new name", "gives", "a directory", "made.txt", "hand"} <= set(listed)
    assert not {"old name", "way"} & set(listed)
    if mode != "bind_mount":  # the jobs after it get the checkout as it is now
        assert healed.output("after")[0] == "of the checkout"
        assert "made.txt" not in healed.output("after")


def test_rerun_proves_that_its_snapshot_is_the_same(failing: Project) -> None:
    failing.write("README", "uncommitted\n")
    first = failing.run(MY_TOKEN=SECRET)
    failing.write("README", "something else\n")
    # The checkout has changed, the run's workspace is the snapshot still.
    again = loom(failing, "rerun", "--failed")
    assert again.code == 1
    assert again.receipt["snapshot_tree_sha"] == first.receipt["snapshot_tree_sha"]
    assert again.receipt["extent"]["parent_run_id"] == first.receipt["run_id"]
    for workspace in failing.tmp.glob("*/loom-run-local-*"):
        shutil.rmtree(workspace)
    gone = loom(failing, "rerun")
    assert gone.code == 2
    assert "--fresh" in gone.err
    failing.write("fixed", "")
    fresh = loom(failing, "rerun", "--fresh")
    assert fresh.code == 0, fresh.out + fresh.err
    assert fresh.receipt["extent"]["parent_run_id"] == again.receipt["run_id"], "the last one"
    assert fresh.receipt["extent"]["kinds"] == ["whole"]
    elsewhere = failing.loom("rerun", first.receipt["run_id"], "--fresh", cwd=failing.home, MY_TOKEN=SECRET)
    assert elsewhere.code == 2
    assert str(failing.root) in elsewhere.err


TWO = """
version: v1
stages: [test, publish]
one:
  stage: test
  image: debian:trixie-slim
  script: ['echo one > own.txt', 'test -e fixed', 'cat own.txt']
two:
  stage: test
  image: debian:trixie-slim
  script: ['echo two > own.txt', 'test -e fixed', 'cat own.txt']
last:
  stage: publish
  image: debian:trixie-slim
  script: ['ls']
"""


@pytest.mark.parametrize("mode", MODES[:2])
def test_two_jobs_go_on_in_one_run(debugged: Project, mode: str) -> None:
    debugged.workflow(TWO)
    run(debugged, "--mount-mode", mode)
    assert loom(debugged, "exec", "one", "--", "sh", "-c", "echo hand > repair; rm README; mkdir README").code == 0
    debugged.write("fixed", "")
    debugged.write("README", "changed\n")
    healed = loom(debugged, "resume", "--sync=theirs")
    assert healed.code == 0, healed.out + healed.err
    assert healed.out.count("in its kept container") == 2
    assert [one["from_step"] for one in healed.receipt["extent"]["reused"]] == ["script/02", "script/02"]
    if mode != "bind_mount":
        assert healed.output("one", "script/03") == ["one"]
        assert healed.output("two", "script/03") == ["two"]
        assert "own.txt" not in healed.output("last")
    assert "fixed" in healed.output("last")
    assert "+hand" in loom(debugged, "pull", "one").out


@pytest.mark.parametrize("mode", MODES[:2])
def test_pull_brings_changes_back_and_never_over_edits(failing: Project, mode: str) -> None:
    failing.write(".gitignore", "*.log\n")
    failing.write("src/a b.txt", "one\n")
    failing.commit()
    run(failing, "--mount-mode", mode)
    change = "echo two >> 'src/a b.txt'; touch fixed x.log; chmod +x README; ln -s README link"
    assert loom(failing, "exec", "unit", "--", "sh", "-c", change).code == 0
    shown = loom(failing, "pull", "unit")
    assert "x.log" not in shown.out
    assert "+two" in shown.out
    failing.write("src/a b.txt", "mine\n")
    refused = loom(failing, "pull", "unit", "--apply")
    assert refused.code == 2
    assert "src/a b.txt" in refused.err
    assert (failing.root / "src/a b.txt").read_text() == "mine\n"
    assert (failing.root / "fixed").exists()
    failing.write("src/a b.txt", "one\n")
    applied = loom(failing, "pull", "unit", "--apply")
    assert applied.code == 0, applied.err
    assert (failing.root / "src/a b.txt").read_text() == "one\ntwo\n"
    assert os.access(failing.root / "README", os.X_OK)
    assert (failing.root / "link").is_symlink()
    assert not (failing.root / "doomed").exists()
    assert failing.git("diff", "--cached") == ""


SPECIAL = """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  script:
    - |
      perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, pack_sockaddr_un("a.sock")) or die'
      mkfifo b.fifo; mkdir deep; mkfifo deep/fifo; rm tracked; mkfifo tracked; echo new > new.txt
    - test -e fixed
    - cat new.txt
  artifacts: {paths: ["*.sock", "*.fifo", deep], when: always}
"""


@pytest.mark.parametrize("mode", MODES[::2])
def test_special_files_are_left_out_and_named_everywhere(debugged: Project, mode: str) -> None:
    """A socket ended the run by a bug before the failure was shown; a FIFO made `pull` and `resume` refuse."""
    debugged.write("tracked", "x\n")
    debugged.workflow(SPECIAL)
    ran = run(debugged, "--mount-mode", mode)
    assert ran.code == 1, ran.out + ran.err
    assert "step script/02, exit code 1" in ran.out
    skipped = {item["path"] for item in ran.manifest("unit")["artifacts"]["skipped"]}
    assert skipped >= {"b.fifo", "deep/fifo"}
    pulled = loom(debugged, "pull", "unit")
    assert pulled.code == 0, pulled.err
    assert "+new" in pulled.out
    assert "left out: b.fifo (a FIFO, not a file)" in pulled.err
    if mode == "bind_mount":
        assert "left out: a.sock (a socket, not a file)" in pulled.err
        assert "left out: tracked (a FIFO, not a file)" in pulled.err
        assert "tracked" not in pulled.out
        assert "deep/fifo: a FIFO, not a file" in loom(debugged, "verify").out
    assert loom(debugged, "exec", "unit", "--", "touch", "fixed").code == 0
    healed = loom(debugged, "resume")
    assert healed.code == 0, healed.out + healed.err
    for path in debugged.tmp.glob("*/loom-run-local-*"):
        shutil.rmtree(path)
    saved = loom(debugged, "pull", ran.receipt["run_id"], "unit")
    assert saved.code == 0, saved.err
    assert "+new" in saved.out
    assert "left out: b.fifo (a FIFO, not a file)" in saved.err
    cleaned = loom(debugged, "clean", "--keep-last", "0")
    assert cleaned.code == 0, cleaned.out + cleaned.err
    assert list(debugged.tmp.glob("*/*")) == []
    left = [path.name for path in (debugged.home / ".local/state/loom/workspaces").iterdir()]
    assert [name for name in left if not name.startswith((".cleaned", ".lock"))] == []
