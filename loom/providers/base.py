"""The interface of every provider. A new provider is a folder or module here, and a line in the package's `MODULES`.

`Provider.open` returns one job's `Session`; `Session.run` runs one step in it. Every implementation guarantees
(tests/docker/providers and tests/unit/providers verify it):

- A failed command is a value (`Exit`). `ProviderError` means that the session itself broke.
- When `run` returns or the session ends, nothing that it started still runs, except the step's own background
  processes; these end with the session, and at once after a timeout or a cancel.
- Every byte that a step prints reaches `on_output` before `run` returns, in order per stream; nothing else does. Later
  output of a background process belongs to the step that then runs; after the last step, to the `on_output` of `open`.
- `open` cleans up on every exit: container, network, volume, process group. Removal may continue after the session's
  end, when nothing runs any more; `Provider.close` waits for it.

A session need not be on this machine. One without access to this machine's directories supports only `MountMode.VOLUME`: it
transfers `SessionRequest.workspace` before the first step, and files come back as archives (`Session.files`). Callers use
its paths only through its methods, and check `capabilities`, never a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

from loom.cancel import Cancel
from loom.config import Config
from loom.config.pools import Pool
from loom.errors import ImageError, ProviderError, ServiceError
from loom.plan.model import PROJECT_DIR, Build, Image, Job, MountMode, Network, Resolved, Resources
from loom.providers.command import Command
from loom.status import Exit, OnOutput
from loom.values import Environ, Immutable

if TYPE_CHECKING:
    from loom.plan.image_lock import ImageLock
    from loom.providers.inside import CommandsInside
    from loom.storage.workspace import Archives, OnSkipped


class Setup(Immutable):
    """The inputs of a provider's constructor. Construction is free: the first request connects."""

    environ: Environ
    config: Config
    run_id: str = ""
    root: Path | None = None
    """The checkout; None where the provider runs no job."""
    lock: ImageLock | None = None
    isolated: bool = False
    """Isolate the network of a job with services (`--strict`)."""
    context: str | None = None
    """One of the provider's clusters, as its own configuration names them; None: its default."""


class Capabilities(Immutable):
    """Static properties of a provider."""

    mounts: frozenset[MountMode]
    """The ways to show a job a directory of this machine. Without BIND, it has no access to one, and jobs can't share
    files.
    """
    isolated: bool
    """A session has its own file system and processes, allows root access, and can be kept."""
    detachable: bool = False
    """Its sessions are `Detachable`."""


class SecretValues(Immutable):
    """The values of a job's secrets, and those of each of its services, in order."""

    own: Mapping[str, bytes] = {}
    services: tuple[Mapping[str, bytes], ...] = ()

    def __repr__(self) -> str:
        return "SecretValues()"


NO_SECRETS = SecretValues()


class ResolveRequest(Immutable):
    """The inputs to make an image available, or the services of a job."""

    workspace: Path
    """The files of builds."""
    cancel: Cancel
    on_output: OnOutput = lambda _stream, _data: None
    """Gets the lines about this work."""
    secrets: SecretValues = NO_SECRETS
    """A build can mount those of the job by name."""

    def say(self, text: str) -> None:
        self.on_output("stdout", f"{text}\n".encode())


class SessionRequest(Immutable):
    """The inputs to open one job's session. All paths are host paths."""

    run_id: str
    job_id: str
    workspace: Path
    umask: int = 0o022
    """The umask of the project's files: that of the directory itself where the session makes one."""
    chmod: str = ""
    """How the modes of all files in it change for this job (`go-w`), because other jobs of the run have other ones."""
    project_dir: str
    """The workspace path in the job (`Provider.project_dir`)."""
    environment: Environ = {}
    """Variables of loom and the plan, in order; never those of the host."""
    concealed: Mapping[str, str] = {}
    """The variables with a known secret in their value, such as one that an earlier job reported: only steps get them."""
    shell: tuple[str, ...] = ()
    image: Image = Image()
    image_id: str | None = None
    """The engine's id of the image, resolved by `images`; the provider runs exactly this one."""
    directory: Path | None = None
    """The job's own directory beside the workspace, for its view; it stays, with the job's changes."""
    mount_mode: MountMode = MountMode.BIND
    read_only_mounts: tuple[Path, ...] = ()
    """Mounted at the same path, read-only: git object stores that the workspace borrows from."""
    resources: Resources = Resources()
    network: Network = Network()
    network_id: str | None = None
    """A network created for the job (services); overrides `network.mode`."""
    privileged: bool = False
    docker_socket: bool = False
    hardened: bool = False
    """Drop most capabilities, and prevent gaining others."""
    pool: Pool | None = None
    """The settings of the job's pool."""
    detached: bool = False
    """The session lives on without this process, as long as it may at all (`Detachable`)."""
    grace_s: float = 10.0
    """The time that a step may take to exit after TERM before it is killed."""
    wait_until_filled: Callable[[], None] | None = None
    """Returns when `workspace` is complete, and raises when it will not be: the session starts after that."""

    @property
    def image_to_run(self) -> str:
        """ImageError for a job without one."""
        if (image := self.image_id or self.image.name) is None:
            raise ImageError(f"job {self.job_id} has no image to run in", hint="give the job an `image:`")
        return image


