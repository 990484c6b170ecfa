"""The promise every provider makes. A new provider is a folder or module here, and a line in `MODULES` of the package.

`Provider.open` gives a `Session`, one job's place; `Session.run` runs one step in it. What the caller may rely on, for
every implementation (tests/docker/providers and tests/unit/providers hold them to it):

- A command that fails is a value (`Exit`). `ProviderError` means the place itself broke.
- When `run` returns, or the session is left, nothing that it started is still running, but for what the step itself put
  in the background; that is gone when the session is left, and at once after a timeout or a cancel.
- Every byte that a step prints reaches `on_output` before `run` returns, per stream in order; nothing else does. What a
  background child prints later comes with the step that runs then; after the last one, to the `on_output` of `open`.
- `open` undoes itself on every way out: container, network, volume, process group. Removal may go on after the session
  is left, with nothing of it running any more; `Provider.close` waits for it.

A place need not be on this machine. One that can't show a directory of this machine has `MountMode.VOLUME` as its only
mount: it sends `SessionRequest.workspace` there before the first step, and files come back by `get_archive`. Callers use
no path of a place but through its session, and ask for `capabilities`, never for a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.config import Config
from loom.plan.model import Build, Image, Job, MountMode, Network, Resources
from loom.status import Exit, OnOutput

if TYPE_CHECKING:
    from loom.plan.image_lock import ImageLock
    from loom.storage.workspace import OnSkipped


class Setup(Struct, frozen=True, kw_only=True):
    """What a provider is made from. Making one costs nothing: it connects when it is first asked for something."""

    environ: Mapping[str, str]
    config: Config
    run_id: str = ""
    lock: ImageLock | None = None
    isolated: bool = False
    """The network of a job with services leads nowhere else (`--strict`)."""


class Capabilities(Struct, frozen=True, kw_only=True):
    """What a provider can do at all, known without asking it."""

    mounts: frozenset[MountMode]
    """How it can show a job a directory of this machine. Without BIND, it sees none, and jobs can't share one."""
    isolated: bool
    """A place has its own file system and processes, can be entered as root, and can be kept."""


class SecretValues(Struct, frozen=True, kw_only=True):
    """The values of a job's secrets, and for each of its services (in their order) those of that service."""

    own: Mapping[str, bytes] = field(default_factory=dict)
    services: tuple[Mapping[str, bytes], ...] = ()

    def __repr__(self) -> str:
        return "SecretValues()"


NO_SECRETS = SecretValues()


class ReadOnlyMount(Struct, frozen=True, kw_only=True):
    """A host path that a session shows at the same path, read-only (git object stores that the workspace borrows from)."""

    path: Path


class SessionRequest(Struct, frozen=True, kw_only=True):
    """Everything a provider needs to open one job's place. Paths in it are host paths."""

    run_id: str
    job_id: str
    workspace: Path
    project_dir: str
    """Where the job sees the workspace (`Provider.project_dir`)."""
    environment: Mapping[str, str]
    """Loom's and the plan's variables, in order; never the host's own environment."""
    shell: tuple[str, ...]
    image: Image | None = None
    image_id: str | None = None
    """What `images` resolved `image` to: the engine's id; the provider runs exactly this."""
    directory: Path | None = None
    """The job's own, beside the workspace, for what a view of it is made of; it stays, with what the job wrote."""
    mount_mode: MountMode = MountMode.BIND
    read_only_mounts: tuple[ReadOnlyMount, ...] = ()
    resources: Resources = field(default_factory=Resources)
    network: Network = field(default_factory=Network)
    network_id: str | None = None
    """A network made for the job (services); wins over `network.mode`."""
    privileged: bool = False
    docker_socket: bool = False
    hardened: bool = False
    """Fewer capabilities than a container usually has, and no way to gain others."""
    labels: Mapping[str, str] = field(default_factory=dict)
    grace_s: float = 10.0
    """How long a step may take to end after TERM before it is killed."""


