"""Places to run steps in, and the images that torture them; everything made here is labelled and removed again."""

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
RUN_IDS = [RUN_ID]
"""Also those of sessions that several tests share."""


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

    def __init__(self, session: Any, heard: Heard, project_dir: str) -> None:
        self.session = session
        self.project_dir = project_dir
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
        self.run_id = RUN_ID

    def request(self, **changes: Any) -> SessionRequest:
        values: dict[str, Any] = {
            "run_id": self.run_id,
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
        request = self.request(**changes)
        with self.provider.open(request, heard, Cancel()) as session:
            yield Job(session, heard, request.project_dir)


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    client = connect(os.environ)
    yield client
    for run_id in RUN_IDS:
        for container in client.containers.list(all=True, filters={"label": f"loom.run={run_id}"}):
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


def new_run_id() -> str:
    RUN_IDS.append(f"{RUN_ID}s{len(RUN_IDS)}")
    return RUN_IDS[-1]


@contextmanager
def site_on(request: pytest.FixtureRequest, kind: str, folder: Path, run_id: str = RUN_ID) -> Iterator[Site]:
    """A provider of that kind (a mount mode is Docker's) with a workspace in `folder`; its run leaves nothing behind."""
    workspace = folder / "workspace"
    workspace.mkdir()
    client = None
    if kind == "host":
        site = Site(kind, HostProvider(os.environ), workspace)
    elif kind == "kubernetes":
        setup = Setup(environ=kubernetes.environ(), config=Config(), run_id=run_id)
        site = Site(kind, providers.make(kind, setup), workspace, kubernetes.IMAGE)
        site.mount_mode = MountMode.VOLUME
    else:
        client = request.getfixturevalue("podman" if kind == "podman" else "engine")
        site = Site("docker", DockerProvider(lambda: client), workspace, DEBIAN, client)
        if kind == "podman":
            site.network = Network(mode="none")
        else:
            site.mount_mode = MountMode(kind)
    site.run_id = run_id
    provider = site.provider  # a test may give it another
    yield site
    assert list(provider.close()) == []
    if client is not None:
        assert client.containers.list(all=True, filters={"label": f"loom.run={run_id}"}) == []
    elif kind == "kubernetes":
        assert kubernetes.pods_of(run_id) == []


@pytest.fixture
def docker_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site_on(request, MountMode.BIND, tmp_path) as site:
        yield site


@pytest.fixture
def host_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site_on(request, "host", tmp_path) as site:
        yield site


@pytest.fixture
def podman_site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site_on(request, "podman", tmp_path) as site:
        yield site


@pytest.fixture(scope="session")
def podman(
    engine: docker.DockerClient, shell_images: Mapping[str, str], podman_engine: str
) -> Iterator[docker.DockerClient]:
    """A podman service of the tests' own, which has the images they use."""
    client = connect({"DOCKER_HOST": podman_engine})
    for name in dict.fromkeys((DEBIAN, *(shell_images[name] for name in PODMAN_SH))):
        client.images.load(b"".join(engine.api.get_image(name)))
    yield client
    client.close()


def _in_docker(*kinds: str) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.docker) for kind in kinds]


HOST_AND_DOCKER = ["host", *_in_docker(MountMode.BIND)]
PROVIDERS = [*HOST_AND_DOCKER, *_in_docker("podman"), pytest.param("kubernetes", marks=pytest.mark.kubernetes)]
"""One of each; how a job sees its files makes no difference."""


def _site(*kinds: Any) -> Any:
    @pytest.fixture(params=kinds)
    def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
        with site_on(request, request.param, tmp_path) as site:
            yield site

    return site


site = _site(*PROVIDERS)
"""The same promise, kept by every provider."""
files_site = _site(*PROVIDERS, *_in_docker(MountMode.OVERLAY, MountMode.VOLUME))
"""A promise about files, kept by every provider in each mount mode."""
shell_site = _site(*HOST_AND_DOCKER)
"""A promise that the shell keeps, wherever it runs."""


def _job(*kinds: Any) -> Any:
    @pytest.fixture(scope="module", params=kinds)
    def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
        with (
            site_on(request, request.param, tmp_path_factory.mktemp("shared"), new_run_id()) as site,
            site.job() as job,
        ):
            yield job

    return job


# One session for the tests of a module. A test that ends its session, or counts on an empty workspace, has one of its own.
job = _job(*PROVIDERS)
shell_job = _job(*HOST_AND_DOCKER)

SHELLS = ("bash", "dash", "ash")
PODMAN_SH = SHELLS[effort(2, 0) :]
ANY_SH = [*SHELLS, *(f"podman-{name}" for name in PODMAN_SH)]


@contextmanager
def site_with_sh(request: pytest.FixtureRequest, folder: Path, run_id: str = RUN_ID) -> Iterator[Site]:
    images: Mapping[str, str] = request.getfixturevalue("shell_images")
    engine, _, name = request.param.rpartition("-")
    with site_on(request, engine or MountMode.BIND, folder, run_id) as site:
        site.image = images[name]
        yield site


@pytest.fixture(params=ANY_SH)
def any_sh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A container whose `sh` is this one, of Docker or podman."""
    with site_with_sh(request, tmp_path) as site:
        yield site


@pytest.fixture(scope="module", params=ANY_SH)
def sh_job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """As `any_sh`: one session for the tests of a module."""
    with site_with_sh(request, tmp_path_factory.mktemp("shared"), new_run_id()) as site, site.job() as job:
        yield job


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
