"""A rootless engine, used by the ordinary user whose it is: who root in the container is, and who owns what afterwards."""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.errors import EngineUnavailable
from loom.plan.model import MountMode
from loom.providers.docker.engine.client import connect

from .conftest import Project

pytestmark = [pytest.mark.docker, pytest.mark.slow]

UID = 54321
FIRST_OTHER = 1_000_000
"""Where the ids begin on this machine that the containers' other users have."""

WORKFLOW = """
version: v1
stages: [test]
root:
  stage: test
  image: ash:test
  network: none
  resources: {memory: 64m}
  script:
    - id -u >made; rm -r whole; mkdir whole; echo y >whole/new; rm given
    - mkdir -m 700 deep; echo x >deep/file; chown -R 77:77 deep made
  artifacts: {paths: [made]}
other:
  stage: test
  needs: [root]
  image: {name: ash:test, user: "77:77"}
  network: none
  script:
    - id -u; cat made; echo more >>README; mkdir -m 700 mine; echo x >mine/file
"""


class Rootless:
    """A dockerd in a user namespace, in a mount namespace that knows of a user whom this machine does not have."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/run/docker.sock"
        self.become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> docker.DockerClient:
        directory = self.directory
        (directory / "run").mkdir(mode=0o700)
        for path in (directory, directory / "run"):
            os.chown(path, UID, UID)
        for name, line in (
            ("passwd", f"loomtest:x:{UID}:{UID}::{directory}:/bin/sh"),
            ("group", f"loomtest:x:{UID}:"),
            ("subuid", f"loomtest:{FIRST_OTHER}:65536"),
            ("subgid", f"loomtest:{FIRST_OTHER}:65536"),
        ):
            there = Path("/etc", name).read_text() if name in ("passwd", "group") else ""
            (directory / name).write_text(f"{there}{line}\n")
        # Open to all on every ordinary machine, and root's alone on some, as /tmp is.
        os.mknod(directory / "tun", stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
        (directory / "tun").chmod(0o666)
        binds = f"mount -t tmpfs -o mode=1777 none /tmp; mount --bind {directory}/tun /dev/net/tun; "
        binds += "".join(
            f"mount --bind {directory}/{name} /etc/{name}; " for name in ("passwd", "group", "subuid", "subgid")
        )
        engine = (
            f"dockerd -H {self.url} --data-root {directory}/data --exec-root {directory}/run/exec "
            f"--pidfile {directory}/run/pid --bridge none --iptables=false --ip6tables=false"
        )
        kit = (
            f"rootlesskit --state-dir={directory}/run/kit --net=slirp4netns --mtu=65520 --disable-host-loopback "
            f"--port-driver=builtin --copy-up=/etc --copy-up=/run --propagation=rslave "
            f"sh -c 'rm -f /run/docker /run/containerd /run/xtables.lock; exec {engine}'"
        )
        environment = f"HOME={directory} USER=loomtest XDG_RUNTIME_DIR={directory}/run PATH={os.environ['PATH']}"
        command = (
            f"set -e; mount --make-rshared /; {binds} cd /; exec {' '.join(self.become)} env -i {environment} {kit}"
        )
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(["unshare", "--mount", "sh", "-c", command], stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while True:
            try:
                return connect({"DOCKER_HOST": self.url})
            except EngineUnavailable:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    pytest.skip(f"no rootless engine can be started here: {(directory / 'log').read_text()[-400:]}")
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@pytest.fixture(scope="module")
def rootless(busybox: bytes) -> Iterator[Rootless]:
    from tests.support.own_engine import load_busybox

    if os.geteuid() != 0:
        pytest.skip("becomes another user")
    for needed in ("dockerd", "rootlesskit", "newuidmap", "slirp4netns", "setpriv", "unshare"):
        if shutil.which(needed) is None:
            pytest.skip(f"needs {needed} (Debian's docker.io, rootlesskit, uidmap and slirp4netns)")
    for path in ("/etc/subuid", "/etc/subgid", "/dev/net/tun"):
        if not Path(path).exists():
            pytest.skip(f"needs a {path} to put its own in the place of")
    directory = Path(f"/var/tmp/loom-test-rootless-{os.getpid()}")  # short: sockets' paths; and open to the user
    directory.mkdir()
    engine = Rootless(directory)
    try:
        client = engine.start()
        load_busybox(client, busybox)
        client.close()
        yield engine
    finally:
        engine.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def theirs(rootless: Rootless) -> Iterator[Project]:
    """A project of the user's own; no part of its path is root's alone, unlike pytest's directories."""
    base = rootless.directory / f"project-{time.monotonic_ns()}"
    root = base / "project"
    root.mkdir(parents=True)
    made = Project(root, base / "home")
    made.git("init", "-q", "-b", "main")
    for name in ("README", "given", "whole/old"):
        made.write(name, "hello\n")
    made.workflow(WORKFLOW)
    give_to(UID, base)
    made.become = rootless.become
    yield made
    shutil.rmtree(base, ignore_errors=True)


def give_to(uid: int, path: Path) -> None:
    for found in (path, *path.rglob("*")):
        os.lchown(found, uid, uid)


def owners(path: Path) -> set[int]:
    return {found.lstat().st_uid for found in (path, *path.rglob("*"))}


def volumes_and_containers(client: docker.DockerClient) -> Sequence[Any]:
    return [*(client.api.volumes()["Volumes"] or ()), *client.api.containers(all=True)]


@pytest.mark.parametrize("mode", [MountMode.BIND, MountMode.OVERLAY])
def test_root_in_the_container_is_the_user_who_owns_all_afterwards(
    theirs: Project, rootless: Rootless, mode: MountMode
) -> None:
    ran = theirs.run("--mount-mode", mode.value, DOCKER_HOST=rootless.url)
    assert (ran.code, "left files" in ran.out + ran.err) == (0, False), ran.out + ran.err
    assert ran.output("other") == ["77", "0"]
    assert owners(ran.workspace) == {UID}
    assert (ran.workspace / "deep/file").exists() == (mode is MountMode.BIND)
    client = connect({"DOCKER_HOST": rootless.url})
    try:
        ignored = client.info()["MemoryLimit"] is False
        assert ("! root      the engine does not enforce memory" in ran.out) == ignored
        assert volumes_and_containers(client) == []
    finally:
        client.close()
    assert theirs.loom("clean", "--keep-last", "0", DOCKER_HOST=rootless.url).code == 0
    assert list(theirs.tmp.glob("loom-*/*")) == []


def test_doctor_says_that_the_engine_is_rootless(theirs: Project, rootless: Rootless) -> None:
    ran = theirs.loom("doctor", DOCKER_HOST=rootless.url)
    assert "engine: rootless Docker " in ran.out, ran.out + ran.err


def test_an_engine_of_another_user_says_so(theirs: Project, rootless: Rootless) -> None:
    theirs.become = ()
    give_to(0, theirs.root.parent)
    ran = theirs.run("root", "--mount-mode", "bind_mount", DOCKER_HOST=rootless.url)
    assert ran.code == 3
    assert "root in its containers is another user here" in ran.out
    assert "--mount-mode ephemeral_volume" in ran.out
    assert theirs.run("root", DOCKER_HOST=rootless.url).code == 0, "unless nobody asks for it: the files are sent"
