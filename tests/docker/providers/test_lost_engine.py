"""Connections that break, engines that are killed, restarted or hang, and an engine that sees none of our files.

The engines are the tests' own, in a network and mount namespace of their own: the machine's is never touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from loom.errors import EngineUnavailable, ProviderError
from loom.plan.model import MountMode, Network
from loom.providers import driven as driven
from loom.providers.docker.container.cleanup import reap
from loom.providers.docker.engine.client import ANSWER_S, connect
from loom.providers.docker.provider import DockerProvider
from loom.providers.docker.session import attach, session
from loom.status import Ended
from loom.storage.selection import Everything
from loom.storage.workspace import view_of
from tests.support.connections import serve_each
from tests.support.waiting import promptly

if TYPE_CHECKING:
    from conftest import Site

OwnEngine = Any
NewEngine = Any
"""Of the directory's conftest above."""

pytestmark = pytest.mark.docker


class Proxy:
    """Passes an engine's socket on, and cuts connections on demand."""

    def __init__(self, path: Path, to: str, *, lose: bytes = b"") -> None:
        """`lose`: a request with this in it is sent on, and its connection cut before the answer; once."""
        self.path = path
        self.lose = lose
        self._to = to
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._attached: list[socket.socket] = []
        serve_each(self._listener, self._serve)

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._to)
            back = threading.Thread(target=self._pump, args=(engine, client, False), daemon=True)
            back.start()
            self._pump(client, engine, True)
            back.join()

    def _pump(self, source: socket.socket, target: socket.socket, look: bool) -> None:
        try:
            while data := source.recv(65536):
                if look and (b"stdout=1" in data) and (b"/attach?" in data or b"/logs?" in data):
                    self._attached.append(source)
                target.sendall(data)
                if look and self.lose and self.lose in data:
                    self.lose = b""
                    break
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut_output(self) -> int:
        cut, self._attached = self._attached, []
        for connection in cut:
            with contextlib.suppress(OSError):  # it ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        return len(cut)

    def close(self) -> None:
        self._listener.close()


def test_a_lost_connection_is_taken_up_without_losing_or_doubling_a_line(docker_site: Site, tmp_path: Path) -> None:
    proxy = Proxy(tmp_path / "proxy.sock", "/var/run/docker.sock")
    client = connect({"DOCKER_HOST": f"unix://{proxy.path}"})
    docker_site.provider = DockerProvider(lambda: client)
    try:
        with docker_site.job() as job:
            job.run("echo before; printf partial; echo error >&2")
            cuts = []
            stop = threading.Event()

            def cut() -> None:
                while not stop.wait(0.4):
                    cuts.append(proxy.cut_output())

            thread = threading.Thread(target=cut)
            thread.start()
            ran = job.run(
                "i=0; while [ $i -lt 600 ]; do printf 'out %s é' $i; sleep 0.003; echo; echo err $i >&2; i=$((i+1)); done; exit 7"
            )
            stop.set()
            thread.join()
            assert sum(cuts) >= 2
            assert ran.code == 7
            assert ran.out.decode().splitlines() == [f"out {number} é" for number in range(600)]
            assert ran.err.decode().splitlines() == [f"err {number}" for number in range(600)]
            assert job.run("echo next").out == b"next\n"
    finally:
        docker_site.provider.close()
        client.close()
        proxy.close()


@pytest.fixture
def own_engine(
    new_engine: NewEngine, busybox: bytes, docker_site: Site
) -> Iterator[tuple[OwnEngine, docker.DockerClient]]:
    own = new_engine()
    client = own.start()
    own.load_busybox(client, busybox)
    docker_site.provider = DockerProvider(lambda: client)
    docker_site.image = "ash:test"
    yield own, client
    client.close()


NO_NETWORK = Network(mode="none")


