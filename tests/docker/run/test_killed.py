"""`kill -9` of loom at every point of a run: the next loom that starts leaves nothing of it, and nothing of another touched.

A proxy between loom and the engine holds one request, or the answer to it; that is the moment in which loom is killed. All
are killed first, each in a project of its own, then one next loom starts, then each test looks at its own.
"""

import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from tests.support.connections import serve_each
from tests.support.waiting import until

from .conftest import Project

pytestmark = pytest.mark.docker

SOCKET = "/var/run/docker.sock"


class Holding:
    """Passes an engine's socket on until it sees one request, and stops there: before it is sent, or before it is answered."""

    def __init__(self, path: Path, request: str, *, answered: bool) -> None:
        self.url = f"unix://{path}"
        self.held = threading.Event()
        self._request = request
        self._run = ""
        self._answered = answered
        self._let_go = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        serve_each(self._listener, self._serve)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(SOCKET)
            held_here = threading.Event()
            back = threading.Thread(target=self._back, args=(engine, client, held_here), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(65536):
                    if not self.held.is_set() and self._matches(data):
                        if not self._answered:
                            self.held.set()
                            self._let_go.wait()
                            break
                        held_here.set()
                    engine.sendall(data)
            with suppress(OSError):
                engine.shutdown(socket.SHUT_WR)
            back.join()

    def _matches(self, data: bytes) -> bool:
        """Whether this is the request; `{run}` in it is this loom's own run, not one that others left and this removes."""
        if made := re.search(rb"name=loom-(\d+)-", data):
            self._run = made[1].decode()
        return re.match(self._request.replace("{run}", self._run or "none").encode(), data) is not None

    def _back(self, engine: socket.socket, client: socket.socket, held_here: threading.Event) -> None:
        with suppress(OSError):
            while data := engine.recv(65536):
                if held_here.is_set():
                    self.held.set()
                    self._let_go.wait()
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._let_go.set()
        self._listener.close()


@dataclass(frozen=True, kw_only=True)
class Moment:
    request: str = ""
    """What the proxy holds; nothing: the first line of output is waited for."""
    answered: bool = True
    mode: str = "bind_mount"
    job: str = "script: [echo hi]"
    more: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    """What is there when loom is gone, and nobody has looked yet."""


SERVICE = "services: [{name: side, image: debian:trixie-slim, command: [sleep, '600']}]\n  script: [echo hi]"
FAILS = "script: [exit 1]"
PRODUCTS = "script: ['echo made >made; mkdir kept; echo x >kept/x']\n  artifacts: {paths: [made]}\n  cache: {key: k, paths: [kept]}"

MOMENTS = {
    "asking the engine what it is": Moment(request=r"GET \S*/version "),
    "making a volume": Moment(request=r"POST \S*/volumes/create ", mode="overlay", leaves=("volume",)),
    "creating": Moment(request=r"POST \S*/containers/create\?", mode="overlay", leaves=("container", "volume")),
    "attaching": Moment(request=r"POST \S*/attach\?", leaves=("container",)),
    "filling a volume": Moment(
        request=r"PUT \S*/archive\?", answered=False, mode="ephemeral_volume", leaves=("container", "volume")
    ),
    "starting": Moment(request=r"POST \S*/start ", leaves=("container",)),
    "making a network": Moment(request=r"POST \S*/networks/create ", job=SERVICE, leaves=("network",)),
    "starting a service": Moment(request=r"POST \S*/start ", job=SERVICE, leaves=("container", "network")),
    "in a step": Moment(
        mode="overlay", job="script: ['sleep 300 & echo up; sleep 300']", leaves=("container", "volume")
    ),
    "in a step beside a service": Moment(
        job=SERVICE.replace("echo hi", "'echo up; sleep 300'"), leaves=("container", "network")
    ),
    "copying artifacts": Moment(
        request=r"GET \S*/archive\?\S*made ", mode="ephemeral_volume", job=PRODUCTS, leaves=("container", "volume")
    ),
    "saving a cache": Moment(
        request=r"GET \S*/archive\?\S*kept ", mode="ephemeral_volume", job=PRODUCTS, leaves=("container", "volume")
    ),
    "keeping": Moment(
        request=r"POST \S*/rename\?", answered=False, job=FAILS, more=("--keep", "on-failure"), leaves=("container",)
    ),
    "removing": Moment(
        request=r"DELETE \S*/containers/", answered=False, mode="overlay", leaves=("container", "volume")
    ),
    "removing a volume": Moment(
        request=r"DELETE \S*/volumes/loom-{run}-", answered=False, mode="overlay", leaves=("volume",)
    ),
}


def workflow(job: str) -> str:
    return f"version: v1\nstages: [test]\nunit:\n  stage: test\n  image: debian:trixie-slim\n  {job}\n"


@dataclass(frozen=True, kw_only=True)
class Killed:
    project: Project
    left: tuple[str, ...]
    run_id: str


def left_of(project: Project, run_id: str) -> tuple[str, ...]:
    client = docker.from_env()
    try:
        ours = {"label": f"loom.run={run_id}"}
        kinds = {
            "container": client.api.containers(all=True, filters=ours),
            "volume": client.api.volumes(filters=ours)["Volumes"],
            "network": client.api.networks(filters=ours),
        }
    finally:
        client.close()
    return tuple(kind for kind, found in kinds.items() if found)


def project_in(base: Path) -> Project:
    (base / "project").mkdir(parents=True)
    made = Project(base / "project", base / "home")
    made.git("init", "-q", "-b", "main")
    return made


def kill_at(moment: Moment, base: Path) -> Killed:
    project = project_in(base)
    project.workflow(workflow(moment.job))
    proxy = Holding(base / "engine.sock", moment.request or "never", answered=moment.answered)
    process = project.start(
        *("run", "--local", "--container", "--mount-mode", moment.mode, *moment.more), DOCKER_HOST=proxy.url
    )
    try:
        if moment.request:
            until(proxy.held.is_set, while_runs=process)
        else:
            until(lambda: any('"text":"up"' in file.read_text() for file in step_files(project)), while_runs=process)
        process.send_signal(signal.SIGSTOP)  # another loom, to be killed too, could remove what a dead one leaves
        (record,) = project.record_files("run.json")
        run_id = record.parent.name
        return Killed(project=project, left=left_of(project, run_id), run_id=run_id)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        proxy.close()


def step_files(project: Project) -> list[Path]:
    return project.record_files("logs/*/jobs/unit/user/script/01/events.jsonl")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Killed]]:
    """All of them, each killed in its moment, and the next loom has run; another has lived through all that."""
    base = tmp_path_factory.mktemp("k")  # short: a socket's path
    bystander = project_in(base / "bystander")
    bystander.workflow(workflow(SERVICE.replace("echo hi", "'echo up; while [ ! -e over ]; do sleep 0.1; done'")))
    living = bystander.start("run", "--local", "--container", "--mount-mode", "bind_mount")
    try:
        until(lambda: any('"text":"up"' in file.read_text() for file in step_files(bystander)), while_runs=living)
        with ThreadPoolExecutor(3) as pool:
            found = dict(
                zip(
                    MOMENTS,
                    pool.map(lambda item: kill_at(item[1], base / str(item[0])), enumerate(MOMENTS.values())),
                    strict=True,
                )
            )
        following = project_in(base / "next")
        following.workflow(workflow("script: [echo hi]"))
        ran = following.run()
        assert ran.code == 0, ran.out + ran.err
        assert "could not be" not in ran.out + ran.err
        (workspace,) = bystander.tmp.glob("*/loom-run-local-*")
        (workspace / "over").touch()
        out, err = living.communicate(timeout=60)
        assert living.returncode == 0, out + err
        yield found
        # The container of the one that was keeping it stays for its time, or until its run is cleaned up.
        cleaned = found["keeping"].project.loom("clean", "--all", "--keep-last", "0")
        assert cleaned.code == 0, cleaned.out + cleaned.err
    finally:
        living.kill()
        living.communicate()


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_next_loom_leaves_nothing_of_one_that_was_killed_while(moment: str, killed: dict[str, Killed]) -> None:
    one = killed[moment]
    assert set(one.left) == set(MOMENTS[moment].leaves), "it was killed in another moment than the test is about"
    assert left_of(one.project, one.run_id) == ()
    listed = one.project.loom("runs")
    assert "interrupted" in listed.out, listed.out + listed.err


@pytest.mark.parametrize("where", ["a job on the host", "a build"])
def test_no_process_and_no_temporary_file_remains_of(where: str, project: Project, tmp_path: Path) -> None:
    (scratch := tmp_path / "scratch").mkdir()
    mark = f"sleep 3{secrets.randbelow(10**9):09d}"
    if where == "a build":
        project.write("Dockerfile", f"FROM debian:trixie-slim\nRUN echo up; {mark}\n")
        project.workflow(
            "version: v1\nstages: [a]\nunit: {stage: a, image: {build: {context: .}}, script: [echo no]}\n"
        )
    else:
        project.workflow(f"version: v1\nstages: [a]\nunit: {{stage: a, script: ['setsid {mark} & echo up; {mark}']}}\n")
    process = project.start("run", "--local", TMPDIR=str(scratch), LOOM_TMP_DIR=str(project.tmp))
    try:
        until(lambda: running(mark), while_runs=process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    until(lambda: not [*running(mark), *running(str(project.tmp)), *scratch.iterdir()])


def running(mark: str) -> list[str]:
    """Command lines on this machine, containers included, that hold `mark` (and are not the file of a step)."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit():
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if mark in line:
                    found.append(line)
    return found
