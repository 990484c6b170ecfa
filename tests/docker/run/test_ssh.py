"""An engine behind ssh: the real `ssh` and a server of the tests' own, with keys that are only theirs."""

import getpass
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.connections import free_port
from tests.support.waiting import promptly, until

from .conftest import Project, events_of

pytestmark = [pytest.mark.docker, pytest.mark.slow]

HERE = "/var/run/docker.sock"
STEPS = "\n".join(f"    - echo {number}; exit 0" for number in range(200))
WORKFLOW = f"""
version: v1
stages: [test]
many:
  stage: test
  image: debian:trixie-slim
  network: none
  script:
{STEPS}
bytes:
  stage: test
  image: debian:trixie-slim
  network: none
  script:
    - cat data; cat data >&2
    - tr '\\0' x </dev/zero | head -c 20000000; cat
    - cp data copy
  artifacts: {{paths: [copy]}}
fails:
  stage: test
  image: debian:trixie-slim
  network: none
  script:
    - echo made >made
    - exit 7
"""
DATA = bytes(range(256)) * 100


class SshServer:
    """An sshd on a port of this machine's own address, and an `ssh` that knows it, and no file of the user's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("host", "other_host", "key", "wrong_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
        self.port = free_port()
        self.url = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        self.path = f"{directory}/bin{os.pathsep}{os.environ['PATH']}"
        self.knows("host")
        self.uses("key")
        (directory / "bin").mkdir()
        ssh = directory / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F "{directory}/config" "$@"\n')
        ssh.chmod(0o755)
        (directory / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/key.pub\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nPidFile none\n"
        )
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, and only the service's start makes it
        sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
        assert sshd is not None
        self._process = subprocess.Popen(
            [sshd, "-D", "-f", directory / "sshd_config", "-E", directory / "log"], stdin=subprocess.DEVNULL
        )

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    pytest.skip(f"sshd does not start here: {(self.directory / 'log').read_text()[-300:]}")
                time.sleep(0.05)

    def knows(self, host_key: str | None) -> None:
        known = f"[127.0.0.1]:{self.port} {(self.directory / f'{host_key}.pub').read_text()}" if host_key else ""
        (self.directory / "known_hosts").write_text(known)

    def uses(self, key: str) -> None:
        (self.directory / "config").write_text(
            f"UserKnownHostsFile {self.directory}/known_hosts\nGlobalKnownHostsFile none\n"
            f"IdentityFile {self.directory}/{key}\nIdentitiesOnly yes\n"
        )

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    if shutil.which("ssh") is None or shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin") is None:
        pytest.skip("needs ssh and sshd (Debian's openssh-client and openssh-server)")
    directory = tmp_path / "ssh"
    directory.mkdir()
    made = SshServer(directory)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short path, as that of a user's sockets is; a test's own is too long for one."""
    with tempfile.TemporaryDirectory(prefix="run", dir="/tmp") as made:
        yield Path(made)


def printed(events: Path, stream: str) -> bytes:
    lines = [event for event in events_of(events) if event.get("stream") == stream]
    return b"\n".join(b64decode(line["raw_b64"]) if "raw_b64" in line else line["text"].encode() for line in lines)


def ssh_processes(server: SshServer) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"{server.directory}/config"], capture_output=True, text=True, check=False)
    return found.stdout.split()


@pytest.mark.parametrize("mode", ["bind_mount", "ephemeral_volume"])
def test_a_run_behind_ssh_is_like_any_other(project: Project, server: SshServer, short: Path, mode: str) -> None:
    (project.root / "data").write_bytes(DATA)
    project.workflow(WORKFLOW)
    there = {"DOCKER_HOST": server.url, "PATH": server.path, "XDG_RUNTIME_DIR": str(short)}
    ran = project.run("--mount-mode", mode, "--keep", "on-failure", **there)
    assert ran.code == 1, ran.out + ran.err
    for number in (1, 2, 50, 199, 200):
        assert ran.output("many", f"script/{number:02}") == [str(number - 1)]
    for stream in ("stdout", "stderr"):
        assert printed(ran.logs / "jobs/bytes/user/script/01/events.jsonl", stream) == DATA
    assert sum(map(len, ran.output("bytes", "script/02"))) == 20_000_000
    assert ran.manifest("fails")["exit_code"] == 7
    inside = project.loom("exec", "fails", "--", "cat", "made", **there)
    assert (inside.code, inside.out) == (0, "made\n")
    assert project.loom("clean", "--keep-last", "0", **there).code == 0
    until(lambda: not ssh_processes(server))  # each ends with the loom whose socket it forwards
    until(lambda: not list(short.iterdir()))


def test_a_context_may_name_an_ssh_address(project: Project, server: SshServer) -> None:
    digest = hashlib.sha256(b"far").hexdigest()
    meta = project.home / ".docker" / "contexts" / "meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    address = f"{server.url}{HERE}"
    meta.write_text(json.dumps({"Name": "far", "Endpoints": {"docker": {"Host": address}}}))
    ran = project.loom("doctor", DOCKER_CONTEXT="far", DOCKER_HOST="", PATH=server.path)
    assert f"at {address} (context far, from DOCKER_CONTEXT)" in ran.out, ran.out + ran.err


@pytest.mark.parametrize(
    ("broken", "says", "move"),
    [
        (lambda server: server.uses("wrong_key"), "Permission denied (publickey", "ssh-add"),
        (lambda server: server.knows("other_host"), "key is not the one that is known", "ssh-keygen -R"),
        (lambda server: server.knows(None), "Host key verification failed", "connect once by hand"),
        (lambda server: server.stop(), "Connection refused", "try `ssh` by hand"),
        (lambda server: setattr(server, "url", server.url + "/none.sock"), "/none.sock", "start Docker there"),
    ],
    ids=["wrong key", "changed host", "unknown host", "nobody listens", "no engine there"],
)
def test_what_is_wrong_with_the_way_there_is_said(
    project: Project, server: SshServer, broken: Callable[[SshServer], None], says: str, move: str
) -> None:
    broken(server)
    project.workflow(WORKFLOW)
    with promptly():
        ran = project.run("many", DOCKER_HOST=server.url, PATH=server.path)
    assert ran.code == 3
    assert says in ran.out, ran.out + ran.err
    assert move in ran.out
    assert "Traceback" not in ran.out + ran.err