class Command(Struct, frozen=True, kw_only=True):
    """One step. `environment` comes on top of the session's: what earlier steps handed on, and loom's per-step names."""

    script: str
    shell: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


class SessionFacts(Struct, frozen=True, kw_only=True):
    """What the record says about where a job ran. Empty strings where a provider has no such thing."""

    provider: str
    image: str = ""
    image_id: str = ""
    container_id: str = ""
    container_name: str = ""
    user: str = ""
    has_bash: bool = False
    details: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What was asked for and is not so here (a limit that the engine can't enforce), for people."""


class Change(Struct, frozen=True, kw_only=True):
    """A path, relative to the workspace, that a job's own view of it differs in."""

    path: str
    kind: Literal["added", "modified", "deleted"]


class Inside(Protocol):
    """The inside of a place, for a person who looks into it: beside its steps, or after them."""

    def exec(
        self,
        command: Sequence[str],
        on_output: OnOutput | None,
        cancel: Cancel,
        *,
        timeout_s: float | None = None,
        grace_s: float = 10.0,
    ) -> Exit:
        """Run a command in the project's directory, with the caller's standard input, until it ends.

        Without `on_output`, output goes to the caller's own streams. A cancel or the timeout ends the command by a
        signal, and after the grace by KILL.
        """
        ...

    def shell(self, shell: Sequence[str], *, script: str, name: str, cancel: Cancel) -> int:
        """Open an interactive shell on the caller's terminal (see `interactive.prepared`); its exit code."""
        ...


class Session(Protocol):
    """One job's open place. One command at a time; other methods between commands."""

    @property
    def facts(self) -> SessionFacts: ...

    def run(self, command: Command, on_output: OnOutput, cancel: Cancel) -> Exit:
        """Run one step to its end. ProviderError when the place is lost."""
        ...

    def handed_on(self) -> Mapping[str, str]:
        """What the steps so far appended to `$LOOM_ENV`, last one wins."""
        ...

    def to_mask(self) -> list[bytes]:
        """The lines that steps appended to `$LOOM_MASK` since the last call."""
        ...

    def put_secret(self, name: str, content: bytes) -> str:
        """Keep `content` out of the workspace in a file that only the job's user can read; the path to it as steps see it.

        It is gone when the session is left. `name` is a file name.
        """
        ...

    def settle(self) -> None:
        """No more steps are to come: give the caller what it takes to read the files. Safe to repeat."""
        ...

    def workspace_view(self) -> Path | None:
        """The job's view of the workspace as a directory that this process can read and write, where there is one."""
        ...

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = ...) -> Iterator[bytes]:
        """A tar stream of files and directories of the job's view, which also holds what lies below a directory.

        Paths are relative to the workspace, there and in the tar; one that does not exist is left out; `.` is everything.
        Sockets, FIFOs and devices are left out and given to `on_skipped` (an engine's own archives have no sockets to name).
        """
        ...

    def put_archive(self, archive: Iterable[bytes]) -> None:
        """Unpack a tar stream over the job's view; what it holds belongs to the job's user afterwards."""
        ...

    def changes(self) -> Sequence[Change] | None:
        """What the job changed in its view so far, sorted by path; None where the view is the workspace itself or unknown."""
        ...

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> Inside:
        """Look into the place, between steps. `environment` comes on top of the job's."""
        ...

    def checkpoint(self, archive: Path, expires_at: float) -> Mapping[str, Any]:
        """Save what a job can go on from when its place is gone; the record's facts of it, empty where nothing is saved.

        Its files go to `archive` (`files.pack`). `image_id` names an image of its file system, which
        `Provider.has_image` knows until `expires_at`. InfrastructureError if it can't be saved.
        """
        ...

    def keep(self, expires_at: float) -> None:
        """Do not undo the place when the session is left: it stays, idle, until `expires_at` (seconds since the epoch).

        It then outlives this process; a later loom removes it when the time has come. No command can be run afterwards.
        """
        ...


