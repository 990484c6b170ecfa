"""A real registry for the tests below: processes of our own on free ports, one open, one with a password."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import docker
import pytest

from loom.providers.docker.client import connect

# `htpasswd -Bbn loom open-sesame`
HTPASSWD = "loom:$2y$05$dO2n.V.wlA8gz714YBu9L.14S6oBoJrpqnYiy/oci0YqVtMf8nCY6\n"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Registry:
    """A registry process of our own, on a free port, with its own storage."""

    def __init__(self, folder: Path, *, password: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        auth = ""
        if password:
            (folder / "htpasswd").write_text(HTPASSWD)
            auth = f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
        (folder / "config.yml").write_text(
            "version: 0.1\n"
            "log: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'}}\n" + auth
        )

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(self.folder / "config.yml")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
        )
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the registry does not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = connect(os.environ)
    yield client
    client.close()


@contextmanager
def serving(folder: Path, client: docker.DockerClient, **options: bool) -> Iterator[Registry]:
    registry = Registry(folder, **options)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
        for image in client.api.images(all=True):
            for name in [*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ())]:
                if name.startswith(registry.host):
                    remove(client, name)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("registry"), client) as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient) -> Iterator[Registry]:
    with serving(tmp_path_factory.mktemp("guarded"), client, password=True) as registry:
        yield registry


def remove(client: docker.DockerClient, name: str) -> None:
    try:
        client.api.remove_image(name, noprune=True)
    except docker.errors.ImageNotFound:
        pass


@pytest.fixture
def publish(client: docker.DockerClient) -> Callable[..., str]:
    """Make a small image, push it under a name, and forget it here; returns its digest."""

    def make(registry: Registry, name: str, *, content: str = "one", forget: bool = True) -> str:
        full = f"{registry.host}/{name}"
        made = client.api.import_image_from_data(_tar({"content": content + uuid.uuid4().hex}), *_split(full))
        assert "error" not in made
        auth = {"username": "loom", "password": "open-sesame"} if (registry.folder / "htpasswd").exists() else {}
        digest = ""
        for line in client.api.push(*_split(full), stream=True, decode=True, auth_config=auth):
            assert "error" not in line, line
            digest = line.get("aux", {}).get("Digest", digest)
        if forget:
            remove(client, full)
        return digest

    return make


def _split(name: str) -> tuple[str, str]:
    repository, _, tag = name.rpartition(":")
    return repository, tag


def _tar(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))
    return buffer.getvalue()


@pytest.fixture(name="free_port")
def free_port_() -> int:
    return free_port()


@pytest.fixture(name="serving")
def serving_(client: docker.DockerClient) -> Callable[[Path], AbstractContextManager[Registry]]:
    """Serve a registry of a test's own."""
    return lambda folder: serving(folder, client)


@pytest.fixture(name="remove")
def remove_(client: docker.DockerClient) -> Callable[[str], None]:
    """Take an image's name away from the engine, if it is there."""
    return lambda name: remove(client, name)


@pytest.fixture(autouse=True)
def needs_registry() -> None:
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry program (Debian's package)")