def test_a_lost_connection_that_ends_the_container_is_not_the_jobs_failure(any_sh: Site) -> None:
    with any_sh.job() as job:
        assert job.run("true").code == 0
        with pytest.raises(ProviderError, match="the connection to the container of job job was lost"):
            job.run("echo up; sleep 600", then=job.session.attachment.close_input)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_ends_in_mid_step(
    own_engine: tuple[OwnEngine, docker.DockerClient], docker_site: Site, how: signal.Signals
) -> None:
    own, client = own_engine
    with docker_site.job(network=NO_NETWORK) as job:
        assert job.run("echo before").out == b"before\n"
        with promptly(), pytest.raises(ProviderError) as caught:
            job.run("echo up; sleep 600", then=lambda: own.signal(how))
    assert caught.value.exit_code == 3
    if how is signal.SIGKILL:
        assert "engine" in str(caught.value)
        left = docker_site.provider.close()
        assert len(left) <= 1, "it says that the container could not be removed"
        own.stop()
        client = own.start()
        assert client.api.containers() == [], "its input has ended, so the driver has too"
        assert len(client.api.containers(all=True)) == 1
        with pytest.MonkeyPatch.context() as patch:
            # This process stands for the next loom.
            patch.setattr("loom.providers.labels.started_at", lambda pid: "")
            assert [found.problem for found in reap(client)] == [""]
        assert client.api.containers(all=True) == []


def test_an_engine_that_is_lost_before_the_artifacts_is_an_error(
    own_engine: tuple[OwnEngine, docker.DockerClient], docker_site: Site
) -> None:
    own, _ = own_engine
    docker_site.mount_mode = MountMode.OVERLAY
    with docker_site.job(network=NO_NETWORK) as job:
        own.signal(signal.SIGKILL)
        own.process.wait(60)
        with pytest.raises(EngineUnavailable):
            job.session.files()
    docker_site.provider.close()


@pytest.mark.parametrize("request_", [b"/create?", b"/attach?", b"/start"])
def test_a_job_starts_although_an_answer_is_lost(docker_site: Site, tmp_path: Path, request_: bytes) -> None:
    proxy = Proxy(tmp_path / "proxy.sock", "/var/run/docker.sock", lose=request_)
    client = connect({"DOCKER_HOST": f"unix://{proxy.path}"})
    docker_site.provider = DockerProvider(lambda: client)
    try:
        with docker_site.job() as job:
            assert not proxy.lose
            assert job.run("echo alive").out == b"alive\n"
        assert docker_site.provider.close() == []
    finally:
        client.close()
        proxy.close()


