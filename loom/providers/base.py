"""The promise every provider makes: `Provider.open` gives a `Session`, `Session.run` runs one step in it.

What the caller may rely on, for every implementation (tests/providers holds them to it):

- A command that fails is a value (`Exit`). `ProviderError` means the place itself broke.
- When `run` returns, or the session is left, nothing that it started is still running, but for what the step itself put
  in the background; that is gone when the session is left, and at once after a timeout or a cancel.
- Every byte that a step prints reaches `on_output` before `run` returns, per stream in order; nothing else does. What a
  background child prints later comes with the step that runs then; after the last one, to the `on_output` of `open`.
- `open` undoes itself on every way out: container, network, volume, process group. Removal may go on after the session
  is left, with nothing of it running any more; `Provider.close` waits for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Image, MountMode, Network, Resources
from loom.status import Exit, OnOutput

if TYPE_CHECKING:
    from loom.storage.workspace import OnSkipped


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
    """Where the job sees the workspace: `/workspace` in a container, the workspace itself on the host."""
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
    hidden_paths: tuple[str, ...] = ()
    """Directories of the workspace, relative to it, that a container shows empty and read-only (the run's own record)."""
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
    image_digest: str = ""
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

    def keep(self, expires_at: float) -> None:
        """Do not undo the place when the session is left: it stays, idle, until `expires_at` (seconds since the epoch).

        It then outlives this process; a later loom removes it when the time has come. No command can be run afterwards.
        """
        ...


class Provider(Protocol):
    """A kind of place. Thread-safe: several sessions are open at once."""

    @property
    def name(self) -> str: ...

    def overlays(self, workspace: Path) -> bool:
        """Whether copy-on-write views of `workspace` can be expected here, and are as good as the directory itself.

        Opening one may still fail, with the code `VIEW_UNAVAILABLE` or `WORKSPACE_UNSEEN`.
        """
        ...

    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> AbstractContextManager[Session]:
        """A context manager around one job's place; its own work (not steps) is told to `on_output` as text lines.

        Entering raises ProviderError (EngineUnavailable when no engine answers), ImageError when the image can't run.
        """
        ...

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        """Wait until all that left sessions had is removed. What could not be, as lines of text; safe to call twice.

        From the second request of `cancel` on it waits for no longer than `cancel.AT_ONCE_S`.
        """
        ...