class SideProgram(Immutable):
    """A program in a container of its own beside a job's, with the same project directory and network."""

    name: str
    """For messages."""
    image: Image
    build_root: Path | None = None
    """The directory to which the paths of an image's build are relative."""
    entrypoint: tuple[str, ...] = ()
    """Empty: the image's."""
    arguments: tuple[str, ...] = ()
    environment: Environ = {}
    directory: str
    """A directory for it alone, with its files, a `home`, and the project's directory as `workspace`."""
    files: Mapping[str, bytes] = {}
    """The files that it finds there."""
    reported: Mapping[str, str] = {}
    """The files of them that are read after its end, by names for the caller."""
    timeout_s: float | None = None


JOB_CAPS = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
"""Of a hardened job: for root to read another user's workspace and return it; other users get none."""
SERVICE_CAPS = (*JOB_CAPS, "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID")
"""Of a hardened service: most images start as root, then change the user."""


class SessionFacts(Immutable):
    """Facts for the record about where a job ran. Empty strings where not applicable."""

    container_id: str = ""
    container_name: str = ""
    user: str = ""
    auto_shell: tuple[str, ...] = ("sh", "-e")
    """The shell of steps of a job that names none."""
    path: str = ""
    """Its `PATH`, where it is known."""
    details: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()
    """Unsupported requests (a limit that the engine can't enforce), for people."""


class Session(Protocol):
    """The container, pod or processes of one job, open. One command at a time; other methods only between commands."""

    @property
    def facts(self) -> SessionFacts: ...

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        """Run one step. ProviderError when the session is lost."""

    def answers(self) -> bool:
        """Return whether it can still run a step: it may have been open, and unused, for minutes."""

    def handed_on(self) -> Mapping[str, str]:
        """Return the variables that steps appended to `$LOOM_ENV`; the last value wins."""

    def reported(self) -> Mapping[str, Sequence[bytes]]:
        """Return the lines that the last step left in `$LOOM_MASK` (`mask`) and in the files of `Command.files`, by name."""

    def put_secret(self, name: str, content: bytes) -> str:
        """Write `content` to a file outside the workspace that only the job's user can read; return its path in the
        job.

        It is removed with the session. `name` is a file name.
        """

    def settle(self) -> None:
        """End the steps: let the caller read the files. Safe to repeat."""

    def files(self) -> Path | Archives:
        """Return the job's view of the workspace: a directory that this process can access, else its archives."""

    def inside(self, environment: Environ, *, as_root: bool = False) -> CommandsInside:
        """Return access to the session between steps. `environment` extends the job's."""

    def size(self) -> int:
        """Return the bytes that the session takes on a disk beside its image and the job's files; 0 where it takes none."""

    def keep(self, expires_at: float) -> None:
        """Keep the idle container after the session, until `expires_at` (seconds since the epoch).

        It outlives this process; a later run removes it after expiry. No command can follow.
        """


@runtime_checkable
class Detachable(Protocol):
    """A session whose steps go on while this process is gone (`SessionRequest.detached`)."""

    def hand_over(
        self, steps: Sequence[Command], after: Mapping[bool, Sequence[Command]], save: Callable[[bytes], None]
    ) -> None:
        """Begin all commands of the job in the session: `steps` up to the first that fails, then those of `after` for success
        (True) or failure. Each is then `run` as usual, in this order, to get its output and its end.

        `save` stores what `DetachedContainer.attach` needs, before anything begins.
        """


@runtime_checkable
class DetachedContainer(Protocol):
    """A job's container in which steps go on without a session."""

    def attach(
        self, saved: bytes, request: SessionRequest, on_output: OnOutput, cancel: Cancel
    ) -> AbstractContextManager[Session]:
        """Open its session again, to `hand_over` and `run` the same commands: their output comes from the first byte on."""


class KeptSession(Protocol):
    """A job's container without a session of this process: its run continues elsewhere, or it was kept."""

    @property
    def name(self) -> str: ...

    @property
    def kept_id(self) -> str:
        """As `SessionFacts.container_id`."""

    @property
    def kept(self) -> bool:
        """Return whether its run is over, so that another session may use it."""

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        """Restart it if it has stopped; return the paths of the files with `secrets`, and whether it had stopped.

        ProviderError when it can't run. Call before `inside`.
        """

    def inside(self, environment: Environ, *, as_root: bool = False) -> CommandsInside:
        """Implement `Session.inside`."""

    def has_its_files(self, mode: MountMode) -> bool:
        """Return whether its view of the workspace, created in this mode, is still complete."""

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        """Fill the new directory `target` with the job's view, without special files."""

    def view(self) -> Path | None:
        """Return the job's files as a directory that this process can read, where the container has one; only to read."""

    def bring(self, source: Path, paths: Sequence[str]) -> None:
        """Make these paths of the job's view as they are below `source`; one that is not there is deleted. They then belong
        to the job's user. ProviderError when that can't be done."""

    def remove(self) -> Sequence[str]:
        """Remove it with its services; return what could not be removed, as lines of text."""

    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> AbstractContextManager[Session]:
        """Open a session in this container. On exit, the container and its resources are removed unless kept again."""


