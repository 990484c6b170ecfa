"""Containers that outlive their run: find, restart and resume them.

A kept container idles with its driver stopped. A resume starts a second driver by an exec, so that background processes
of earlier steps keep running. After a restart of the engine the container is started again, with its files but without
its processes.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.docker.container.cleanup import remove_container, remove_run
from loom.providers.docker.container.create import image_is_there, name_of
from loom.providers.docker.container.mounts import BindMount, Mount, OverlayMount, VolumeMount
from loom.providers.docker.container.ownership import Owner, Workspaces
from loom.providers.docker.engine.client import EngineClient, Traits
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.retries import asked, restarting, retrying
from loom.providers.docker.session.attach import ContainerAttachment, ExecAttachment, attach
from loom.providers.docker.session.exec import ContainerInside
from loom.providers.docker.session.session import DockerSession
from loom.providers.driven import GREETING_S
from loom.providers.driver import protocol as driver
from loom.providers.driver.channel import ConnectionLost, Died, Exchange
from loom.providers.kept import KeptFiles
from loom.status import OnOutput
from loom.storage.workspace import OnSkipped
from loom.util.untrusted_files import reader
from loom.values import Environ

_NOT_RUNNING = ("exited", "created", "dead")


def find(client: EngineClient, run_id: str, job_id: str, container_id: str | None = None) -> KeptContainer | None:
    """Return a job's container: the one with this id, else the newest with the job's labels; None if gone."""
    of_job = {"label": [f"{labels.RUN}={run_id}", f"{labels.JOB}={job_id}", f"{labels.ROLE}=job"]}
    wanted = {"id": container_id} if container_id else of_job
    doing = f"looking for the container of job {job_id}"
    listed = asked(doing, lambda: client.api.containers(all=True, filters=wanted))
    for container in sorted(listed, key=lambda item: -float(item["Created"])):
        name = str((container.get("Names") or [""])[0]).lstrip("/")
        kept = labels.kept_until(name) is not None
        running = container["State"] not in _NOT_RUNNING
        if kept or (running and not container_id):
            return KeptContainer(
                client=client,
                kept_id=container["Id"],
                name=name,
                running=running,
                kept=kept,
                marks=container["Labels"],
            )
    return None


class KeptContainer(KeptFiles):
    """Implements `providers.base.KeptSession`: a job's container, running or kept."""

    client: EngineClient
    kept_id: str
    running: bool
    user: str = ""
    """The user of commands in it; empty: the container's own."""

    def inside(self, environment: Environ, *, as_root: bool = False) -> ContainerInside:
        return ContainerInside(
            client=self.client,
            container_id=self.kept_id,
            workdir=self.project_dir,
            environment=environment,
            user="0:0" if as_root else self.user or None,
        )

    def has_its_files(self, mode: MountMode) -> bool:
        if mode is MountMode.VOLUME and self.running:
            return True
        return Path(self.marks.get(labels.WORKSPACE, "")).is_dir()

    def view(self) -> Path | None:
        if (volume := self._volume()) is None:
            return None
        found = asked("looking at the job's view of the workspace", lambda: self.client.api.inspect_volume(volume))
        mount = Path(str(found["Mountpoint"]))
        try:
            # An overlay is mounted only while its container runs.
            there = mount.is_mount() if (found.get("Options") or {}).get("type") == "overlay" else mount.is_dir()
        except OSError:
            return None
        return mount if there and os.access(mount, os.R_OK | os.X_OK) else None

    def as_root(self, program: bytes) -> tuple[int, str]:
        self._wake()
        return self.inside({}, as_root=True).script(program)

    def files(self, *, to_write: bool = False) -> VolumeMount:
        mount = VolumeMount(self.client, self.request())
        mount.adopt("", self.kept_id, self._owner() if to_write else Owner(0, 0))
        return mount

    def remove(self) -> Sequence[str]:
        gone = remove_run(self.client, self.marks[labels.RUN], self.marks[labels.JOB])
        return [one.problem for one in gone if one.problem]

    def _owner(self) -> Owner:
        """Return the owner of the job's view: its user."""
        with translated("looking at the job's view of the workspace"):
            stream, _ = self.client.api.get_archive(self.kept_id, f"{self.project_dir}/.", chunk_size=1 << 16)
            with tarfile.open(mode="r|*", fileobj=reader(stream)) as archive:
                first = archive.next()
        return Owner(first.uid, first.gid) if first is not None else Owner(0, 0)

    # Waking

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        paths = {name: f"{driver.DIRECTORY}/secret.{name}" for name in secrets}
        woken = self.kept and self._wake()
        if woken and secrets:
            plain = ContainerInside(client=self.client, container_id=self.kept_id, workdir="/", environment={})
            plain.write({paths[name]: value for name, value in secrets.items()})
        return paths, woken

    def _wake(self) -> bool:
        """Restart it, its services first; return whether it had stopped. ProviderError when it can't run."""
        self._wake_services()
        if self.running:
            return False
        exchange, sessions = Exchange(), list[DockerSession]()

        def connect() -> None:
            for dead in sessions:
                dead.attachment.close()
            attachment = attach(self.client, self.kept_id, apart=False)
            sessions[:] = [self._session(attachment, self.request(), Mount(), lambda *_: None)]
            sessions[0].send(driver.program() + driver.greeting(driver.new_token()) + driver.keep(exchange.token))

        doing = "starting the kept container again"
        try:
            with translated(doing):
                restarting(self.client.api, self.kept_id, doing, connect)
            deadline = time.monotonic() + GREETING_S
            answered = sessions[0].listen(exchange, lambda *_: None, deadline=deadline)
        except (Died, ConnectionLost):
            answered = False
        finally:
            for session in sessions:
                session.attachment.close()
        if not answered:
            raise ProviderError(
                f"the kept container {self.name} was started again, but ended at once or did not answer"
            )
        return True

    def _wake_services(self) -> None:
        of_job = [f"{name}={self.marks.get(name, '')}" for name in (labels.RUN, labels.JOB)]
        filters = {"label": [*of_job, f"{labels.ROLE}=service"]}
        services = asked("looking for the kept services", lambda: self.client.api.containers(all=True, filters=filters))
        for service in services:
            if service["State"] in _NOT_RUNNING:
                if labels.HANDED_OVER in service["Labels"]:
                    raise ProviderError(
                        f"the kept service {service['Names'][0].lstrip('/')} has ended, and its secrets are gone",
                        hint="run the job again: `loom rerun`",
                    )
                with translated("starting a kept service again"):
                    restarting(self.client.api, service["Id"], "starting a kept service again")

    # Going on

    @contextmanager
    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[DockerSession]:
        woken = self._wake()
        tmpfs = [entry.partition(":")[0] for entry in request.resources.tmpfs]
        lost = " and ".join(["its processes", *([f"what was in {', '.join(tmpfs)} (tmpfs)"] if tmpfs else ())])
        attachment = ExecAttachment(self.client, self.kept_id, driver.BOOT, self.project_dir, self.user)
        session = self._session(attachment, request, self._mount(request), on_output)
        if woken:
            warnings = (f"the kept container was stopped and runs again without {lost}",)
            session.facts = replace(session.facts, warnings=warnings)
        try:
            session.start(cancel, running=True)
            yield session
        except BaseException:
            # An error does not remove a container that was kept for a person.
            attachment.close()
            raise
        problems = session.leave()
        if session.is_removable:
            problems += self.remove()
        for problem in problems:
            on_output("stderr", f"{problem}\n".encode())

    def _session(
        self, attachment: ContainerAttachment, request: SessionRequest, mount: Mount, on_output: OnOutput
    ) -> DockerSession:
        return DockerSession(
            request=request,
            attachment=attachment,
            facts=SessionFacts(container_id=self.kept_id, container_name=self.name, details={"kept": "adopted"}),
            mount=mount,
            on_output=on_output,
        )

    def _volume(self) -> str | None:
        """Return the name of the volume that is its view; None for the workspace itself."""
        found = asked("looking at the kept container", lambda: self.client.api.inspect_container(self.kept_id))
        return next((mount.get("Name") for mount in found["Mounts"] if mount["Destination"] == self.project_dir), None)

    def _mount(self, request: SessionRequest) -> Mount:
        if request.mount_mode is MountMode.BIND:
            return BindMount(request, Workspaces(), rootless=Traits(self.client).rootless)
        volume = self._volume()
        if volume is None:
            raise ProviderError(f"the kept container {self.name} has no view of the workspace at {self.project_dir}")
        request = replace(request, workspace=Path(self.marks[labels.WORKSPACE]))
        kind = OverlayMount if request.mount_mode is MountMode.OVERLAY else VolumeMount
        mount = kind(self.client, request)
        mount.adopt(volume, self.kept_id)
        return mount


def lay_out(client: EngineClient, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
    """Fill the new directory `target` with a job's overlay view after its container is gone.

    The engine assembles the layers, because only it can read all of their marks; nothing of the job runs.
    """
    api = client.api
    mount = OverlayMount(client, request)
    marks = labels.request_labels(request, "helper")
    name = f"{name_of(request)}-files"
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
            if Traits(client).podman:
                api.start(made["Id"])  # it mounts a volume only now; the shell waits for input that never comes
        made_of = KeptContainer(client=client, kept_id=made["Id"], name=name, running=False, kept=False, marks=marks)
        made_of.copy_files(target, on_skipped)
    finally:
        remove_container(client, name)
        mount.undo()


def _some_image(client: EngineClient, request: SessionRequest) -> str:
    """Return the job's image, or any other: a container that never starts needs nothing of it."""
    if request.image_id and image_is_there(client, request.image_id):
        return request.image_id
    for image in retrying(lambda: client.api.images()):
        return str(image["Id"])
    raise ProviderError("the engine has no image at all to make a container from", hint="docker pull an image")
