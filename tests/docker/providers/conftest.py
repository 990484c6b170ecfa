"""Places to run steps in, and the images that torture them; everything made here is labelled and removed again."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from loom import providers
from loom.cancel import Cancel
from loom.config import Config
from loom.plan.model import Image, MountMode, Network
from loom.providers import driven as session
from loom.providers import inside
from loom.providers.base import Provider, Session, SessionRequest, Setup
from loom.providers.command import Command, Share
from loom.providers.docker.engine.client import connect
from loom.providers.docker.provider import DockerProvider
from loom.providers.host import HostProvider
from loom.status import Exit, Stream
from tests.support import kubernetes
from tests.support.effort import effort

DEBIAN = "debian:trixie-slim"
TEST = "loom-test"
RUN_ID = f"test{secrets.token_hex(4)}"


@dataclass
class Heard:
    """What reached an `on_output`."""

    pieces: list[tuple[Stream, bytes]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self.lock:
            self.pieces.append((stream, data))

    @property
    def out(self) -> bytes:
        return b"".join(data for stream, data in self.pieces if stream == "stdout")

    @property
    def err(self) -> bytes:
        return b"".join(data for stream, data in self.pieces if stream == "stderr")


@dataclass
class Ran:
    exit: Exit
    heard: Heard
    seconds: float

    @property
    def code(self) -> int:
        return self.exit.code

    @property
    def out(self) -> bytes:
        return self.heard.out

    @property
    def err(self) -> bytes:
        return self.heard.err


class Job:
    """A session with a short way to say what a test wants of it."""

    def __init__(self, session: Any, heard: Heard) -> None:
        self.session = session
        self.heard = heard

    def run(
        self,
        script: str,
        *,
        shell: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
        cancel: Cancel | None = None,
        merge_output: bool = False,
        share: Share | None = None,
        then: Callable[[], object] | None = None,
        **more: Any,
    ) -> Ran:
        """`then` is called at the first output."""
        heard = Heard()

        def hear(stream: Stream, data: bytes) -> None:
            first = not heard.pieces
            heard(stream, data)
            if first and then is not None:
                then()

        started = time.monotonic()
        command = Command(
            script=script,
            shell=shell,
            environment=environment or {},
            timeout_s=timeout_s,
            merge_output=merge_output,
            share=share,
            observed=True,
            **more,
        )
        ended = self.session.run(command, hear, cancel or Cancel())
        return Ran(ended, heard, time.monotonic() - started)

    def run_in_one_shell(self, *scripts: str, shell: tuple[str, ...] = ()) -> list[Ran]:
        """Run the scripts as steps that share a shell, until it ends."""
        done: list[Ran] = []
        for number, script in enumerate(scripts, start=1):
            share = Share(first=number == 1, last=number == len(scripts))
            done.append(self.run(script, shell=shell, share=share))
            if not done[-1].exit.goes_on:
                break
        return done


class Site:
    """A provider with a workspace."""

    def __init__(
        self, kind: str, provider: Provider, workspace: Path, image: str | None = None, engine: Any = None
    ) -> None:
        self.kind = kind
        self.engine = engine
        self.provider = provider
        self.workspace = workspace
        self.image = image
        self.mount_mode = MountMode.BIND
        self.network = Network()

    def request(self, **changes: Any) -> SessionRequest:
        values: dict[str, Any] = {
            "run_id": RUN_ID,
            "job_id": "job",
            "workspace": self.workspace,
            "project_dir": str(self.workspace) if self.kind == "host" else "/workspace",
            "environment": {},
            "shell": ("sh", "-e"),
            "image": Image(name=self.image) if self.image else None,
            "mount_mode": self.mount_mode,
            "network": self.network,
        }
        return SessionRequest(**{**values, **changes})

    @contextmanager
    def job(self, **changes: Any) -> Iterator[Job]:
        heard = Heard()
        with self.provider.open(self.request(**changes), heard, Cancel()) as session:
            yield Job(session, heard)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = connect(os.environ)
    yield client
    for container in client.containers.list(all=True, filters={"label": f"loom.run={RUN_ID}"}):
        container.remove(force=True, v=True)
    client.close()


@pytest.fixture(scope="session")
def build(engine: docker.DockerClient) -> Iterator[Callable[..., str]]:
    """Builds an image from Dockerfile text and files; the images go when the tests are over."""
    made: list[str] = []

    def build(name: str, dockerfile: str, files: Mapping[str, bytes] | None = None) -> str:
        tag = f"loom-test-{RUN_ID}-{name}"
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as archive:
            for path, content in {"Dockerfile": dockerfile.encode(), **(files or {})}.items():
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
        context.seek(0)
        engine.images.build(fileobj=context, custom_context=True, tag=tag, labels={TEST: "1"}, rm=True)
        made.append(tag)
        return tag

    yield build
    for tag in made:
        try:
            engine.images.remove(tag, force=True)
        except docker.errors.ImageNotFound:
            pass


@pytest.fixture(scope="session")
def shell_images(build: Callable[..., str], busybox: bytes) -> Mapping[str, str]:
    """Images whose `sh` is dash, bash, and busybox' ash with nothing else beside it."""
    return {
        "dash": DEBIAN,
        "bash": build("bash", f"FROM {DEBIAN}\nRUN ln -sf bash /bin/sh\n"),
        "ash": build("ash", "FROM scratch\nCOPY sh /bin/sh\n", {"sh": busybox}),
    }