class KeptPlace(Protocol):
    """A job's place that is there without a session of this process: its run is not over, or it was kept."""

    @property
    def name(self) -> str: ...

    @property
    def kept(self) -> bool:
        """Whether its run is over, so that somebody else may go on in it."""
        ...

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        """Make it run again if it has stopped; the paths of the files with `secrets`, and whether it had stopped.

        ProviderError when it can't run again. Call before `inside`.
        """
        ...

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> Inside:
        """As `Session.inside`."""
        ...

    def has_its_files(self, mode: MountMode) -> bool:
        """Whether its view of the workspace, which was made in this way, is still whole."""
        ...

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        """Fill `target`, which must not be there, with the job's view of the workspace, but for special files."""
        ...

    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> AbstractContextManager[Session]:
        """A session in this place. Left without being kept again, the place and all that is its own are removed."""
        ...


class Resolved(Protocol):
    """What an image reference turned out to be."""

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
    """Makes images available to a provider before a place is opened. Thread-safe."""

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

    identity_of: Callable[[str], str | None]
    """To be set: names what a folder of the snapshot holds, if builds get what it held; None where that is not known."""

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        """Build these from what `workspace` holds now, whatever is written there until then; `folder` keeps a copy."""
        ...


class OpenedServices(Protocol):
    """A job's services, all of them ready."""

    @property
    def network_id(self) -> str: ...
    @property
    def images(self) -> Sequence[Resolved]: ...
    @property
    def variables(self) -> Mapping[str, str]:
        """Where the services are, for the job's steps."""
        ...

    @property
    def keep(self) -> Callable[[], None]:
        """Leave them and their network running when the block is left."""
        ...


class Provider(Protocol):
    """A kind of place. Thread-safe: several sessions are open at once."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def images(self) -> ImageResolver | None:
        """None where a place finds its image by itself."""
        ...

    def check(self) -> None:
        """Raise InfrastructureError if no place can be opened now (EngineUnavailable when no engine answers)."""
        ...

    def described(self) -> str:
        """Which engine it is and where, for the record; empty where there is nothing to name."""
        ...

    def project_dir(self, workspace: Path) -> str:
        """Where a job sees its view of the workspace. A job with an image sees it at `PROJECT_DIR`: its plan says so."""
        ...

    def overlays(self, workspace: Path) -> bool:
        """Whether copy-on-write views of `workspace` can be expected here, and are as good as the directory itself.

        Opening one may still fail, with the code `VIEW_UNAVAILABLE` or `WORKSPACE_UNSEEN`.
        """
        ...

    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> AbstractContextManager[Session]:
        """Open one job's place, until the block is left. Output of this work itself (not of steps) goes to `on_output`, in lines.

        Entering raises ProviderError (EngineUnavailable when no engine answers), ImageError when the image can't run.
        """
        ...

    def services(
        self,
        job: Job,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        on_died: Callable[[str, str], None],
        secrets: SecretValues,
    ) -> AbstractContextManager[OpenedServices]:
        """A job's services, ready when entered, gone when left. Of a job of another provider: reachable from this machine.

        `on_died` gets the name of a service that ended after it was ready, and how. ServiceError for one that ends or
        does not get ready in its time.
        """
        ...

    def find(self, run_id: str, job_id: str, place_id: str = "") -> KeptPlace | None:
        """The place of a job that runs or was kept: the one with this id (`SessionFacts.container_id`), else the newest."""
        ...

    def has_image(self, image_id: str) -> bool:
        """Whether a job's image, or that of a checkpoint, is still there to open a place from."""
        ...

    def lay_out(self, request: SessionRequest, target: Path, on_skipped: OnSkipped) -> None:
        """Fill `target`, which must not be there, with a view of mode OVERLAY that a job left in `request.directory`."""
        ...

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        """Wait until everything of closed sessions is removed; return what could not be, as lines of text. Safe to repeat.

        From the second request of `cancel` on it waits for no longer than `cancel.AT_ONCE_S`.
        """
        ...