class ImageResolver(Protocol):
    """Makes images available before a session is opened. Thread-safe."""

    def resolve(self, image: Image, request: ResolveRequest) -> Resolved: ...

    identity_of: Callable[[str], str | None]
    """Set by the caller: identifies the content of a snapshot's folder, if builds use the snapshot; None if unknown."""

    def absent(self, images: Sequence[Image]) -> Mapping[str, ImageError]:
        """Return why named images can't be had, by name, as far as two seconds are enough to know it."""
        return {}

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        """Prepare these builds with the current content of `workspace`, copied to `folder`, so that later writes have
        no effect.
        """


class OpenedServices(Struct, kw_only=True):
    """A job's services, all ready."""

    network_id: str
    """Or `container:ID`, whose network stack the job shares."""
    images: Sequence[Resolved]
    variables: Mapping[str, str]
    """The services' addresses, for the job's steps."""
    container_ids: Mapping[str, str] = {}
    """The ids of their containers, by name."""
    keep: Callable[[], None] = lambda: None
    """Keep them and their network running after the block."""
    blamed_for: Callable[[ProviderError], ServiceError | None] = lambda _: None
    """Return the error of a service that ended, where that is why the job's container can't start."""


class Provider(Protocol):
    """Opens sessions. Thread-safe: several are open at once. The methods here suit most providers."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def images(self) -> ImageResolver | None:
        """None if the session finds its image itself."""
        return None

    def check(self) -> None:
        """Raise InfrastructureError if no session can be opened now (EngineUnavailable when no engine answers)."""
        return

    def described(self) -> str:
        """Identify the engine for the record; empty without an engine."""
        return ""

    def secrets(self) -> Mapping[str, bytes]:
        """Return the values, by a name, that sessions get of the user's own configuration and nobody may read in a record."""
        return {}

    def project_dir(self, workspace: Path) -> str:
        """Return the workspace path in a job. For a job with an image, the plan uses `PROJECT_DIR`."""
        return PROJECT_DIR

    def overlays(self, workspace: Path) -> bool:
        """Return whether copy-on-write views of `workspace` should work and equal the directory itself.

        Opening one may still fail, with code `VIEW_UNAVAILABLE` or `WORKSPACE_UNSEEN`.
        """
        return False

    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> AbstractContextManager[Session]:
        """Open one job's session for the block. `on_output` gets the lines of this work (not of steps).

        Raises ProviderError (EngineUnavailable when no engine answers), or ImageError when the image can't run.
        """

    def services(
        self, job: Job, request: ResolveRequest, on_died: Callable[[str, str], None]
    ) -> AbstractContextManager[OpenedServices]:
        """Start a job's services: ready on entry, removed on exit.

        `on_died` gets the name and the result of a service that ended after it was ready, then its last lines. ServiceError
        for one that ends or is not ready in time.
        """
        raise ProviderError(
            f"the services of job {job.id} need a container for it",
            hint="give the job an `image:`, or run it with --container",
        )

    def find(self, run_id: str, job_id: str, kept_id: str = "", *, user: str = "") -> KeptSession | None:
        """Find the container of a running or kept job: by id (`SessionFacts.container_id`), else the newest.

        `user`: of commands in it, as the session stated (`COMMAND_USER` in its details).
        """
        return None

    def remove_run(self, run_id: str, jobs: Sequence[Job]) -> Sequence[str]:
        """Remove every container that these jobs of a run have, running or kept; return failures as lines of text.

        ProviderError when that can't be asked (EngineUnavailable when no engine answers).
        """
        return ()

    def run_beside(
        self, request: SessionRequest, session: Session, asked: SideProgram, on_output: OnOutput, cancel: Cancel
    ) -> tuple[Exit, Mapping[str, Sequence[bytes]]]:
        """Run a program in a container beside a job's; return its end and the lines of the files that it reported in.

        ProviderError where there is no such container, or it is lost; ImageError without its image.
        """
        raise ProviderError(f"{asked.name} needs a container beside the job's, and the provider {self.name} has none")

    def host_address(self, request: SessionRequest, session: Session) -> str | None:
        """Return an address of this machine, with the network around it (`172.17.0.1/16`), at which such a container reaches a
        server of this process, and nothing beyond that network does. None where no such address exists.
        """
        return None

    def has_image(self, image_id: str) -> bool:
        """Return whether the image of a job still exists."""
        return False

    def lay_out(self, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
        """Fill the new directory `target` with the OVERLAY view that a job left in `request.directory`."""
        raise ProviderError(f"the provider {self.name} has no overlays")

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        """Wait until closed sessions are removed; return failures as lines of text. Safe to repeat.

        After the second request of `cancel`, waits at most `cancel.AT_ONCE_S`.
        """
        return ()
