"""Containers that outlive their run: finding them, waking them, going on in them, removing them with all that is theirs.

A kept container idles with its driver stopped. Whoever goes on in it starts a second driver there by an exec, so that
what earlier steps left running goes on running. After a restart of the engine it is started anew: its file system and its
view of the workspace are as they were, its processes are gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.docker import driver, labels
from loom.providers.docker.attach import Attachment, ExecAttachment
from loom.providers.docker.capabilities import Traits
from loom.providers.docker.checkpoint import image_is_there
from loom.providers.docker.cleanup import remove_container, remove_run
from loom.providers.docker.errors import translated
from loom.providers.docker.exec import Inside
from loom.providers.docker.mounts import BindMount, Mount, OverlayMount, VolumeMount
from loom.providers.docker.ownership import Workspaces
from loom.providers.docker.provider import container_name, environment_of
from loom.providers.docker.retries import restarting, retrying
from loom.providers.docker.session import HELLO_S, DockerSession
from loom.providers.files import unpack
from loom.status import OnOutput

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import OnSkipped

_NOT_RUNNING = ("exited", "created", "dead")


class Found(Struct, frozen=True, kw_only=True):
    """A job's container that is there: running, or kept. `kept_until` None: its run is not over."""

    container_id: str
    name: str
    running: bool
    kept_until: float | None
    labels: Mapping[str, str]

    @property
    def project_dir(self) -> str:
        return self.labels.get(labels.PROJECT_DIR, "/workspace")


def find(client: docker.DockerClient, run_id: str, job_id: str, container_id: str | None = None) -> Found | None:
    """The container of a job: the one with this id, else the newest that is labelled as the job's; None when it is gone."""
    api: Any = client.api
    wanted = {"label": [f"{labels.RUN}={run_id}", f"{labels.JOB}={job_id}", f"{labels.ROLE}=job"]}
    with translated(f"looking for the container of job {job_id}"):
        if container_id:
            listed = retrying(lambda: api.containers(all=True, filters={"id": container_id}))
        else:
            listed = retrying(lambda: api.containers(all=True, filters=wanted))
    for container in sorted(listed, key=lambda item: -float(item["Created"])):
        name = str((container.get("Names") or [""])[0]).lstrip("/")
        kept_until = labels.kept_until(name)
        running = container["State"] not in _NOT_RUNNING
        if kept_until is None and (not running or container_id):
            continue
        return Found(
            container_id=container["Id"],
            name=name,
            running=running,
            kept_until=kept_until,
            labels=container["Labels"],
        )
    return None


class KeptContainer(Struct, frozen=True):
    """Implements `providers.base.KeptPlace`."""

    client: docker.DockerClient
    found: Found

    @property
    def name(self) -> str:
        return self.found.name

    @property
    def kept(self) -> bool:
        return self.found.kept_until is not None

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        paths = {name: f"{driver.DIRECTORY}/secret.{name}" for name in secrets}
        woken = self.kept and wake(self.client, self.found)
        if woken and secrets:
            plain = Inside(client=self.client, container_id=self.found.container_id, workdir="/", environment={})
            plain.write({paths[name]: value for name, value in secrets.items()})
        return paths, woken

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> Inside:
        return Inside(
            client=self.client,
            container_id=self.found.container_id,
            workdir=self.found.project_dir,
            environment=environment,
            user="0:0" if as_root else None,
        )

    def has_its_files(self, mode: MountMode) -> bool:
        return has_its_files(self.found, mode)

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        copy_out(self.client, self.found, target, on_skipped)

    def adopt(
        self, request: SessionRequest, on_output: OnOutput, cancel: Cancel
    ) -> AbstractContextManager[DockerSession]:
        return adopted(lambda: self.client, self.found, request, on_output, cancel)


def has_its_files(found: Found, mount_mode: MountMode) -> bool:
    """Whether the container's view of the workspace is whole: nobody removed the directory that it shows or lies over."""
    if mount_mode is MountMode.VOLUME and found.running:
        return True
    return Path(found.labels.get(labels.WORKSPACE, "")).is_dir()


def wake(client: docker.DockerClient, found: Found) -> bool:
    """Make a kept container run again, its services first; True when it had stopped. ProviderError when it can't."""
    api: Any = client.api
    for service in _beside(client, found):
        if service["State"] in _NOT_RUNNING and labels.ONCE not in service["Labels"]:
            if labels.HANDED_OVER in service["Labels"]:
                raise ProviderError(
                    f"the kept service {service['Names'][0].lstrip('/')} has ended, and the secrets it had with it",
                    hint="run the job again: `loom rerun`",
                )
            with translated("starting a kept service again"):
                restarting(api, service["Id"], "starting a kept service again")
    if found.running:
        return False
    token, kept = driver.new_token(), driver.new_token()
    connections: list[Attachment] = []

    def connect() -> None:
        for dead in connections:
            dead.close()
        connections[:] = [Attachment(client, found.container_id, apart=False)]
        connections[0].send(driver.program() + driver.hello(token) + driver.keep(kept))

    try:
        try:
            with translated("starting the kept container again"):
                restarting(api, found.container_id, "starting the kept container again", connect)
            _until(connections[0], kept)
        finally:
            for connection in connections:
                connection.close()
    except OSError as error:
        raise ProviderError(f"the kept container {found.name} could not be started again: {error}") from error
    return True


