"""Give a job's container the workspace: directly, as a copy-on-write view, or as a filled volume.

A `Mount` is prepared before the container, supplies its arguments, and is removed after it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.base import SessionRequest
from loom.providers.docker.container.cleanup import remove_volume
from loom.providers.docker.container.ownership import Owner, Workspaces, chown_all, foreign_paths, lstat
from loom.providers.docker.engine.client import EngineClient, Traits
from loom.providers.docker.engine.errors import engine_errors, translated
from loom.providers.docker.engine.retries import retrying
from loom.providers.files import members_in, members_of, moved_below, unless_canceled
from loom.storage.tar import Item, packed
from loom.storage.workspace import Archives, OnSkipped
from loom.util.file_systems import file_system_of
from loom.util.paths import climbs_out, jobs_of, normal

UNAVAILABLE = "VIEW_UNAVAILABLE"
"""The error code for an unsupported view."""
_UPPER_FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs")
"""File systems that support an overlay's upper layer: they can store its marks."""

AsRoot = Callable[[str], int]
"""Runs a line of shell as root with the workspace mounted; returns its exit code."""


class Mount:
    """One job's view of the workspace."""

    def make(self) -> None:
        """Prepare it for the container's creation; may be repeated."""

    def spec(self) -> list[dict[str, Any]]:
        """Return the mounts of the workspace at the project directory, and of the stores that it borrows from."""
        raise NotImplementedError

    def fill(self, container_id: str, cancel: Cancel) -> None:
        """Fill the view, between the container's creation and its start."""

    def chown_to_job(self, user: Owner, as_root: AsRoot) -> None:
        """Give the job's user, as the container knows it, write access; before the first step, when the workspace is complete."""

    def chown_back(self, as_root: AsRoot) -> None:
        """Give this user full access to the files after the last step; the container may have ended."""

    def files(self) -> Path | Archives:
        """Implement `Session.files`."""
        raise NotImplementedError

    def size(self) -> int:
        """Return the bytes that the view takes and that go with the container; 0 for files of this machine."""
        return 0

    def undo(self) -> None:
        """Remove the view; the container is already gone."""


def mount_of(client: EngineClient, request: SessionRequest, workspaces: Workspaces) -> Mount:
    match request.mount_mode:
        case MountMode.BIND:
            return BindMount(request, workspaces, rootless=Traits(client).rootless)
        case MountMode.OVERLAY:
            return OverlayMount(client, request)
        case MountMode.VOLUME:
            return VolumeMount(client, request)


class BindMount(Mount):
    """The workspace itself. Jobs' changes are shared and permanent."""

    def __init__(self, request: SessionRequest, workspaces: Workspaces, *, rootless: bool = False) -> None:
        self._request = request
        self._rootless = rootless
        self._workspace = request.workspace
        self._workspaces = workspaces
        self._user: Owner | None = None

    def spec(self) -> list[dict[str, Any]]:
        return [_bind(self._workspace, self._request.project_dir), *_read_only(self._request)]

    def chown_to_job(self, user: Owner, as_root: AsRoot) -> None:
        owns = user.uid == 0 or (not self._rootless and user.uid == self._workspace.stat().st_uid)
        given = self._workspaces.enter(self._workspace, user, has_files=owns)
        self._user = user
        if given:
            chown_all(self._workspace, user, self._request.project_dir, as_root)

    def chown_back(self, as_root: AsRoot) -> None:
        if self._user is None:
            return
        me = Owner.process_owner()
        alone, chowned = self._workspaces.leave(self._workspace, self._user)
        # Root may change all files, so no search is needed. Running jobs need their own files there.
        if chowned or (me.uid != 0 and alone and any(foreign_paths(self._workspace, me))):
            inside = Owner.process_owner(rootless=self._rootless)
            chown_all(self._workspace, inside, self._request.project_dir, as_root)
            if me.uid != 0 and (path := next(foreign_paths(self._workspace, me), "")):
                raise ProviderError(
                    f"job {self._request.job_id} left files in the workspace that belong to others, such as {path}",
                    hint="its image has no `chown`; remove the workspace with: sudo rm -r " + str(self._workspace),
                )
        if alone and (status := lstat(self._workspace)) is not None:
            # A run's workspace belongs to its owner, who may enter it, even after changes by jobs.
            if me.uid == 0 and (status.st_uid, status.st_gid) != (me.uid, me.gid):
                os.chown(self._workspace, me.uid, me.gid, follow_symlinks=False)
            if status.st_mode & 0o700 != 0o700:
                self._workspace.chmod(stat.S_IMODE(status.st_mode) | 0o700)

    def files(self) -> Path:
        return self._workspace


