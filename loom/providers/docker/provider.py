"""Jobs in containers: makes a job's container, hands out its session, and takes everything back."""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loom.cancel import Cancel
from loom.errors import ImageError, ProviderError, ServiceError
from loom.plan.model import PROJECT_DIR, Job, MountMode
from loom.providers.base import Capabilities, Provider, SecretValues, SessionFacts, SessionRequest, Setup
from loom.providers.docker import driver, hardening, labels, refusals
from loom.providers.docker.attach import Attachment
from loom.providers.docker.capabilities import ENGINES_SOCKET, Traits
from loom.providers.docker.checkpoint import image_is_there
from loom.providers.docker.cleanup import Removals, remove_container, tidied
from loom.providers.docker.connection import Engine
from loom.providers.docker.devices import device_requests_of, devices_of
from loom.providers.docker.endpoint import endpoint_of
from loom.providers.docker.errors import DISK_FULL, translated
from loom.providers.docker.mounts import Mount, mount_of
from loom.providers.docker.overlay import can_lie_over
from loom.providers.docker.ownership import Workspaces
from loom.providers.docker.retries import StartFailed, starting
from loom.providers.docker.session import DockerSession
from loom.status import OnOutput

if TYPE_CHECKING:
    import docker

    from loom.providers.docker.images import Images
    from loom.providers.docker.kept import KeptContainer
    from loom.providers.docker.services import ServiceNetwork
    from loom.storage.workspace import OnSkipped

REAP_AFTER_S = 1.0
DRIVER_FILES_SIZE = 128 * 1024 * 1024


def provider(setup: Setup) -> Provider:
    """The provider on the configured engine."""
    from loom.providers.docker.images import Images

    engine = Engine(setup.config, setup.environ)
    images = Images(engine.another, environ=engine.environ, lock=setup.lock, frozen=setup.config.frozen, shared=engine)
    return DockerProvider(
        engine,
        pid=os.getpid(),
        log_driver=setup.config.log_driver,
        engine=engine,
        images=images,
        setup=setup,
    )