def _until(attachment: Attachment, token: bytes) -> None:
    heard, deadline = b"", time.monotonic() + HELLO_S
    while token not in heard:
        left = deadline - time.monotonic()
        if left <= 0 or attachment.at_end:
            raise ProviderError("the kept container was started again, but ended at once or did not answer")
        heard += b"".join(data for stream, data in attachment.read(left) if stream == "stdout")


@contextmanager
def adopted(
    connect: Callable[[], docker.DockerClient],
    found: Found,
    request: SessionRequest,
    on_output: OnOutput,
    cancel: Cancel,
) -> Iterator[DockerSession]:
    """A session in a kept container. Left without being kept again, the container and all that is its own are removed."""
    client = connect()
    if wake(client, found):
        on_output("stdout", b"the kept container had stopped; it runs again, without the processes it had\n")
    _, raw_environment = environment_of(request)
    attachment = ExecAttachment(client, found.container_id, driver.BOOT, found.project_dir)
    session = DockerSession(
        client=client,
        request=request,
        attachment=attachment,
        facts=SessionFacts(
            provider="docker",
            image=(request.image.name if request.image else None) or "",
            image_id=request.image_id or "",
            container_id=found.container_id,
            container_name=found.name,
            details={"mount_mode": request.mount_mode.value, "kept": "adopted"},
        ),
        mount=_mount(client, found, request),
        container_labels=found.labels,
        raw_environment=raw_environment,
        on_output=on_output,
    )
    try:
        session.start(cancel, running=True)
        yield session
    except BaseException:
        # Whatever went wrong, what was kept for a person to look at is not thrown away by it.
        attachment.close()
        raise
    else:
        for problem in session.leave():
            on_output("stderr", f"{problem}\n".encode())
        if session.kept_until is None:
            for left in remove_run(client, found.labels[labels.RUN], found.labels[labels.JOB]):
                if left.problem:
                    on_output("stderr", f"{left.problem}\n".encode())


def _mount(client: docker.DockerClient, found: Found, request: SessionRequest) -> Mount:
    if request.mount_mode is MountMode.BIND:
        return BindMount(request, Workspaces())
    api: Any = client.api
    with translated("looking at the kept container"):
        mounts = retrying(lambda: api.inspect_container(found.container_id))["Mounts"]
    volume = next((mount["Name"] for mount in mounts if mount["Destination"] == found.project_dir), None)
    if volume is None:
        raise ProviderError(f"the kept container {found.name} has no view of the workspace at {found.project_dir}")
    kind = OverlayMount if request.mount_mode is MountMode.OVERLAY else VolumeMount
    mount = kind(client, replace(request, workspace=Path(found.labels[labels.WORKSPACE])), os.getpid())
    mount.take_over(volume, found.container_id)
    return mount


def copy_out(client: docker.DockerClient, found: Found, target: Path, on_skipped: OnSkipped) -> None:
    """Fill `target`, which must not be there, with the container's view of the workspace, but for special files."""
    api: Any = client.api
    target.mkdir(parents=True, mode=0o700)
    with translated("reading the job's view of the workspace"):
        stream, _ = api.get_archive(found.container_id, f"{found.project_dir}/.", chunk_size=1 << 20)
        unpack(stream, target, on_skipped)


def lay_out(client: docker.DockerClient, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
    """Fill `target`, which must not be there, with what a job left in an overlay; its container is gone, its layers are there.

    The engine puts the layers together, since it alone can read all of their marks; nothing of the job runs.
    """
    api: Any = client.api
    traits = Traits(client)
    mount = OverlayMount(client, request, os.getpid(), rootless=traits.rootless)
    marks = labels.labels(
        run_id=request.run_id, job_id=request.job_id, workspace=request.workspace, pid=os.getpid(), role="helper"
    )
    name = f"{container_name(request)}-files"
    try:
        mount.make()
        with translated(f"reading what job {request.job_id} left"):
            config = api.create_container_config(
                image=_some_image(client, request),
                entrypoint=["sh"],
                command=None,
                stdin_open=True,
                labels=marks,
                host_config=api.create_host_config(mounts=mount.spec()[:1], network_mode="none"),
            )
            made = retrying(lambda: api.create_container_from_config(config, name))
            if traits.podman:
                api.start(made["Id"])  # it mounts a volume no sooner; the shell waits for its input, and none comes
        found = Found(
            container_id=made["Id"],
            name=name,
            running=False,
            kept_until=None,
            labels={**marks, labels.PROJECT_DIR: request.project_dir},
        )
        copy_out(client, found, target, on_skipped)
    finally:
        remove_container(client, name)
        mount.undo()


def _some_image(client: docker.DockerClient, request: SessionRequest) -> str:
    """The job's, or when that is gone, any: a container that never starts needs nothing of it."""
    if request.image_id and image_is_there(client, request.image_id):
        return request.image_id
    api: Any = client.api
    for image in retrying(lambda: api.images()):
        return str(image["Id"])
    raise ProviderError("the engine has no image at all to make a container from", hint="docker pull an image")


def _beside(client: docker.DockerClient, found: Found) -> list[Any]:
    api: Any = client.api
    wanted = [f"{name}={found.labels.get(name, '')}" for name in (labels.RUN, labels.JOB)]
    with translated("looking for the kept services"):
        listed: list[Any] = retrying(
            lambda: api.containers(all=True, filters={"label": [*wanted, f"{labels.ROLE}=service"]})
        )
    return listed
