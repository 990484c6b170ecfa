"""How a job's container sees the workspace: the workspace itself, a copy-on-write view of it, or a volume filled from it.

A `Mount` is made before the container, says what the container is created with, and is undone after it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers.base import Change, SessionRequest
from loom.providers.docker import labels
from loom.providers.docker.capabilities import Traits
from loom.providers.docker.cleanup import remove_volume
from loom.providers.docker.errors import translated
from loom.providers.docker.ownership import Ids, Owner, Workspaces, chown_all, foreign, open_to_all
from loom.providers.docker.retries import retrying
from loom.providers.files import Edit, archive_of, packed, renamed, unnoticed, unpack
from loom.util.paths import climbs_out, jobs_of

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import OnSkipped
from loom.providers.docker.overlay import can_be_named, differences, foreign_paths, lstat, remove_work

UNAVAILABLE = "VIEW_UNAVAILABLE"
"""The error code for a view that is impossible here."""

AsRoot = Callable[[str], int]
"""Runs a line of shell as root beside the job, with the workspace at its place; its exit code."""


class Mount(Protocol):
    """One job's view of the workspace."""

    def make(self) -> None:
        """Make what the container is created with; may be tried again."""
        ...

    def spec(self) -> list[dict[str, Any]]:
        """The engine's mounts that show the workspace at the project directory, and what it borrows from."""
        ...

    def fill(self, container_id: str, cancel: Cancel) -> None:
        """Fill the view, between the container's creation and its start."""
        ...

    def chown_to_job(self, user: Owner, ids: Ids, as_root: AsRoot) -> None:
        """Let the job's user write in the view; before the first step, when the workspace is complete.

        `user` has the container's ids, `ids` maps them to those of this machine.
        """
        ...

    def chown_back(self, as_root: AsRoot) -> None:
        """Let the caller read, change and delete everything; after the last step, the container may have ended."""
        ...

    def view(self) -> Path | None: ...

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = ...) -> Iterator[bytes]: ...

    def put_archive(self, archive: Iterable[bytes]) -> None: ...

    def changes(self, as_root: AsRoot) -> Sequence[Change] | None: ...

    def undo(self) -> None:
        """Remove what was made; the container is gone already."""
        ...


def mount_of(
    client: docker.DockerClient, request: SessionRequest, workspaces: Workspaces, pid: int, traits: Traits
) -> Mount:
    match request.mount_mode:
        case MountMode.BIND:
            return BindMount(request, workspaces)
        case MountMode.OVERLAY:
            return OverlayMount(client, request, pid, rootless=traits.rootless)
        case MountMode.VOLUME:
            return VolumeMount(client, request, pid)


class BindMount:
    """The workspace itself. What jobs write there is seen by all others and stays."""

    def __init__(self, request: SessionRequest, workspaces: Workspaces) -> None:
        self._request = request
        self._workspace = request.workspace
        self._workspaces = workspaces
        self._user: Owner | None = None
        self._ids = Ids()
        self._mode = 0o700

    def make(self) -> None:
        if (status := lstat(self._workspace)) is not None:  # else the engine has the reason
            self._mode = stat.S_IMODE(status.st_mode)

    def spec(self) -> list[dict[str, Any]]:
        return [_bind(self._workspace, self._request.project_dir), *_read_only(self._request)]

    def fill(self, container_id: str, cancel: Cancel) -> None:
        pass

    def chown_to_job(self, user: Owner, ids: Ids, as_root: AsRoot) -> None:
        self._ids = ids
        self._user = user = ids.outside(user) or user
        if self._workspaces.enter(self._workspace, user):
            chown_all(self._workspace, user, ids, self._request.project_dir, as_root)
        if self._workspaces.open(self._workspace):
            open_to_all(self._workspace, self._request.project_dir, as_root)

    def chown_back(self, as_root: AsRoot) -> None:
        if self._user is None:
            return
        me = Owner.of_this_process()
        chowned = self._workspaces.leave(self._workspace, self._user)
        # Root need not look: it may change all files. And a job that is still at work there needs its own.
        alone = self._workspaces.nobody_in(self._workspace)
        if chowned or (me.uid != 0 and alone and foreign(self._workspace, me)):
            chown_all(self._workspace, me, self._ids, self._request.project_dir, as_root)
            if me.uid != 0 and (path := foreign(self._workspace, me)):
                raise ProviderError(
                    f"job {self._request.job_id} left files in the workspace that belong to others, such as {path}",
                    hint="its image has no `chown`; remove the workspace with: sudo rm -r " + str(self._workspace),
                )
        if alone:
            self._close(me, 0o700 if self._workspaces.close(self._workspace) else self._mode)

    def _close(self, me: Owner, mode: int) -> None:
        """A run's workspace is its owner's, and closed to others, whatever the job made of it."""
        status = lstat(self._workspace)
        if status is None:
            return
        if me.uid == 0 and (status.st_uid, status.st_gid) != (me.uid, me.gid):
            os.chown(self._workspace, me.uid, me.gid, follow_symlinks=False)
        if stat.S_IMODE(status.st_mode) != mode:
            self._workspace.chmod(mode)

    def view(self) -> Path | None:
        return self._workspace

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        return archive_of(self._workspace, paths, on_skipped)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        unpack(archive, self._workspace)

    def changes(self, as_root: AsRoot) -> Sequence[Change] | None:
        return None

    def undo(self) -> None:
        pass


