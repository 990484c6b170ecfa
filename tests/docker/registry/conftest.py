"""Real registries for the tests below, in containers on free ports of this machine: one open, one with a password."""

import io
import os
import shutil
import socket
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import docker
import pytest

from loom.providers.docker.engine.client import connect
from tests.support.connections import free_port
from tests.support.waiting import until

# No container that watches over the others: its image is not on this machine.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage

# `htpasswd -Bbn loom open-sesame`
HTPASSWD = "loom:$2y$05$dO2n.V.wlA8gz714YBu9L.14S6oBoJrpqnYiy/oci0YqVtMf8nCY6\n"


class Registry:
    """A registry on a free port, with its own storage, which may be stopped and started again."""

    def __init__(self, image: str, folder: Path, *, password: bool = False) -> None:
        self.image = image
        self.folder = folder
        self.port = free_port()
        self.host = f"localhost:{self.port}"
        self._container: DockerContainer | None = None
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
        directory = str(self.folder)
        user = f"{os.getuid()}:{os.getgid()}"
        container = DockerContainer(self.image, command=f"{directory}/config.yml", network_mode="host", user=user)
        self._container = container.with_volume_mapping(directory, directory, "rw").start()
        until(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        if self._container is not None:
            self._container.stop()
            self._container = None


@pytest.fixture(scope="session")
def registry_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Debian's registry as an image: no image of it can be pulled where there is no registry."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no docker-registry program (Debian's package)")
    folder = tmp_path_factory.mktemp("registry-image")
    shutil.copy(program, folder / "docker-registry")
    (folder / "Dockerfile").write_text(
        "FROM debian:trixie-slim\nENV OTEL_TRACES_EXPORTER=none\n"
        'COPY docker-registry /\nENTRYPOINT ["/docker-registry", "serve"]\n'
    )
    with DockerImage(path=folder, tag=f"loom-test-registry-{os.getpid()}") as image:
        yield str(image)


@pytest.fixture(scope="module")
def client() -> Iterator[docker.DockerClient]:
    client = connect(os.environ)
    yield client
    client.close()


@contextmanager
def serving(image: str, folder: Path, client: docker.DockerClient, **options: bool) -> Iterator[Registry]:
    registry = Registry(image, folder, **options)
    registry.start()
    try:
        yield registry
    finally:
        registry.stop()
        for found in client.api.images(all=True):
            for name in [*(found.get("RepoTags") or ()), *(found.get("RepoDigests") or ())]:
                if name.startswith(registry.host):
                    remove(client, name)


@pytest.fixture(scope="module")
def registry(
    registry_image: str, tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient
) -> Iterator[Registry]:
    with serving(registry_image, tmp_path_factory.mktemp("registry"), client) as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded(
    registry_image: str, tmp_path_factory: pytest.TempPathFactory, client: docker.DockerClient
) -> Iterator[Registry]:
    with serving(registry_image, tmp_path_factory.mktemp("guarded"), client, password=True) as registry:
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
def serving_(registry_image: str, client: docker.DockerClient) -> Callable[[Path], AbstractContextManager[Registry]]:
    """Serve a registry of a test's own."""
    return lambda folder: serving(registry_image, folder, client)


@pytest.fixture(name="remove")
def remove_(client: docker.DockerClient) -> Callable[[str], None]:
    """Take an image's name away from the engine, if it is there."""
    return lambda name: remove(client, name)
