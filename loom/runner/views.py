"""Which files each job gets: its own place over the run's workspace, of the cheapest kind that works, or the shared one.

A run's workspace stays the snapshot; what a job writes lies in a directory of its own in `<workspace>.jobs`.
"""

from __future__ import annotations

import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from loom.errors import LoomError, ProviderError, SnapshotError
from loom.plan.model import Job, MountMode, WorkspaceMode
from loom.providers.base import Provider, Session
from loom.providers.files import unpack
from loom.storage.private import make_own
from loom.util.paths import job_directory_name, jobs_of, workspace_beside
from loom.util.units import rough_size

CANNOT = ("VIEW_UNAVAILABLE", "WORKSPACE_UNSEEN")
"""Codes of errors that mean: this kind of view does not work here. Another kind may."""
_MOUNTS = {
    WorkspaceMode.SHARED: MountMode.BIND,
    WorkspaceMode.COPY: MountMode.BIND,
    WorkspaceMode.OVERLAY: MountMode.OVERLAY,
    WorkspaceMode.VOLUME: MountMode.VOLUME,
}


MAX_SAVED = 2_000_000_000
"""How much of a failed job's files is saved, as a tar stream's bytes, where their place goes with its container."""


class View(Struct, frozen=True, kw_only=True):
    """One job's view of the workspace. `workspace` is shown, laid over, or sent, as `mode` says."""

    mode: MountMode
    workspace: Path
    directory: Path | None = None
    """The job's own beside the run's workspace; None where the job runs in `workspace` itself."""
    copied: bool = False
    """`workspace` is empty yet, and is filled with a copy of the run's."""

    @property
    def run_workspace(self) -> Path:
        """The workspace that this view goes with when that is removed: the directory lies beside it."""
        return self.workspace if self.directory is None else workspace_beside(self.directory.parent)

    @property
    def place(self) -> Path:
        """The plain path of the job's files: they are there, or can be laid out there."""
        return self.directory / "workspace" if self.directory is not None else self.workspace


def save_files(session: Session, target: Path) -> None:
    """Lay out a job's files in `target`, which must not be there; whole or not at all. ProviderError when they can't be."""
    total = 0

    def bounded() -> Iterator[bytes]:
        nonlocal total
        for piece in session.get_archive(["."]):
            total += len(piece)
            if total > MAX_SAVED:
                raise ProviderError(f"they are larger than {rough_size(MAX_SAVED)}; --keep on-failure keeps them")
            yield piece

    try:
        target.mkdir()
        unpack(bounded(), target)
    except (OSError, ProviderError, tarfile.TarError) as error:
        shutil.rmtree(target, ignore_errors=True)
        raise error if isinstance(error, ProviderError) else ProviderError(str(error)) from error


class Views:
    """One run's. Thread-safe.

    `alone`: only one job runs, and nothing else needs the snapshot; it may have the run's workspace itself.
    """

    def __init__(self, workspace: Path, mode: WorkspaceMode, providers: Mapping[str, Provider], *, alone: bool) -> None:
        self._workspace = workspace
        self._mode = mode
        self._alone = alone
        self._providers = providers
        self._lock = threading.Lock()
        self._ruled_out: set[WorkspaceMode] = set()
        self._overlays: dict[str, bool] = {}

    def shares(self, job: Job) -> bool:
        """Whether the job runs in the run's workspace itself. Not where it may need a second, untouched one to try again."""
        wanted = self._mode is WorkspaceMode.SHARED or (
            self._mode is WorkspaceMode.AUTO and self._alone and job.retry.max == 0
        )
        return wanted and MountMode.BIND in self._providers[job.provider].capabilities.mounts

    def of(self, job: Job) -> View:
        """A new view. SnapshotError when there is no room for its directory."""
        kind = self._kinds(job)[0]
        if kind is WorkspaceMode.SHARED:
            return View(mode=MountMode.BIND, workspace=self._workspace)
        directory = self._new_directory(job)
        copied = kind is WorkspaceMode.COPY
        if copied:
            # Others can't come here: the directory above is closed. A step that becomes another user can, as in CI.
            (directory / "workspace").mkdir()
            (directory / "workspace").chmod(0o755)
        return View(
            mode=_MOUNTS[kind],
            workspace=directory / "workspace" if copied else self._workspace,
            directory=directory,
            copied=copied,
        )

    def another(self, job: Job, view: View, error: LoomError) -> bool:
        """Whether `error` means only that this kind of view does not work here, and another kind is left to try."""
        if error.code not in CANNOT:
            return False
        kind = WorkspaceMode.COPY if view.copied else WorkspaceMode(view.mode.value)
        kinds = self._kinds(job)
        if kind in kinds and len(kinds) == 1:
            return False
        with self._lock:
            self._ruled_out.add(kind)
        return True

    def _kinds(self, job: Job) -> list[WorkspaceMode]:
        """What may work for the job, the cheapest first; the last one is left when nothing does."""
        mounts = self._providers[job.provider].capabilities.mounts
        if self._mode is not WorkspaceMode.AUTO:
            kinds: list[WorkspaceMode] = [self._mode]
        elif self.shares(job):
            kinds = [WorkspaceMode.SHARED, WorkspaceMode.VOLUME]
        else:
            kinds = [WorkspaceMode.OVERLAY] if MountMode.OVERLAY in mounts and self._can_overlay(job.provider) else []
            kinds += [WorkspaceMode.COPY, WorkspaceMode.VOLUME]
        kinds = [kind for kind in kinds if _MOUNTS[kind] in mounts]
        if not kinds:
            return [WorkspaceMode.COPY if MountMode.BIND in mounts else WorkspaceMode.VOLUME]
        with self._lock:
            return [kind for kind in kinds if kind not in self._ruled_out] or kinds[-1:]

    def _can_overlay(self, provider: str) -> bool:
        with self._lock:
            if provider not in self._overlays:
                self._overlays[provider] = self._providers[provider].overlays(self._workspace)
            return self._overlays[provider]

    def _new_directory(self, job: Job) -> Path:
        """Of a name that tells the job's; a second attempt has another one."""
        above, name = jobs_of(self._workspace), job_directory_name(job.id)
        try:
            make_own(above)
            for number in range(1, 10_000):
                directory = above / (name if number == 1 else f"{name}.{number}")
                try:
                    directory.mkdir(mode=0o700)
                except FileExistsError:
                    continue
                return directory
        except OSError as error:
            raise SnapshotError(f"no place for the files of job {job.id}: {error}") from error
        raise SnapshotError(f"no place for the files of job {job.id}: {above} is full of earlier ones")
