"""A provider on the cluster of the tests; every pod of a test is gone when it is over."""

import contextlib
import json
import os
import secrets
import signal
import ssl
import subprocess
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom import providers
from loom.cancel import Cancel
from loom.config import Config
from loom.errors import ProviderError
from loom.plan.model import Image, MountMode
from loom.providers.base import SessionRequest, Setup
from loom.providers.command import Command
from loom.providers.kubernetes.cluster.client import Gone
from loom.status import Exit
from tests.support import kubernetes
from tests.support.waiting import until

Output = list[tuple[str, bytes]]


class Job:
    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, script: str, *, cancel: Cancel | None = None, timeout_s: float | None = None) -> tuple[Exit, bytes]:
        heard: Output = []
        ended = self.session.run(
            Command(script=script, shell=(), timeout_s=timeout_s),
            lambda stream, data: heard.append((stream, data)),
            cancel or Cancel(),
        )
        return ended, b"".join(data for _, data in heard)

    @property
    def pod(self) -> str:
        return str(self.session.facts.container_name)


class Pods:
    """Opens jobs in pods, by default in the context's namespace."""

    def __init__(self, environ: Mapping[str, str], folder: Path) -> None:
        self.run_id = f"t{secrets.token_hex(5)}"
        config = Config(cache_dir=folder / "cache")
        self.provider: Any = providers.make("kubernetes", Setup(environ=environ, config=config, run_id=self.run_id))
        self.workspace = folder / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.heard: Output = []
        self.account = ""
        """The service account of its credentials, where a test made one."""

    def request(self, **changes: Any) -> SessionRequest:
        request = SessionRequest(
            run_id=self.run_id,
            job_id="job",
            workspace=self.workspace,
            project_dir="/workspace",
            environment={},
            shell=("sh", "-e"),
            image=Image(name=kubernetes.IMAGE),
            mount_mode=MountMode.VOLUME,
        )
        return replace(request, **changes)

    @contextmanager
    def job(self, **changes: Any) -> Iterator[Job]:
        request = self.request(**changes)
        with self.provider.open(request, lambda stream, data: self.heard.append((stream, data)), Cancel()) as session:
            yield Job(session)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    opened = Pods(kubernetes.environ(), tmp_path)
    yield opened
    assert list(opened.provider.close()) == []
    assert kubernetes.pods_of(opened.run_id) == []


@pytest.fixture
def cluster() -> Iterator[Any]:
    found = kubernetes.cluster()
    yield found
    found.close()


@pytest.fixture
def namespace(cluster: Any) -> Iterator[Any]:
    """A namespace of the test's own, as a cluster."""
    name = f"loom-test-{secrets.token_hex(4)}"
    cluster.call("making a namespace", "create_namespace", {"metadata": {"name": name}})
    there = cluster.at(name)
    until(lambda: there.call("looking", "list_namespaced_service_account")["items"])
    yield there
    with contextlib.suppress(Gone, ProviderError):  # a test may have removed it
        cluster.call("removing a namespace", "delete_namespace", name)


@pytest.fixture
def control() -> Callable[..., None] | None:
    """Disturb a cluster that the tests own: `control("kill-node", "n1")`. None for a cluster that they don't."""
    directory, tool = os.environ.get("LOOM_TEST_CLUSTER_DIR"), os.environ.get("LOOM_TEST_CLUSTER")
    if not directory or not tool:
        return None

    def call(command: str, *arguments: str) -> None:
        subprocess.run([f"{tool}/cluster", command, "--dir", directory, *arguments], check=True, timeout=120)

    return call


@pytest.fixture
def restart_api_server() -> Callable[[], None] | None:
    """Kill the API server of a cluster that the tests own, and start it again. None for one that they don't."""
    directory = os.environ.get("LOOM_TEST_CLUSTER_DIR")
    if not directory:
        return None
    state = Path(directory, "state.json")

    def restart() -> None:
        known = json.loads(state.read_text())
        pid, _ = known["pids"]["kube-apiserver"]
        command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
        os.kill(pid, signal.SIGKILL)  # else it lets connections end first
        until(lambda: _started(pid) is None)
        servers: list[subprocess.Popen[bytes]] = []

        def ready() -> bool:
            # As a cluster's own supervisor does: a server that finds its port still taken, or etcd too slow, ends.
            if not servers or servers[-1].poll() is not None:
                servers.append(_start_api_server(Path(directory), known, command))
                state.write_text(json.dumps(known, indent=1))
            return _is_ready(Path(directory), known)

        until(ready, limit_s=200)
        servers[-1].returncode = 0  # not waited for

    return restart


def _start_api_server(directory: Path, known: dict[str, Any], command: list[str]) -> subprocess.Popen[bytes]:
    """Start it for longer than the test: the cluster's own tool ends it, by what `known` says of it."""
    with Path(directory, "log/kube-apiserver.log").open("ab") as log:
        words = ["nsenter", f"--net=/run/netns/{known['cp']}", *command]
        server = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    known["pids"]["kube-apiserver"] = [server.pid, _started(server.pid)]
    return server


def _is_ready(directory: Path, known: dict[str, Any]) -> bool:
    asked = urllib.request.Request(f"{known['api']}/readyz", headers={"Authorization": f"Bearer {known['token']}"})
    trusted = ssl.create_default_context(cafile=str(directory / "pki/ca.crt"))
    directly = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
    )
    try:
        with directly.open(asked, timeout=5) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (OSError, HTTPException):  # also one that dies while it answers
        return False


def _started(pid: int) -> int | None:
    """When a process started, in ticks; None for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])