class DockerProvider:
    """Implements `providers.base.Provider` on the engine that `client` connects to, when it is first asked for something.

    `pid` is the process that answers for what is made: when it is gone, the next loom removes it. `engine`, `images` and
    `setup` are for what goes beyond opening places.
    """

    name = "docker"
    capabilities = Capabilities(mounts=frozenset(MountMode), isolated=True)

    def __init__(
        self,
        client: Callable[[], docker.DockerClient],
        *,
        pid: int,
        log_driver: Literal["json-file", "none"] = "json-file",
        engine: Engine | None = None,
        images: Images | None = None,
        setup: Setup | None = None,
    ) -> None:
        self._connect = client
        self._engine = engine
        self.images = images
        self._setup = setup
        self._pid = pid
        self._log_driver = log_driver
        self._lock = threading.Lock()
        self._workspaces = Workspaces()
        self._removals = Removals()
        self._reaped = False
        self._idle = threading.Event()
        self._known_traits: Traits | None = None

    def check(self) -> None:
        self._connect()

    def described(self) -> str:
        return self._engine.described() if self._engine is not None else ""

    def project_dir(self, workspace: Path) -> str:
        return PROJECT_DIR

    def overlays(self, workspace: Path) -> bool:
        # A rootless engine's overlays can't rename a directory of the snapshot.
        return can_lie_over(workspace) and not self._traits(self._connect()).rootless

    @contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[DockerSession]:
        with translated(f"preparing the container of job {request.job_id}"):
            client = self._connect()
        names: list[str] = []
        mount = mount_of(client, request, self._workspaces, self._pid, self._traits(client))
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
        client: docker.DockerClient,
        request: SessionRequest,
        names: list[str],
        mount: Mount,
        on_output: OnOutput,
        cancel: Cancel,
    ) -> DockerSession:
        """A session in a container that has just been made and started; `names` get those of all that were tried."""

        def make() -> tuple[SessionFacts, Mapping[str, str]]:
            # A new name each time: an engine whose answer was lost may still be making, or taking back, the one before.
            names.append(name := container_name(request))
            try:
                made = self._create(client, request, name, mount)
            except ProviderError as error:
                if error.code != DISK_FULL:
                    raise
                self._removals.wait(cancel)  # what this run's earlier jobs had filled may be free then
                made = self._create(client, request, name, mount)
            mount.fill(made[0].container_id, cancel)
            return made

        def start(made: tuple[SessionFacts, Mapping[str, str]]) -> DockerSession:
            facts, raw_environment = made
            session = DockerSession(
                client=client,
                request=request,
                attachment=self._attach(client, request, facts.container_id),
                facts=facts,
                mount=mount,
                container_labels=self._labels(request),
                raw_environment=raw_environment,
                on_output=on_output,
            )
            try:
                session.start(cancel)
            except BaseException as error:
                session.disconnect()
                if isinstance(error, StartFailed):
                    on_output("stdout", f"{error.message}\n".encode())
                raise
            return session

        return starting(make, start, lambda made: remove_container(client, made[0].container_id), cancel)

    @contextmanager
    def services(
        self,
        job: Job,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        on_died: Callable[[str, str], None],
        secrets: SecretValues,
    ) -> Iterator[ServiceNetwork]:
        from loom.providers.docker.services import services

        engine, images, setup = self._engine, self.images, self._setup
        assert engine is not None
        assert images is not None
        assert setup is not None
        if published := job.provider != self.name:
            check_reachable(job, engine.environ)
        marks = labels.labels(run_id=setup.run_id, job_id=job.id, workspace=workspace, pid=self._pid, role="service")
        with services(
            engine.another,
            job.services,
            run_id=setup.run_id,
            job_id=job.id,
            images=images,
            workspace=workspace,
            labels=marks,
            on_output=on_output,
            cancel=cancel,
            on_died=on_died,
            isolated=setup.isolated or job.network.mode == "none",
            hardened=job.hardened,
            published=published,
            secrets=secrets,
        ) as network:
            self._reap_once(self._connect())
            yield network

    def find(self, run_id: str, job_id: str, place_id: str = "") -> KeptContainer | None:
        from loom.providers.docker import kept

        found = kept.find(self._connect(), run_id, job_id, place_id) if place_id else None
        found = found or kept.find(self._connect(), run_id, job_id)
        return None if found is None else kept.KeptContainer(self._connect(), found)

    def has_image(self, image_id: str) -> bool:
        return image_is_there(self._connect(), image_id)

    def lay_out(self, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
        from loom.providers.docker import kept

        kept.lay_out(self._connect(), request, target, on_skipped)

    def _log_config(self, client: docker.DockerClient) -> dict[str, Any]:
        """Whole, whatever the engine does by default: a lost connection is taken up again from it, from its beginning.

        A size that nobody reaches, since an engine whose own default has one puts that in where none is given.
        """
        rotates = self._log_driver == "json-file" and not self._traits(client).podman
        return {"Type": self._log_driver, "Config": {"max-size": "1000t"} if rotates else {}}

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        self._idle.set()
        self._removals.wait(cancel or Cancel())
        if self._engine is not None:
            self._engine.close()
        return self._removals.problems()

    def _create(
        self, client: docker.DockerClient, request: SessionRequest, name: str, mount: Mount
    ) -> tuple[SessionFacts, Mapping[str, str]]:
        api: Any = client.api
        image = request.image_id or (request.image.name if request.image else None)
        if image is None:
            raise ImageError(f"job {request.job_id} has no image to run in", hint="give the job an `image:`")
        mount.make()
        environment, raw_environment = environment_of(request)
        traits = self._traits(client)
        config = api.create_container_config(
            image=image,
            command=None,
            entrypoint=[*((request.image.entrypoint if request.image else None) or ()), *driver.BOOT],
            environment=environment,
            working_dir=request.project_dir,
            user=request.image.user if request.image else None,
            stdin_open=True,
            stop_signal="SIGKILL",  # the driver ignores TERM, and a step's `kill 1` should not look like a stop
            labels=self._labels(request),
            host_config=api.create_host_config(
                **host_config(request, mount, traits), log_config=self._log_config(client)
            ),
        )
        # When the one client that is attached to the input goes away, and be it by `kill -9`, the input closes.
        config["StdinOnce"] = True
        platform = request.image.platform if request.image else None

        try:
            made = api.create_container_from_config(config, name, platform)
        except Exception as error:
            raise refusals.not_created(error, request, image) or error from error
        warnings = [*map(str, made.get("Warnings") or ())]
        if unenforced := traits.unenforced(request.resources):
            warnings.append(f"the engine does not enforce {', '.join(unenforced)}: it has no control groups for that")
        facts = SessionFacts(
            provider=self.name,
            image=(request.image.name if request.image else None) or "",
            image_id=request.image_id or "",
            container_id=str(made["Id"]),
            container_name=name,
            details={
                "mount_mode": request.mount_mode.value,
                "network": request.network_id or request.network.mode or "default",
                "privileged": str(request.privileged).lower(),
                "docker_socket": str(request.docker_socket).lower(),
            },
            warnings=tuple(warnings),
        )
        return facts, raw_environment

    def _attach(self, client: docker.DockerClient, request: SessionRequest, container_id: str) -> Attachment:
        try:
            return Attachment(client, container_id, apart=not self._traits(client).podman)
        except ProviderError as error:
            # Podman makes the container's surroundings only now.
            raise refusals.known_reason(request, error.message) or error from error

    def _traits(self, client: docker.DockerClient) -> Traits:
        with self._lock:
            if self._known_traits is None:
                self._known_traits = Traits(client)
            return self._known_traits

    def _labels(self, request: SessionRequest) -> dict[str, str]:
        return labels.labels(
            run_id=request.run_id,
            job_id=request.job_id,
            workspace=request.workspace,
            pid=self._pid,
            role="job",
            more={labels.PROJECT_DIR: request.project_dir, **request.labels},
        )

    def _reap_once(self, client: docker.DockerClient) -> None:
        """What dead looms left behind goes while jobs run already, and not in the moment when the first one starts."""
        with self._lock:
            if self._reaped:
                return
            self._reaped = True

        def reap() -> list[str]:
            self._idle.wait(REAP_AFTER_S)
            return tidied(client)

        self._removals.start("reap", reap)

    def _remove_later(self, client: docker.DockerClient, names: Sequence[str], mount: Mount) -> None:
        def remove() -> None:
            for name in names:
                remove_container(client, name)
            mount.undo()

        self._removals.start(f"remove {' '.join(names)}", remove)


def check_reachable(job: Job, environ: Mapping[str, str]) -> None:
    """ServiceError where the services of a job that runs on this machine can't be reached from it."""
    endpoint = endpoint_of(environ)
    if not endpoint.local:
        raise ServiceError(
            f"job {job.id} runs on this machine, and its services would run on another one ({endpoint})",
            hint="give the job an `image:` (or run with --container), or use an engine of this machine",
        )


def container_name(request: SessionRequest) -> str:
    job = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.job_id)[:60]
    return f"loom-{request.run_id[-10:]}-{job}-{secrets.token_hex(3)}"