@pytest.fixture
def docker_provider(engine: docker.DockerClient) -> Iterator[DockerProvider]:
    provider = DockerProvider(lambda: engine)
    yield provider
    assert list(provider.close()) == []
    assert engine.containers.list(all=True, filters={"label": f"loom.run={RUN_ID}"}) == []


@pytest.fixture
def docker_site(engine: docker.DockerClient, docker_provider: DockerProvider, tmp_path: Path) -> Site:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    return Site("docker", docker_provider, workspace, DEBIAN, engine)


@pytest.fixture
def host_site(tmp_path: Path) -> Iterator[Site]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    provider = HostProvider(os.environ)
    yield Site("host", provider, workspace)
    provider.close()


@pytest.fixture(scope="session")
def podman(
    engine: docker.DockerClient, shell_images: Mapping[str, str], podman_engine: str
) -> Iterator[docker.DockerClient]:
    """A podman service of the tests' own, which has the images they use."""
    client = connect({"DOCKER_HOST": podman_engine})
    for name in shell_images.values():
        client.images.load(b"".join(engine.api.get_image(name)))
    yield client
    client.close()


@pytest.fixture
def podman_site(podman: docker.DockerClient, tmp_path: Path) -> Iterator[Site]:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    provider = DockerProvider(lambda: podman)
    site = Site("docker", provider, workspace, DEBIAN, podman)
    site.network = Network(mode="none")
    yield site
    assert list(provider.close()) == []
    assert podman.containers.list(all=True) == []


@pytest.fixture
def kubernetes_site(tmp_path: Path) -> Iterator[Site]:
    setup = Setup(environ=kubernetes.environ(), config=Config(), run_id=RUN_ID)
    provider = providers.make("kubernetes", setup)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    site = Site("kubernetes", provider, workspace, kubernetes.IMAGE)
    site.mount_mode = MountMode.VOLUME
    yield site
    assert list(provider.close()) == []
    assert kubernetes.pods_of(RUN_ID) == []


SESSIONS = [
    "host",
    *(pytest.param(mode, marks=pytest.mark.docker) for mode in MountMode),
    pytest.param("podman", marks=pytest.mark.docker),
    pytest.param("kubernetes", marks=pytest.mark.kubernetes),
]


@pytest.fixture(params=SESSIONS)
def site(request: pytest.FixtureRequest) -> Site:
    """The same promise, kept by every provider."""
    if request.param in ("host", "podman", "kubernetes"):
        return request.getfixturevalue(f"{request.param}_site")
    docker_site: Site = request.getfixturevalue("docker_site")
    docker_site.mount_mode = request.param
    return docker_site


SHELLS = ("bash", "dash", "ash")


@pytest.fixture(params=[*SHELLS, *(f"podman-{name}" for name in SHELLS[effort(1, 0) :])])
def any_sh(request: pytest.FixtureRequest, shell_images: Mapping[str, str]) -> Site:
    """A container whose `sh` is this one, of Docker or podman."""
    engine, _, name = request.param.rpartition("-")
    site: Site = request.getfixturevalue(f"{engine or 'docker'}_site")
    site.image = shell_images[name]
    return site


__all__ = ["Heard", "Job", "MountMode", "Ran", "Session", "Site"]


class Clock:
    """The time of sessions, of which a test lets much pass at once: a busy machine does little in a short time."""

    passed = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.passed

    def hour(self) -> None:
        self.passed += 3600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (inside, session):
        monkeypatch.setattr(module, "time", made)
    return made
