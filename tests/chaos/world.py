"""What trials share: an engine of their own, whose runtime fails on request, and a project for the loom that comes next."""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import APIError, DockerException

from tests.support.disturbed_registry import DisturbedRegistry
from tests.support.own_engine import OwnEngine

RUNTIME = """#!/bin/sh
# runc, which fails as often as the file `{failures}` has lines; a line is the command that fails and what it says.
for word; do
  [ "$before" = --log ] && log=$word
  case $word in create | start) command=$word ;; esac
  before=$word
done
if [ -n "$command" ] && [ -s {failures} ]; then
  read -r which says <{failures}
  if [ "$which" = "$command" ]; then
    sed -i 1d {failures}
    printf '{{"level":"error","msg":"%s","time":"2026-01-01T00:00:00Z"}}\\n' "$says" >>"$log"
    exit 1
  fi
fi
exec {runc} "$@"
"""


DISK_MB = 600


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.next = directory / "next"
        self.failures = directory / "failures"
        self._parent = f"/{directory.name}"
        self.engine = OwnEngine(directory / "engine", network=True)
        self.engine.data.mkdir(parents=True)
        # What the engine keeps has a disk of its own, which can be full.
        disk = directory / "disk"
        with disk.open("wb") as file:
            file.truncate(DISK_MB << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-F", str(disk)], check=True, stdin=subprocess.DEVNULL)
        subprocess.run(["mount", "-o", "loop", str(disk), str(self.engine.data)], check=True)
        runtime = directory / "runtime"
        runtime.write_text(RUNTIME.format(failures=self.failures, runc=shutil.which("runc")))
        runtime.chmod(0o755)
        self._options = (
            f"--add-runtime=chaos={runtime}",
            "--default-runtime=chaos",
            f"--cgroup-parent={self._parent}",
            "--default-address-pool=base=10.99.0.0/16,size=24",  # 50 looms at once want more networks than the default's 31
        )
        self.client: docker.DockerClient = self.start()
        busybox = shutil.which("busybox")
        assert busybox is not None, "needs a statically linked busybox"
        self.engine.load_busybox(self.client, Path(busybox).read_bytes())
        make_project(self.next, NEXT)

    def start(self) -> docker.DockerClient:
        self.client = self.engine.start(*self._options)
        return self.client

    def registry(self) -> DisturbedRegistry:
        """A registry for the engine that runs now, with its image, which the engine does not have."""
        assert self.engine.process is not None
        registry = DisturbedRegistry(self.directory / "registry", self.engine.process.pid)
        registry.fill(self.client)
        for image in self.client.api.images(name=registry.image.rpartition(":")[0]):
            self.client.api.remove_image(image["Id"], force=True)
        return registry

    def mend(self) -> None:
        """Have the engine answer again."""
        with suppress(OSError):
            self.failures.unlink()
        if self.engine.process is not None and self.engine.process.poll() is None:
            self.engine.signal(signal.SIGCONT)
            with suppress(DockerException, OSError):
                self.client.ping()
                return
            self.engine.process.kill()
        if self.engine.process is not None:
            self.engine.process.wait()
        self.client.close()
        self.start()

    def processes(self) -> list[int]:
        """The processes in its containers, also those that the engine no longer knows."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f":{self._parent}/" in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
        return found

    def shim_of(self, container_id: str) -> int | None:
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"containerd-shim" in command and container_id.encode() in command:
                    return int(entry.name)
        return None

    def content(self) -> list[str]:
        """All containers, networks and volumes."""
        api = self.client.api
        containers = [one["Names"][0] if one["Names"] else one["Id"] for one in api.containers(all=True)]
        networks = [one["Name"] for one in api.networks() if one["Name"] not in ("bridge", "host", "none")]
        volumes = [one["Name"] for one in api.volumes()["Volumes"] or ()]
        return [
            *(f"container {one}" for one in containers),
            *(f"network {one}" for one in networks),
            *(f"volume {one}" for one in volumes),
        ]

    def clear(self) -> None:
        """Remove everything, so that no trial suffers from an earlier one."""
        api = self.client.api
        for one in api.containers(all=True):
            with suppress(APIError):
                api.remove_container(one["Id"], force=True, v=True)
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with suppress(APIError):
            api.prune_networks()
        for one in api.volumes()["Volumes"] or ():
            with suppress(APIError):
                api.remove_volume(one["Name"], force=True)

    def close(self, *, keep: bool = False) -> None:
        """`keep`: leave the files."""
        with suppress(DockerException, OSError):
            self.mend()
            self.clear()
        self.client.close()
        self.engine.stop()
        for controller in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")]:
            for group, _, _ in os.walk(controller / self._parent.lstrip("/"), topdown=False):
                with suppress(OSError):
                    os.rmdir(group)
        shutil.rmtree(self.engine.directory if keep else self.directory, ignore_errors=True)


NEXT = (
    "version: v1\nstages: [test]\nnext: {stage: test, image: ash:test, network: none, script: [echo hi, echo again]}\n"
)
DOCKERFILE = "FROM ash:test\nRUN echo built >/built\n"


def make_project(root: Path, workflow: str) -> None:
    (root / ".loom").mkdir(parents=True)
    (root / ".loom/workflow.yml").write_text(workflow)
    (root / "Dockerfile").write_text(DOCKERFILE)
    for number in range(20):
        (root / f"file{number}").write_text(f"{number}\n" * 50)
    for arguments in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        git(root, *arguments)


def git(root: Path, *arguments: str, check: bool = True) -> None:
    names = {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environ = {"PATH": os.environ["PATH"], "HOME": str(root.parent), "GIT_EDITOR": "true", **names}
    subprocess.run(["git", *arguments], cwd=root, env=environ, check=check, capture_output=True, timeout=60)


def eventually(seen: object, limit_s: float) -> bool:
    """Whether `seen()` becomes true within the limit."""
    assert callable(seen)
    deadline = time.monotonic() + limit_s
    while not seen():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
