"""A dockerd of a test's own, which may be killed, stopped and restarted, and a tiny image.

It runs in a network and mount namespace of its own: the machine's is never touched.
"""

import io
import os
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from loom.errors import EngineUnavailable
from loom.providers.docker.engine.client import connect


def end_processes_of(directory: Path) -> None:
    """Kill what names a path below `directory` on its command line."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                if f"{directory}/".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


class OwnEngine:
    """A dockerd of the test's own. It sees nothing of `hidden`, and has no network, or with `network` one without a way out."""

    def __init__(self, directory: Path, hidden: Path | None = None, *, network: bool = False) -> None:
        self.directory = directory
        self._network = ("ip link set lo up; ", "--bip 172.31.250.1/24") if network else ("", "--bridge none")
        self.data = directory / "data"
        self.url = f"unix://{directory}/engine.sock"
        self._hidden = hidden
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> docker.DockerClient:
        directory = self.directory
        hide = f"mount -t tmpfs none {self._hidden};" if self._hidden else ""
        prepare, bridge = self._network
        command = (
            f"{prepare}mount --make-rprivate /; {hide} exec dockerd --data-root {self.data} --exec-root {directory}/exec "
            f"--pidfile {directory}/pid -H {self.url} {bridge} --iptables=false --ip6tables=false --shutdown-timeout 1 "
            + " ".join(options)
        )
        with (directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", command], stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
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
        for name in ("sh", "sleep", "cat", "chown", "id", "ls", "mkdir", "nc", "rm", "seq", "touch"):
            member = tarfile.TarInfo(f"bin/{name}")
            if name == "sh":
                member.size, member.mode = len(busybox), 0o755
                archive.addfile(member, io.BytesIO(busybox))
            else:
                member.type, member.linkname = tarfile.SYMTYPE, "sh"
                archive.addfile(member)
    client.api.import_image_from_data(root.getvalue(), repository="ash", tag="test")
