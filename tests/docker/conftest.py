"""What several groups of tests stand on: engines of a test's own, and a program to make a tiny image of."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loom.errors import EngineUnavailable
from loom.providers.docker.engine.client import connect
from tests.support.own_engine import OwnEngine, end_processes_of


def _engines() -> Iterator[Callable[..., OwnEngine]]:
    """Make engines of the tests' own; they are stopped at the end."""
    if os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("unshare"):
        pytest.skip("needs root, dockerd and unshare for an engine of its own")
    directory = Path(f"/tmp/loom-test-engine-{os.getpid()}-{time.monotonic_ns()}")  # short: a socket's path
    directory.mkdir()

    made: list[OwnEngine] = []

    def new(hidden: Path | None = None, *, network: bool = False) -> OwnEngine:
        made.append(OwnEngine(directory, hidden, network=network))
        return made[-1]

    yield new
    for engine in made:
        engine.stop()
    shutil.rmtree(directory, ignore_errors=True)


new_engine = pytest.fixture(_engines)
"""For one test."""
new_engine_of_module = pytest.fixture(_engines, scope="module")
"""For the tests of one module, which leave it as it was."""


@pytest.fixture(scope="session")
def busybox() -> bytes:
    found = shutil.which("busybox")
    about = subprocess.run(["sh", "-c", f"file -L {found} 2>/dev/null || echo statically"], stdout=subprocess.PIPE)
    if found is None or b"statically" not in about.stdout:
        pytest.skip("needs a statically linked busybox on this machine to make an image of")
    return Path(found).read_bytes()


@pytest.fixture(scope="session")
def podman_engine() -> Iterator[str]:
    """The address of a podman service of the tests' own, in namespaces of its own."""
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare for a podman of its own")
    directory = Path(f"/tmp/loom-test-podman-{os.getpid()}")  # short: a socket's path
    directory.mkdir()
    # What podman needs of netfilter is not what is tested here. Of cgroups crun knows only kernels with all or none of v2.
    settings = '[engine]\nevents_logger = "file"\n'
    settings += 'runtime = "runc"\n' if shutil.which("runc") else '[containers]\ncgroups = "disabled"\n'
    (directory / "containers.conf").write_text(settings)
    address = f"unix://{directory}/podman.sock"
    roots = [f"--root={directory}/root", f"--runroot={directory}/run", "--cgroup-manager=cgroupfs"]
    with (directory / "log").open("wb") as log:
        service = subprocess.Popen(
            ["unshare", "--net", "--mount", "podman", *roots, "system", "service", "-t", "0", address],
            env={**os.environ, "CONTAINERS_CONF": str(directory / "containers.conf")},
            stdout=log,
            stderr=log,
        )
    client = None
    try:
        deadline = time.monotonic() + 120
        while client is None:
            try:
                client = connect({"DOCKER_HOST": address})
            except EngineUnavailable:
                if time.monotonic() > deadline or service.poll() is not None:
                    pytest.skip(f"podman does not start here: {(directory / 'log').read_text()[-300:]}")
                time.sleep(0.1)
        yield address
    finally:
        if client is not None:
            for container in client.containers.list(all=True):
                container.remove(force=True)
            client.close()
        service.terminate()
        service.wait()
        end_processes_of(directory)  # those that watched a command stay for five minutes
        shutil.rmtree(directory, ignore_errors=True)