def environment_of(request: SessionRequest) -> tuple[list[str], dict[str, str]]:
    """The container's environment, and what of it has to be set in each step since the engine's JSON can't carry it."""
    environment = dict(request.environment)
    environment["LOOM_ENV"] = driver.ENV_FILE
    environment["LOOM_MASK"] = driver.MASK_FILE
    # The workspace may belong to another user than the job's, which git would refuse as dubious.
    try:
        count = int(environment.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    environment[f"GIT_CONFIG_KEY_{count}"] = "safe.directory"
    environment[f"GIT_CONFIG_VALUE_{count}"] = "*"
    environment["GIT_CONFIG_COUNT"] = str(count + 1)
    sent, raw = [], {}
    for name, value in environment.items():
        try:
            value.encode()
        except UnicodeEncodeError:
            raw[name] = value
        else:
            sent.append(f"{name}={value}")
    return sent, raw


def host_config(request: SessionRequest, mount: Mount, traits: Traits) -> dict[str, Any]:
    """Arguments for the SDK's `create_host_config`. Nothing that gives a job more than CI does, unless it was asked for."""
    resources = request.resources
    mounts = mount.spec()
    mounts += [
        {
            "Type": "tmpfs",
            "Target": f"{request.project_dir.rstrip('/')}/{hidden}",
            "ReadOnly": True,
            "TmpfsOptions": {"SizeBytes": 4096, "Mode": 0o555},
        }
        for hidden in request.hidden_paths
    ]
    if request.docker_socket:
        mounts.append({"Type": "bind", "Source": traits.socket, "Target": ENGINES_SOCKET})
    tmpfs = {driver.DIRECTORY: f"mode=1777,size={DRIVER_FILES_SIZE}"}
    for entry in resources.tmpfs:
        path, _, options = entry.partition(":")
        tmpfs[path] = options
    config: dict[str, Any] = {
        "init": True,
        "mounts": mounts,
        "tmpfs": tmpfs,
        "network_mode": request.network_id or request.network.mode,
        "extra_hosts": dict(request.network.extra_hosts) or None,
        "privileged": request.privileged,
        "nano_cpus": None if resources.cpus is None else int(resources.cpus * 1_000_000_000),
        "mem_limit": resources.memory,
        # Swap would only make the end slower, and hide it.
        "memswap_limit": resources.memory,
        "pids_limit": resources.pids,
        "shm_size": resources.shm_size,
        "ulimits": [{"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in resources.ulimits]
        or None,
        "devices": devices_of(resources),
        "device_requests": device_requests_of(resources, podman=traits.podman),
        "read_only": resources.read_only or None,
        **(hardening.JOB if request.hardened else {}),
    }
    return {key: value for key, value in config.items() if value is not None}
