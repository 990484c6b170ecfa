"""What several groups of tests stand on: an engine of a test's own, which may be killed and restarted, and a tiny image.

Such an engine runs in a network and mount namespace of its own: the machine's is never touched.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from loom.errors import EngineUnavailable
from loom.providers.docker.client import connect


def end_processes_of(directory: Path) -> None:
    """Kill what names a path below `directory` on its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{directory}/".encode() in command:
                os.kill(int(entry.name), signal.SIGKILL)


class OwnEngine:
    """A dockerd of the test's own. It has no network, and sees nothing of `hidden`."""

    def __init__(self, directory: Path, hidden: Path | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.url = f"unix://{directory}/engine.sock"
        self._hidden = hidden
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> docker.DockerClient:
        directory = self.directory
        hide = f"mount -t tmpfs none {self._hidden};" if self._hidden else ""
        command = (
            f"mount --make-rprivate /; {hide} exec dockerd --data-root {self.data} --exec-root {directory}/exec "
            f"--pidfile {directory}/pid -H {self.url} --bridge none --iptables=false --ip6tables=false --shutdown-timeout 1 "
            + " ".join(options)
        )
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", command], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.connect()
            except EngineUnavailable:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    pytest.skip(f"no engine of its own can be started here: {(directory / 'log').read_text()[-300:]}")
                time.sleep(0.1)

    def connect(self) -> docker.DockerClient:
        return connect({"DOCKER_HOST": self.url})

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is None:
            return
        self.signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        end_processes_of(self.directory / "exec")  # a killed engine leaves its containerd, and that its shims
        time.sleep(0.2)
        for line in Path("/proc/mounts").read_text().splitlines():
            if line.split()[1].startswith(str(self.directory)):
                subprocess.run(["umount", "-l", line.split()[1]], check=False)

    def load_busybox(self, client: docker.DockerClient, busybox: bytes) -> None:
        load_busybox(client, busybox)


def load_busybox(client: docker.DockerClient, busybox: bytes) -> None:
    """Make the image `ash:test`, which is a shell and what that brings with it."""
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode="w") as archive:
        for name in ("sh", "sleep", "cat", "chown", "id", "ls", "mkdir", "rm"):
            member = tarfile.TarInfo(f"bin/{name}")
            if name == "sh":
                member.size, member.mode = len(busybox), 0o755
                archive.addfile(member, io.BytesIO(busybox))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, "sh"
                archive.addfile(member)
    client.api.import_image_from_data(root.getvalue(), repository="ash", tag="test")


@pytest.fixture
def new_engine() -> Iterator[Callable[..., OwnEngine]]:
    """Make engines of the test's own; they are stopped when it is over."""
    if os.geteuid() != 0 or not shutil.which("dockerd") or not shutil.which("unshare"):
        pytest.skip("needs root, dockerd and unshare for an engine of its own")
    directory = Path(f"/tmp/loom-test-engine-{os.getpid()}-{time.monotonic_ns()}")  # short: a socket's path
    directory.mkdir()

    made: list[OwnEngine] = []

    def new(hidden: Path | None = None) -> OwnEngine:
        made.append(OwnEngine(directory, hidden))
        return made[-1]

    yield new
    for engine in made:
        engine.stop()
    shutil.rmtree(directory, ignore_errors=True)


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
        deadline = time.monotonic() + 20
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
