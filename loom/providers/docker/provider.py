"""The Docker provider: creates a job's container and session, and cleans up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.plan.model import Job, MountMode
from loom.providers import labels
from loom.providers.base import (
    Capabilities,
    OpenedServices,
    Provider,
    ResolveRequest,
    Session,
    SessionFacts,
    SessionRequest,
    Setup,
    SideProgram,
)
from loom.providers.docker.container import create as container
from loom.providers.docker.container import refusals
from loom.providers.docker.container.cleanup import remove_container, remove_run, tidied
from loom.providers.docker.container.mounts import Mount, can_lie_over, mount_of
from loom.providers.docker.container.ownership import Workspaces
from loom.providers.docker.engine.client import Engine, EngineClient, Traits
from loom.providers.docker.engine.endpoint import endpoint_of, proxies_of
from loom.providers.docker.engine.errors import DISK_FULL, translated
from loom.providers.docker.engine.retries import StartFailed, starting
from loom.providers.docker.session.attach import ContainerAttachment, attach
from loom.providers.docker.session.session import DockerSession
from loom.providers.removals import Removals
from loom.status import Exit, OnOutput

if TYPE_CHECKING:
    from loom.providers.docker.images.images import Images
    from loom.providers.docker.session.kept import KeptContainer
    from loom.storage.workspace import OnSkipped

REAP_AFTER_S = 1.0


def provider(setup: Setup) -> Provider:
    """Create the provider for the configured engine."""
    return DockerProvider(Engine(setup.environ, setup.config.engine), setup)


class DockerProvider(Provider):
    """Implements `providers.base.Provider` on the engine of `client`, with a lazy connection.

    With an `Engine` and `setup`, it also finds images.
    """

    name = "docker"
    capabilities = Capabilities(mounts=frozenset(MountMode), isolated=True)

    def __init__(self, client: Callable[[], EngineClient], setup: Setup | None = None) -> None:
        self._connect = client
        self._engine = client if isinstance(client, Engine) else None
        self._setup = setup
        self._lock = threading.Lock()
        self._workspaces = Workspaces()
        self._removals = Removals()
        self._reaped = False
        self._proxies: dict[str, Mapping[str, str]] = {}
        """The variables of the user's proxies, by the id of a network whose services are reached without them."""
        self._idle = threading.Event()

    @cached_property
    def images(self) -> Images | None:
        if self._engine is None or self._setup is None:
            return None
        from loom.providers.docker.images.images import Images  # it imports the SDK, when the run has its record

        return Images(self._engine, lock=self._setup.lock, frozen=self._setup.config.frozen)

    def check(self) -> None:
        self._connect()

    def described(self) -> str:
        return self._engine.described() if self._engine is not None else ""

    def secrets(self) -> Mapping[str, bytes]:
        with suppress(LoomError, ValueError):  # connecting raises the one; the other is of no address
            if self._engine is not None:
                environ = self._engine.environ
                urls = {name: urlsplit(url) for name, url in proxies_of(endpoint_of(environ), environ).items()}
                return {name: url.password.encode() for name, url in urls.items() if url.password}
        return {}

    def overlays(self, workspace: Path) -> bool:
        # Overlays of a rootless engine can't rename a directory of the snapshot.
        return can_lie_over(workspace) and not Traits(self._connect()).rootless

    @contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[DockerSession]:
        with translated(f"preparing the container of job {request.job_id}"):
            client = self._connect()
        request = replace(request, environment={**self._proxies_of(request, client), **request.environment})
        names: list[str] = []
        mount = mount_of(client, request, self._workspaces)
        session: DockerSession | None = None
        try:
            session = self._started(client, request, names, mount, on_output, cancel)
            self._reap_once(client)
            yield session
        finally:
            if session is not None:
                self._removals.failed(session.leave())
            self._reap_once(client)
            if session is None or session.kept_until is None:
                self._remove_later(client, names, mount)

    def _started(
        self,
        client: EngineClient,
        request: SessionRequest,
        names: list[str],
        mount: Mount,
        on_output: OnOutput,
        cancel: Cancel,
    ) -> DockerSession:
        """Create and start a container; return its session. `names` collects the names of all attempts."""

        def make() -> SessionFacts:
            # A new name for each attempt: the engine may still create or remove the previous one.
            names.append(name := container.name_of(request))
            create = partial(container.create, client, request, name, mount)
            try:
                made = create()
            except ProviderError as error:
                if error.code != DISK_FULL:
                    raise
                self._removals.wait(cancel)  # space of this run's earlier jobs may be free then
                made = create()
            mount.fill(made.container_id, cancel)
            return made

        def start(facts: SessionFacts) -> DockerSession:
            session = DockerSession(
                request=request,
                attachment=self._attach(client, request, facts.container_id),
                facts=facts,
                mount=mount,
                on_output=on_output,
            )
            try:
                if request.wait_until_filled is not None:
                    request.wait_until_filled()
                session.start(cancel)
            except BaseException as error:
                session.attachment.close()
                if isinstance(error, StartFailed):
                    on_output("stdout", f"{error.message}\n".encode())
                raise
            return session

        return starting(make, start, lambda made: remove_container(client, made.container_id), cancel)

    @contextmanager
    def services(
        self, job: Job, request: ResolveRequest, on_died: Callable[[str, str], None]
    ) -> Iterator[OpenedServices]:
        from loom.providers.docker.services.services import ServiceGroup, services
        from loom.providers.services import Output

        engine, images, setup = self._engine, self.images, self._setup
        assert engine is not None
        assert images is not None
        assert setup is not None
        marks = labels.labels(run_id=setup.run_id, job_id=job.id, workspace=request.workspace, role="service")
        client = engine.another()
        names = dict.fromkeys(name for one in job.services for name in (one.name, *one.aliases))
        group = ServiceGroup(
            client=client,
            proxies=_around(Traits(client).proxies, *names),
            images=images,
            request=request,
            labels=marks,
            output=Output(request.on_output),
            network=f"loom-{setup.run_id}-{job.id}-{token_hex(3)}",
            isolated=setup.isolated or job.network.mode == "none",
            hardened=job.hardened,
            shared=frozenset(names if job.services_at_localhost else ()),
        )
        with services(group, job.services, on_died) as network:
            self._proxies[network.network_id] = group.proxies
            self._reap_once(self._connect())
            yield network

    def find(self, run_id: str, job_id: str, kept_id: str = "", *, user: str = "") -> KeptContainer | None:
        from loom.providers.docker.session.kept import find

        client = self._connect()
        found = (find(client, run_id, job_id, kept_id) if kept_id else None) or find(client, run_id, job_id)
        return None if found is None else replace(found, user=user)

    def remove_run(self, run_id: str, jobs: Sequence[Job]) -> Sequence[str]:
        return [str(left) for left in remove_run(self._connect(), run_id) if left.problem]

    def run_beside(
        self, request: SessionRequest, session: Session, asked: SideProgram, on_output: OnOutput, cancel: Cancel
    ) -> tuple[Exit, Mapping[str, Sequence[bytes]]]:
        from loom.providers.docker.images.build import build_image  # few runs need these
        from loom.providers.docker.session.beside import run_beside

        images, client = self.images, self._connect()
        assert images is not None
        root = asked.build_root or request.workspace
        resolving = ResolveRequest(workspace=root, on_output=on_output, cancel=cancel)
        if asked.build_root is not None:
            found = build_image(images, asked.image, resolving)
        else:
            found = images.resolve(asked.image, resolving)
        asked = replace(asked, environment={**self._proxies_of(request, client), **asked.environment})
        return run_beside(client, request, session.facts, found.image_id, asked, on_output, cancel)

    def host_address(self, request: SessionRequest, session: Session) -> str | None:
        client = self._connect()
        if not Traits(client).reachable:
            return None  # an address of its networks may be one of this machine too
        # The container tells its network: a kept one may have that of services of an earlier run.
        return host_address(client, replace(request, network_id=f"container:{session.facts.container_id}"))

    def _proxies_of(self, request: SessionRequest, client: EngineClient) -> Mapping[str, str]:
        proxies = self._proxies.get(request.network_id or "", Traits(client).proxies)
        own = host_address(client, request) if proxies else None  # where loom answers actions
        return _around(proxies, (own or "").partition("/")[0])

    def has_image(self, image_id: str) -> bool:
        return container.image_is_there(self._connect(), image_id)

    def lay_out(self, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
        from loom.providers.docker.session import kept

        kept.lay_out(self._connect(), request, target, on_skipped)

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        self._idle.set()
        self._removals.wait(cancel or Cancel())
        if self._engine is not None:
            self._engine.close()
        return self._removals.problems()

    def _attach(self, client: EngineClient, request: SessionRequest, container_id: str) -> ContainerAttachment:
        try:
            return attach(client, container_id, apart=not Traits(client).podman)
        except ProviderError as error:
            # Podman creates the container's environment only now.
            raise refusals.known_reason(request, error.message) or error from error

    def _reap_once(self, client: EngineClient) -> None:
        """Remove abandoned resources while jobs already run, without delaying the first start."""
        with self._lock:
            if self._reaped:
                return
            self._reaped = True

        def reap() -> list[str]:
            self._idle.wait(REAP_AFTER_S)
            return tidied(client)

        self._removals.start("reap", reap)

    def _remove_later(self, client: EngineClient, names: Sequence[str], mount: Mount) -> None:
        def remove() -> None:
            for name in names:
                remove_container(client, name)
            mount.undo()

        self._removals.start(f"remove {' '.join(names)}", remove)


def _around(proxies: Mapping[str, str], *names: str) -> Mapping[str, str]:
    """Return the variables of proxies, if there are any, that these names are reached without."""
    given = {name: ",".join(filter(None, (proxies.get(name), *names))) for name in ("NO_PROXY", "no_proxy")}
    return {**proxies, **given} if proxies else {}


def host_address(client: EngineClient, request: SessionRequest) -> str | None:
    """Return this machine's address in the container's network (`Provider.host_address`).

    That is the network's gateway, or, where loom runs in a container itself, this container's address. An engine in a virtual
    machine has its networks there, and so this machine has no address in them.
    """
    import socket  # late: few runs need these
    from ipaddress import ip_address, ip_network

    network = request.network_id or request.network.mode or "bridge"
    with translated(f"asking for the network of job {request.job_id}"):
        while network.startswith("container:"):
            found = client.api.inspect_container(network.partition(":")[2])
            joined = found["HostConfig"]["NetworkMode"]
            of_its_own = joined not in ("none", "host") and not joined.startswith("container:")
            network = next(iter(found["NetworkSettings"]["Networks"])) if of_its_own else joined
        if network == "none":
            return None
        if network == "host":
            return "127.0.0.1/8"
        found = client.api.inspect_network("bridge" if network == "default" else network)
    for part in (found.get("IPAM") or {}).get("Config") or ():
        with suppress(ValueError, OSError):
            subnet = ip_network(part["Subnet"])
            gateway = part.get("Gateway") or str(subnet[1])
            family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((gateway.partition("/")[0], 9))  # sends nothing
                own = ip_address(probe.getsockname()[0])
            if own in subnet:
                return f"{own}/{subnet.prefixlen}"
    return None