class _EngineVolume:
    """What the two kinds of volume share: a name, files in and out through the engine, removal."""

    role: str

    def __init__(self, client: docker.DockerClient, request: SessionRequest, pid: int) -> None:
        self._client = client
        self._api: Any = client.api
        self._request = request
        self._pid = pid
        self._name = f"loom-{request.run_id[-10:]}-{secrets.token_hex(6)}"
        self._container_id = ""
        self._user = Owner(0, 0)
        self._ids = Ids()
        self._made = False

    def adopt(self, volume: str, container_id: str) -> None:
        """Use the view that an earlier loom made for a container that was kept."""
        self._name, self._container_id, self._made = volume, container_id, True

    def _create(self, options: Mapping[str, str]) -> None:
        request = self._request
        marks = labels.labels(
            run_id=request.run_id,
            job_id=request.job_id,
            workspace=request.workspace,
            pid=self._pid,
            role=self.role,
            more=request.labels,
        )
        with translated(f"making the workspace's volume for job {request.job_id}"):
            self._made = True
            # Safe to repeat: a volume of that name and these options is given back as it is.
            retrying(lambda: self._api.create_volume(self._name, "local", dict(options), marks))

    def _mount(self) -> dict[str, Any]:
        # What the image has at that path must not be copied into the view.
        options = {"NoCopy": True}
        return {"Type": "volume", "Source": self._name, "Target": self._request.project_dir, "VolumeOptions": options}

    def fill(self, container_id: str, cancel: Cancel) -> None:
        self._container_id = container_id

    def view(self) -> Path | None:
        return None

    def get_archive(self, paths: Iterable[str], on_skipped: OnSkipped = unnoticed) -> Iterator[bytes]:
        view = self.view()
        if view is not None:
            return archive_of(view, paths, on_skipped)
        return renamed(self._archives(list(paths)), on_skipped)

    def _archives(self, paths: Sequence[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        root = self._request.project_dir.rstrip("/")
        for path in paths:
            plain = "/".join(part for part in path.split("/") if part not in ("", "."))
            try:
                with translated(f"reading {path} from job {self._request.job_id}"):
                    # A slash behind it would follow a link.
                    source = f"{root}/{plain}" if plain else f"{root}/."
                    stream, _ = self._api.get_archive(self._container_id, source, chunk_size=1 << 20)
            except ProviderError as error:
                if getattr(error.__cause__, "status_code", None) != 404:
                    raise
                if "no such container" in error.message.lower():
                    raise ProviderError(
                        f"the container of job {self._request.job_id} is gone, and its files can't be reached without it",
                        code="CONTAINER_LOST",
                    ) from error
                continue
            yield plain, stream

    def put_archive(self, archive: Iterable[bytes]) -> None:
        user = self._user

        with self._links_apart() as apart:

            def owned(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
                member.uid, member.gid, member.uname, member.gname = user.uid, user.gid, "", ""
                return apart(member)

            self._put(self._request.project_dir, renamed([("", archive)], change=owned))

    @contextlib.contextmanager
    def _links_apart(self) -> Iterator[Edit]:
        """For what is put into the view: links that climb out of it come behind, from the root directory.

        The engine refuses such links from anywhere below.
        """
        links: list[tuple[tarfile.TarInfo, None]] = []

        def apart(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            if not member.issym() or not climbs_out(member.name, member.linkname):
                return member
            member.name = f"{self._request.project_dir.strip('/')}/{member.name}"
            links.append((member, None))
            return None

        yield apart
        if links:
            self._put("/", packed(links))

    def _put(self, directory: str, archive: Iterable[bytes]) -> None:
        with translated(f"writing to the workspace of job {self._request.job_id}"):
            self._api.put_archive(self._container_id, directory, archive)

    def chown_to_job(self, user: Owner, ids: Ids, as_root: AsRoot) -> None:
        self._user, self._ids = user, ids
        if user.uid != 0:
            as_root(_chown(user, self._request.project_dir))

    def chown_back(self, as_root: AsRoot) -> None:
        pass

    def undo(self) -> None:
        if self._made:
            remove_volume(self._client, self._name)


class OverlayMount(_EngineVolume):
    """A copy-on-write view: the workspace is its lower layer, what the job writes lies in a directory of its own.

    The engine mounts it, with its own rights, so that nobody else needs any.
    """

    role = "overlay"

    def __init__(
        self, client: docker.DockerClient, request: SessionRequest, pid: int, *, rootless: bool = False
    ) -> None:
        super().__init__(client, request, pid)
        self._rootless = rootless
        # Beside the workspace: on the same file system, where the engine sees it if it sees the workspace at all.
        self._layers = request.directory or jobs_of(request.workspace) / self._name
        self._upper = self._layers / "upper"

    def make(self) -> None:
        lower, work = self._request.workspace, self._layers / "work"
        try:
            of_lower = lower.stat()
            # Closed to all others on this machine, so that the view's root, which the upper directory is, can be open to
            # whomever a step becomes (`su postgres`), as a checkout in CI is.
            self._layers.mkdir(parents=True, mode=0o700, exist_ok=True)
            work.mkdir(exist_ok=True)
            self._upper.mkdir(exist_ok=True)
            self._upper.chmod(0o755)
            if os.geteuid() == 0:
                os.chown(self._upper, of_lower.st_uid, of_lower.st_gid)
        except OSError as error:
            raise ProviderError(f"no place for the layers of job {self._request.job_id}: {error}") from error
        for path in (lower, self._upper, work):
            if not can_be_named(path):
                raise ProviderError(
                    f"an overlay can't be made of {path}: overlayfs takes no path with a comma, colon or backslash",
                    hint="use the mount mode `auto`, or another temporary directory",
                    code=UNAVAILABLE,
                )
        options = {
            "type": "overlay",
            "device": "overlay",
            "o": f"lowerdir={lower},upperdir={self._upper},workdir={work}",
        }
        # Without the marks of a user's own a rootless engine can't remove a directory below, since the others are root's alone;
        # and these can't say where a directory was moved from, so that `mv` copies it and a plain rename fails (EXDEV).
        options["o"] += ",userxattr" if self._rootless else ",redirect_dir=on"
        self._create(options)

    def spec(self) -> list[dict[str, Any]]:
        return [self._mount(), *_read_only(self._request)]

    def view(self) -> Path | None:
        """The engine's own mount of the view, where this process may go there: as quick as any directory."""
        try:
            mounted = Path(str(retrying(lambda: self._api.inspect_volume(self._name))["Mountpoint"]))
            return mounted if mounted.is_mount() and os.access(mounted, os.R_OK | os.W_OK | os.X_OK) else None
        except Exception as error:
            if isinstance(error, PermissionError) or getattr(error, "status_code", None) is not None:
                return None
            raise

    def changes(self, as_root: AsRoot) -> Sequence[Change] | None:
        self.chown_back(as_root)  # else the job's private directories could not be looked into
        return sorted(differences(self._request.workspace, self._upper), key=lambda change: change.path)

    def chown_back(self, as_root: AsRoot) -> None:
        # For a caller that is not root: only what is in the upper layer already; a chown of the rest would copy all of it up.
        if os.geteuid() == 0:
            return
        me = Owner.of_this_process()
        inside = self._ids.inside(me)
        if inside is None:
            return
        seen: set[str] = set()
        # Directories open up one level at a time.
        while paths := set(foreign_paths(self._upper, me)) - seen:
            seen |= paths
            shown = sorted(f"{self._request.project_dir}/{path}" for path in paths)
            for start in range(0, len(shown), 200):
                words = " ".join("'" + path.replace("'", "'\\''") + "'" for path in shown[start : start + 200])
                as_root(f"chown -h {inside.uid}:{inside.gid} {words}")

    def undo(self) -> None:
        super().undo()
        remove_work(self._layers)


class VolumeMount(_EngineVolume):
    """A volume of the engine's, filled through its API: for an engine that does not see this machine's files."""

    role = "volume"

    def make(self) -> None:
        self._create({})

    def spec(self) -> list[dict[str, Any]]:
        return [self._mount()]

    def fill(self, container_id: str, cancel: Cancel) -> None:
        super().fill(container_id, cancel)
        workspace = self._request.workspace

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
            return member

        with self._links_apart() as apart:
            whole = archive_of(workspace, ["."], change=lambda member: apart(plain(member)))
            self._put(self._request.project_dir, self._unless_canceled(whole, cancel))
        for borrowed in self._request.read_only_mounts:
            # What the workspace's git borrows objects from is looked for at the same path.
            # By its real path, since links on the way are not followed.
            root = borrowed.path.resolve()
            objects = archive_of(root.parent, [root.name], change=plain)
            below = renamed([(borrowed.path.as_posix().lstrip("/"), objects)])
            self._put("/", self._unless_canceled(below, cancel))

    def _unless_canceled(self, archive: Iterable[bytes], cancel: Cancel) -> Iterator[bytes]:
        for piece in archive:
            if cancel.requested:
                raise ProviderError(
                    f"canceled while the workspace was sent to job {self._request.job_id}", code="CANCELED"
                )
            yield piece

    def changes(self, as_root: AsRoot) -> Sequence[Change] | None:
        return None


def _bind(source: Path, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def _read_only(request: SessionRequest) -> list[dict[str, Any]]:
    return [_bind(shown.path, str(shown.path), read_only=True) for shown in request.read_only_mounts]


def _chown(user: Owner, directory: str) -> str:
    return f"chown -Rh {user.uid}:{user.gid} '{directory}'"