@pytest.mark.slow
def test_an_engine_that_hangs_is_given_up(
    own_engine: tuple[OwnEngine, docker.DockerClient], docker_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = own_engine
    monkeypatch.setattr(driven, "ASK_ENGINE_S", 0.5)
    with docker_site.job(network=NO_NETWORK) as job:
        # An engine that answers is asked and left in peace.
        assert job.run("sleep 1.5; echo done").out == b"done\n"
        for module, limit in ((session, "PING_S"), (session, "LEAVE_S"), (driven, "LEAVE_S")):
            monkeypatch.setattr(module, limit, 0.5)
        own.signal(signal.SIGSTOP)
        with pytest.raises(EngineUnavailable, match="silent") as caught:
            job.run("sleep 600")
        threading.Timer(3, own.signal, [signal.SIGCONT]).start()
    assert caught.value.exit_code == 3
    assert docker_site.provider.close() == []


def test_an_engine_that_hangs_while_a_job_starts_is_given_up(
    own_engine: tuple[OwnEngine, docker.DockerClient], docker_site: Site
) -> None:
    own, _ = own_engine
    client = connect({"DOCKER_HOST": own.url})
    client.api.timeout = 1
    docker_site.provider = DockerProvider(lambda: client)
    own.signal(signal.SIGSTOP)
    try:
        with promptly(), pytest.raises(EngineUnavailable), docker_site.job(network=NO_NETWORK):
            pass
    finally:
        own.signal(signal.SIGCONT)
    docker_site.provider.close()
    client.api.timeout = ANSWER_S  # a busy machine may take longer than a second to start a container
    with docker_site.job(network=NO_NETWORK) as job:
        assert job.run("echo alive").out == b"alive\n"
    docker_site.provider.close()
    client.close()


def test_a_lost_connection_to_an_engine_that_can_not_write_its_log(
    new_engine: NewEngine,
    busybox: bytes,
    docker_site: Site,
    make_file_system: Callable[..., Path],
    fill: Callable[[Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attach, "BEHIND_S", 1)
    own = new_engine()
    own.data = make_file_system("ext4", 96)
    try:
        client = own.start()
        own.load_busybox(client, busybox)
        client.close()
        proxy = Proxy(tmp_path / "proxy.sock", own.url.removeprefix("unix://"))
        client = connect({"DOCKER_HOST": f"unix://{proxy.path}"})
        docker_site.provider = DockerProvider(lambda: client)
        docker_site.image = "ash:test"
        with docker_site.job(network=NO_NETWORK) as job:
            job.run("echo before")
            fill(own.data)
            lines = "i=0; while [ $i -lt 5000 ]; do echo line $i, which the log has no room for; i=$((i+1)); done"
            assert job.run(lines).out.count(b"\n") == 5000, "all of it is there as long as the connection is"
            with pytest.raises(ProviderError, match=r"log does not contain the output so far") as caught:
                job.run("echo up; sleep 600", then=proxy.cut_output)
        assert "disk" in (caught.value.hint or "")
        assert docker_site.provider.close() == []
        assert client.api.containers(all=True) == []
        client.close()
        proxy.close()
    finally:
        own.stop()


@pytest.mark.slow
def test_an_engine_that_sees_none_of_our_files(
    new_engine: NewEngine, busybox: bytes, docker_site: Site, tmp_path: Path
) -> None:
    own = new_engine(hidden=tmp_path)
    client = own.start()
    own.load_busybox(client, busybox)
    docker_site.provider = DockerProvider(lambda: client)
    docker_site.image = "ash:test"
    (docker_site.workspace / "given").write_text("given\n")
    unseen = docker_site.job(network=NO_NETWORK)
    with pytest.raises(ProviderError, match="does not see the workspace") as caught:
        unseen.__enter__()
    assert "ephemeral_volume" in (caught.value.hint or "")
    docker_site.mount_mode = MountMode.OVERLAY
    with pytest.raises(ProviderError, match="does not see the workspace"):
        docker_site.job(network=NO_NETWORK).__enter__()
    docker_site.mount_mode = MountMode.VOLUME
    with docker_site.job(network=NO_NETWORK) as job:
        assert job.run("cat given; echo made >made").out == b"given\n"
        made = view_of(job.session.files()).read(Everything("made"), lambda _: None)
        assert [content.read() for _, content in made if content is not None] == [b"made\n"]
        assert job.run("sleep 20", timeout_s=0.2).exit.ended is Ended.TIMED_OUT
    assert docker_site.provider.close() == []
    assert client.api.containers(all=True) == []
    assert not client.api.volumes()["Volumes"]
    client.close()


# Engines that are reached by TLS


@pytest.fixture
def tls_proxy(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The engine behind TLS, as the variables that name it: the client has to show a certificate, as Docker's own does."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for certificates")
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=certificates, check=True, capture_output=True)
    shutil.copy(certificates / "cert.pem", certificates / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.load_verify_locations(certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
                client = context.wrap_socket(raw, server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            engine = socket.socket(socket.AF_UNIX)
            engine.connect("/var/run/docker.sock")
            threading.Thread(target=pump, args=(client, engine), daemon=True).start()
            threading.Thread(target=pump, args=(engine, client), daemon=True).start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    threading.Thread(target=accept, daemon=True).start()
    yield {
        "DOCKER_HOST": f"tcp://127.0.0.1:{listener.getsockname()[1]}",
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_CERT_PATH": str(certificates),
    }
    listener.close()


def test_an_engine_behind_tls(docker_site: Site, tls_proxy: dict[str, str]) -> None:
    client = connect(tls_proxy)
    docker_site.provider = DockerProvider(lambda: client)
    content = os.urandom(8 * 1024 * 1024)
    (docker_site.workspace / "binary").write_bytes(content)
    try:
        with docker_site.job() as job:
            ran = job.run("cat binary; echo error >&2; exit 3")
            assert (ran.code, ran.out == content, ran.err) == (3, True, b"error\n")
            assert job.run("sleep 20", timeout_s=0.3).exit.ended is Ended.TIMED_OUT
        assert docker_site.provider.close() == []
    finally:
        client.close()


def test_an_engine_behind_tls_that_does_not_know_us(tls_proxy: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no Docker engine answers at tcp://"):
        connect({**tls_proxy, "DOCKER_CERT_PATH": str(tmp_path)})
