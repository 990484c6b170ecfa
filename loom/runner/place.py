"""A job's place: what it needs to be opened, and opening it, some of it ahead of time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct, field

from loom import environment
from loom.cancel import AT_ONCE_S, Cancel
from loom.errors import ImageError, ProviderError
from loom.plan import Build, Image, Job, MountMode, ProviderName
from loom.providers.base import NO_SECRETS, Provider, ReadOnlyMount, SecretValues, Session, SessionRequest
from loom.results import OnOutput, Stream
from loom.runner.hooks import Gate, Keeping, MakeCheckpoint, Resumption


class Resolved(Protocol):
    """What an image reference turned out to be on the engine."""

    @property
    def name(self) -> str: ...
    @property
    def image_id(self) -> str: ...
    @property
    def digest(self) -> str: ...


@runtime_checkable
class BuiltImage(Protocol):
    """A resolved image that knows what it was built from; one that a record names (a resumed job's) does not."""

    @property
    def bases(self) -> Sequence[Resolved]: ...


class ImageResolver(Protocol):
    def resolve(
        self,
        image: Image,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        secrets: Mapping[str, bytes],
    ) -> Resolved:
        """`secrets`: the job's, of which a build may mount those that it names."""
        ...

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        """Build these from what `workspace` holds now, whatever is written there until then; `folder` keeps a copy."""
        ...


class OpenedServices(Protocol):
    @property
    def network_id(self) -> str: ...
    @property
    def images(self) -> Sequence[Resolved]: ...
    @property
    def variables(self) -> Mapping[str, str]:
        """Where the services are, for the job's steps."""
        ...

    def keep(self) -> None:
        """Leave them and their network running when the block is left."""
        ...


class OpenServices(Protocol):
    """A job's services, ready when entered, gone when left."""

    def __call__(
        self,
        job: Job,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        on_died: Callable[[str, str], None],
        secrets: SecretValues,
    ) -> AbstractContextManager[OpenedServices]: ...


class ResolveSecrets(Protocol):
    """The values of a job's secrets and its services', and what is missing of those that need not be there (as text)."""

    def __call__(self, job: Job, /) -> tuple[SecretValues, Sequence[str]]: ...


class Tools(Struct, frozen=True, kw_only=True):
    """The outside worlds a job needs, handed in by the engine."""

    providers: Mapping[ProviderName, Provider]
    images: ImageResolver | None = None
    services: OpenServices | None = None
    secrets: ResolveSecrets | None = None
    gate: Gate | None = None
    checkpoint: MakeCheckpoint | None = None


class Settings(Struct, frozen=True, kw_only=True):
    """What is the same for every job of a run."""

    run_id: str
    workspace: Path
    variables: Mapping[str, str]
    mount_mode: MountMode = MountMode.BIND
    read_only_mounts: tuple[ReadOnlyMount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0
    keeping: Keeping = field(default_factory=Keeping)
    resumed: Mapping[str, Resumption] = field(default_factory=dict)
    """Jobs that go on from a step of an earlier run, by their id."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A job's open place, and what it runs in. `environment` comes on top of every step's (secrets)."""

    session: Session
    request: SessionRequest
    image: Resolved | None
    environment: Mapping[str, str]
    secrets: Mapping[str, bytes] = dataclasses.field(default_factory=dict, repr=False)
    services: OpenedServices | None = None
    resumed: Resumption | None = None

    def handed_on(self) -> dict[str, str]:
        """What earlier steps handed on, those of an earlier run included."""
        before = self.resumed.handed_on if self.resumed else {}
        return {**before, **self.session.handed_on()}


class _Buffered:
    """An `OnOutput` that keeps what it gets until the section it belongs to is open, and passes it on from then on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: list[tuple[Stream, bytes]] = []
        self._to: OnOutput | None = None

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            if self._to is None:
                self._chunks.append((stream, data))
            else:
                self._to(stream, data)

    def pass_on(self, to: OnOutput) -> None:
        with self._lock:
            for stream, data in self._chunks:
                to(stream, data)
            self._chunks.clear()
            self._to = to


class PlaceOpener:
    """Opens jobs' places, some of them ahead of time: a container starts while the snapshot is still being taken."""

    def __init__(self, tools: Tools, settings: Settings, cancel: Cancel) -> None:
        self._tools = tools
        self._settings = settings
        self._cancel = cancel
        self._ahead: dict[str, _Ahead] = {}
        self.left_behind: list[str] = []
        """What was still being opened when nothing could be waited for any more, as lines of text."""

    @property
    def workspace(self) -> Path:
        """The snapshot's directory, which jobs share where the mount mode gives them no view of their own."""
        return self._settings.workspace

    @property
    def cancel(self) -> Cancel:
        return self._cancel

    @property
    def keeping(self) -> Keeping:
        return self._settings.keeping

    @property
    def gate(self) -> Gate | None:
        return self._tools.gate

    @property
    def checkpoint(self) -> MakeCheckpoint | None:
        return self._tools.checkpoint

    def resumed(self, job: Job) -> Resumption | None:
        return self._settings.resumed.get(job.id)

    def workspace_of(self, job: Job) -> Path:
        """What the job's view of the files is, or is made from: the run's workspace, unless it goes on in one of its own."""
        resumed = self.resumed(job)
        return (resumed.workspace if resumed is not None else None) or self._settings.workspace

    def project_dir(self, job: Job) -> str:
        return "/workspace" if job.provider is ProviderName.DOCKER else str(self._settings.workspace)

    def environment(self, job: Job, image_name: str, services: OpenedServices | None = None) -> dict[str, str]:
        return environment.job_environment(
            job,
            self._settings.variables,
            project_dir=self.project_dir(job),
            image_name=image_name,
            services=services.variables if services is not None else {},
        )

    def request(self, job: Job, image: Resolved | None, services: OpenedServices | None = None) -> SessionRequest:
        settings = self._settings
        return SessionRequest(
            run_id=settings.run_id,
            job_id=job.id,
            workspace=self.workspace_of(job),
            project_dir=self.project_dir(job),
            environment=self.environment(job, image.name if image else "", services),
            shell=job.shell,
            image=job.image,
            image_id=image.image_id if image else None,
            mount_mode=settings.mount_mode,
            read_only_mounts=settings.read_only_mounts,
            resources=job.resources,
            network=job.network,
            network_id=services.network_id if services else None,
            grace_s=settings.grace_s,
            privileged=job.privileged,
            docker_socket=job.docker_socket,
            hardened=job.hardened,
            labels={**settings.labels, "loom.job": job.id},
        )

    def services(
        self,
        job: Job,
        on_output: OnOutput,
        cancel: Cancel,
        on_died: Callable[[str, str], None],
        secrets: SecretValues,
    ) -> AbstractContextManager[OpenedServices]:
        assert self._tools.services is not None
        return self._tools.services(
            job,
            workspace=self._settings.workspace,
            on_output=on_output,
            cancel=cancel,
            on_died=on_died,
            secrets=secrets,
        )

    def secrets(self, job: Job) -> tuple[SecretValues, Sequence[str]]:
        assert self._tools.secrets is not None
        return self._tools.secrets(job)

    def resolve(self, job: Job, on_output: OnOutput, secrets: SecretValues = NO_SECRETS) -> Resolved | None:
        if job.image is None or self._tools.images is None:
            return None
        try:
            return self._tools.images.resolve(
                job.image,
                workspace=self._settings.workspace,
                on_output=on_output,
                cancel=self._cancel,
                secrets=secrets.own,
            )
        except ImageError as error:
            if (place := job.places.get("image")) is None:
                raise
            raise ImageError(f"{error.message} (image: {place})", hint=error.hint, code=error.code) from error

    def open(self, request: SessionRequest, job: Job, on_output: OnOutput) -> AbstractContextManager[Session]:
        return self._tools.providers[job.provider].open(request, on_output, self._cancel)

    def open_ahead(self, job: Job) -> None:
        """Start opening a job's place in a thread, where its provider can before the workspace is filled.

        Not for jobs whose image is built from the snapshot, or that have services.
        """
        provider = self._tools.providers[job.provider]
        if self.resumed(job) is not None:
            return
        if job.services or (job.image is not None and job.image.build is not None):
            return
        if provider.opens_before_snapshot(self.request(job, None)):
            self._ahead[job.id] = _Ahead(self, job)

    def take_ahead(self, job: Job) -> _Ahead | None:
        return self._ahead.pop(job.id, None)

    def close_unused(self) -> None:
        """Close what was opened ahead and never taken (the snapshot failed, the run was interrupted)."""
        for ahead in list(self._ahead.values()):
            ahead.discard()
        self._ahead.clear()


class _Ahead:
    def __init__(self, opener: PlaceOpener, job: Job) -> None:
        self.image_output = _Buffered()
        self.provider_output = _Buffered()
        self.resolved: Resolved | None = None
        self._opener = opener
        self._job = job
        self._stack = ExitStack()
        self._session: Session | None = None
        self._request: SessionRequest | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._open, name=f"open {job.id}", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        try:
            self.resolved = self._opener.resolve(self._job, self.image_output)
            request = self._request = self._opener.request(self._job, self.resolved)
            self._session = self._stack.enter_context(self._opener.open(request, self._job, self.provider_output))
        except BaseException as error:  # noqa: BLE001  raised again where the place is taken
            self._error = error

    def wait(self) -> tuple[Session, SessionRequest, ExitStack]:
        """The session, what was asked for, and what closes it; raises what opening raised."""
        self._join()
        if self._error is not None:
            raise self._error
        assert self._session is not None
        assert self._request is not None
        return self._session, self._request, self._stack

    def _join(self) -> None:
        if not self._opener.cancel.join(self._thread):
            raise ProviderError(self._left_behind())

    @property
    def image_error(self) -> bool:
        self._join()
        return self._error is not None and self.resolved is None

    def discard(self) -> None:
        if self._opener.cancel.join(self._thread):
            self._stack.close()
        else:
            self._opener.left_behind.append(self._left_behind())

    def _left_behind(self) -> str:
        return (
            f"the place of job {self._job.id} was still being opened {AT_ONCE_S:.0f} s after the second interrupt;"
            " the next loom removes what is there of it"
        )