class _EngineVolume(Mount):
    """Common parts of both kinds of volume: name, file transfer through the engine, removal."""

    role: str

    def __init__(self, client: EngineClient, request: SessionRequest) -> None:
        self._client = client
        self._api = client.api
        self._request = request
        self._name = f"loom-{request.run_id[-10:]}-{secrets.token_hex(6)}"
        self._container_id = ""
        self._user = Owner(0, 0)
        self._made = False

    def adopt(self, volume: str, container_id: str, user: Owner = Owner(0, 0)) -> None:  # noqa: B008  a value
        """Use the existing view of a kept container."""
        self._name, self._container_id, self._made, self._user = volume, container_id, True, user

    def _create(self, options: Mapping[str, str]) -> None:
        request = self._request
        marks = labels.request_labels(request, self.role)
        with translated(f"making the workspace's volume for job {request.job_id}"):
            self._made = True
            # Repeatable: the engine returns an existing volume with this name and options.
            retrying(lambda: self._api.create_volume(self._name, "local", dict(options), marks))

    def _mount(self) -> dict[str, Any]:
        # Do not copy the image's content at that path to the view.
        options = {"NoCopy": True}
        return {"Type": "volume", "Source": self._name, "Target": self._request.project_dir, "VolumeOptions": options}

    def fill(self, container_id: str, cancel: Cancel) -> None:
        self._container_id = container_id

    def files(self) -> Path | Archives:
        return self

    def get(self, paths: Iterable[str], on_skipped: OnSkipped) -> Generator[Item, None, None]:
        return members_in(self._archives(paths), on_skipped)

    def _archives(self, paths: Iterable[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
        root = self._request.project_dir.rstrip("/")
        for path in paths:
            plain = normal(path)
            try:
                with translated(f"reading {path} from job {self._request.job_id}"):
                    # A trailing slash would follow a link.
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

    def put(self, items: Iterable[Item]) -> None:
        self._unpack(items, (self._user.uid, self._user.gid))

    def _unpack(self, items: Iterable[Item], owner: tuple[int, int] = (0, 0), cancel: Cancel | None = None) -> None:
        """Unpack in the workspace, and then links that climb out, from the root directory.

        Docker refuses such links below any directory. Podman takes them there, and would put them below the volume otherwise.
        """
        links: list[Item] = []

        def others() -> Iterator[Item]:
            for entry, content in items:
                if entry.kind != "link" or not climbs_out(entry.path, entry.target) or Traits(self._client).podman:
                    yield entry, content
                else:
                    links.append((moved_below(self._request.project_dir.strip("/"), entry), None))

        self._upload(self._request.project_dir, others(), owner, cancel)
        if links:
            self._upload("/", links, owner, cancel)

    def _upload(self, directory: str, items: Iterable[Item], owner: tuple[int, int], cancel: Cancel | None) -> None:
        pieces = unless_canceled(packed(items, owner), self._request.job_id, cancel or Cancel())
        with translated(f"writing to the workspace of job {self._request.job_id}"):
            self._api.put_archive(self._container_id, directory, pieces)

    def chown_to_job(self, user: Owner, as_root: AsRoot) -> None:
        self._user = user
        if user.uid != 0:
            as_root(f"chown -Rh {user.uid}:{user.gid} '{self._request.project_dir}'")

    def undo(self) -> None:
        if self._made:
            remove_volume(self._client, self._name)


class OverlayMount(_EngineVolume):
    """A copy-on-write view: the workspace is the lower layer; the job's changes go to a separate directory.

    The engine mounts it with its own rights, so loom needs none.
    """

    role = "overlay"

    def __init__(self, client: EngineClient, request: SessionRequest) -> None:
        super().__init__(client, request)
        self._rootless = Traits(client).rootless
        # Beside the workspace: on the same file system, and visible to the engine like the workspace.
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
            self._upper.chmod(0o777 & ~self._request.umask)
            if os.geteuid() == 0:
                os.chown(self._upper, of_lower.st_uid, of_lower.st_gid)
        except OSError as error:
            raise ProviderError(f"no directory for the layers of job {self._request.job_id}: {error}") from error
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

    def files(self) -> Path | Archives:
        """Return the engine's mount point of the view, if this process may enter it: as fast as any directory."""
        try:
            with engine_errors():
                found = retrying(lambda: self._api.inspect_volume(self._name))
            mounted = Path(str(found["Mountpoint"]))
            return mounted if mounted.is_mount() and os.access(mounted, os.R_OK | os.W_OK | os.X_OK) else self
        except Exception as error:
            if isinstance(error, PermissionError) or getattr(error, "status_code", None) is not None:
                return self
            raise

    def chown_back(self, as_root: AsRoot) -> None:
        # For a non-root caller: only files of the upper layer; a chown of others would copy them up.
        if os.geteuid() == 0:
            return
        me, inside = Owner.process_owner(), Owner.process_owner(rootless=self._rootless)
        seen: set[str] = set()
        # Directories become accessible one level at a time.
        while paths := set(foreign_paths(self._upper, me)) - seen:
            seen |= paths
            shown = sorted(f"{self._request.project_dir}/{path}" for path in paths)
            for start in range(0, len(shown), 200):
                as_root(f"chown -h {inside.uid}:{inside.gid} {shlex.join(shown[start : start + 200])}")

    def undo(self) -> None:
        super().undo()
        remove_work(self._layers)


class VolumeMount(_EngineVolume):
    """An engine volume, filled through the API: for an engine without access to this machine's files."""

    role = "volume"

    def make(self) -> None:
        self._create({})

    def spec(self) -> list[dict[str, Any]]:
        return [self._mount()]

    def fill(self, container_id: str, cancel: Cancel) -> None:
        super().fill(container_id, cancel)
        self._unpack(members_of(self._request.workspace, ["."]), cancel=cancel)
        for borrowed in self._request.read_only_mounts:
            # git looks for borrowed object stores at their original path.
            # By its real path, since links on the way are not followed.
            folder, members = borrowed.as_posix().strip("/"), members_of(borrowed.resolve(), ["."])
            moved = ((moved_below(folder, entry), content) for entry, content in members if entry.path != ".")
            self._upload("/", moved, (0, 0), cancel)

    def chown_to_job(self, user: Owner, as_root: AsRoot) -> None:
        super().chown_to_job(user, as_root)
        if self._request.umask != 0o022:  # the engine made the directory, with 0755
            as_root(f"chmod {0o777 & ~self._request.umask:o} '{self._request.project_dir}'")

    def size(self) -> int:
        with translated("measuring the job's volume"):
            url = self._api._url("/system/df")  # the SDK's own call also measures all images
            used = self._api._result(self._api._get(url, params={"type": "volume"}), True)
        sizes = {volume["Name"]: (volume.get("UsageData") or {}).get("Size") for volume in used.get("Volumes") or ()}
        return max(0, sizes.get(self._name) or 0)  # -1: unknown


def _bind(source: Path, target: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}


def _read_only(request: SessionRequest) -> list[dict[str, Any]]:
    return [_bind(shown, str(shown), read_only=True) for shown in request.read_only_mounts]


def can_lie_over(workspace: Path) -> bool:
    """Return whether an overlay over `workspace`, with its upper layer beside it, is possible and complete."""
    return can_be_named(workspace) and file_system_of(workspace) in _UPPER_FILE_SYSTEMS


def can_be_named(path: Path) -> bool:
    return not set(str(path)) & set(",:\\\n")


def remove_work(layers: Path) -> None:
    """Remove the overlay's work directory; the layer with the job's changes stays with the workspace."""
    own = layers / "work" / "work"
    try:
        # The kernel's own: owned by root, empty and closed, so it can be removed but not listed.
        own.rmdir()
    except OSError:
        # Not empty if a job was killed during an operation; with a rootless engine the caller can open it.
        with contextlib.suppress(OSError):
            own.chmod(0o700)
    shutil.rmtree(layers / "work", ignore_errors=True)
