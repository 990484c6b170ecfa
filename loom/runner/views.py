"""Choose each job's files: a separate view over the run's workspace, by the cheapest working mechanism, or the shared
one.

A run's workspace stays unchanged; a job's changes go to its own directory in `<workspace>.jobs`.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from loom.errors import LoomError, ProviderError, SnapshotError
from loom.plan.model import Job, MountMode, WorkspaceMode
from loom.providers.base import Provider, Session
from loom.providers.files import unpack
from loom.record.run import View
from loom.storage.selection import Everything
from loom.storage.tar import Item
from loom.storage.workspace import view_of
from loom.util.paths import job_directory_name, jobs_of
from loom.util.private import make_own
from loom.util.units import rough_size

CANNOT = ("VIEW_UNAVAILABLE", "WORKSPACE_UNSEEN")
"""Error codes for an unsupported kind of view; another kind may work."""
_MOUNTS = {
    WorkspaceMode.SHARED: MountMode.BIND,
    WorkspaceMode.COPY: MountMode.BIND,
    WorkspaceMode.OVERLAY: MountMode.OVERLAY,
    WorkspaceMode.VOLUME: MountMode.VOLUME,
}


MAX_SAVED = 2_000_000_000
"""Maximum size of a failed job's saved files if they would be lost with the container."""


def laid_out(files: Path, fill: Callable[[Path], None]) -> Path:
    """Replace `files` by what `fill` puts into a new directory, atomically."""
    make_own(files.parent.parent)
    make_own(files.parent)
    new, old = files.with_name("workspace.new"), files.with_name("workspace.old")
    for rest in (new, old):
        shutil.rmtree(rest, ignore_errors=True)
    fill(new)
    if files.exists():
        files.rename(old)
    new.rename(files)
    shutil.rmtree(old, ignore_errors=True)
    return files


def save_files(session: Session, target: Path) -> None:
    """Lay out a job's files in `target`, atomically. ProviderError on failure."""

    def bounded() -> Iterator[Item]:
        total = 0
        for entry, content in view_of(session.files()).read(Everything("."), lambda _: None):
            total += entry.size
            if total > MAX_SAVED:
                raise ProviderError(f"they are larger than {rough_size(MAX_SAVED)}; --keep on-failure keeps them")
            yield entry, content

    def fill(new: Path) -> None:
        new.mkdir()
        unpack(bounded(), new)

    try:
        laid_out(target, fill)
    except (OSError, ProviderError) as error:
        raise error if isinstance(error, ProviderError) else ProviderError(str(error)) from error


class Views(Struct):
    """The views of one run. Thread-safe.

    `alone`: only one job runs and nothing else needs the snapshot, so it may use the run's workspace itself.
    """

    workspace: Path
    mode: WorkspaceMode
    providers: Mapping[str, Provider]
    alone: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ruled_out: set[WorkspaceMode] = set()
    _overlays: dict[str, bool] = {}

    def shares(self, job: Job) -> bool:
        """Return whether the job runs in the run's workspace itself. Not if it may need an untouched one for a retry."""
        wanted = self.mode is WorkspaceMode.SHARED or (
            self.mode is WorkspaceMode.AUTO and self.alone and job.retry.max == 0
        )
        wanted = wanted and not job.no_checkout and job.inputs is None
        return wanted and MountMode.BIND in self.providers[job.provider].capabilities.mounts

    def overlays(self, job: Job) -> bool:
        """Return whether the job's view will be an overlay, as far as is known."""
        return self._kinds(job)[0] is WorkspaceMode.OVERLAY

    def of(self, job: Job) -> View:
        """Create a view. SnapshotError when its directory can't be created."""
        kind = self._kinds(job)[0]
        if kind is WorkspaceMode.SHARED:
            return View(mode=MountMode.BIND, workspace=self.workspace)
        directory = self._new_directory(job)
        workspace = self.workspace
        if kind is WorkspaceMode.COPY or job.no_checkout or job.inputs is not None:
            workspace = directory / ("workspace" if kind is WorkspaceMode.COPY else "given")
            # The parent directory is closed to other users. A step that becomes another user can enter, as in CI.
            workspace.mkdir()
            workspace.chmod(0o777 & ~job.umask)
        copied = (kind is WorkspaceMode.COPY or job.inputs is not None) and not job.no_checkout
        return View(mode=_MOUNTS[kind], workspace=workspace, directory=directory, copied=copied)

    def another(self, job: Job, view: View, error: LoomError) -> bool:
        """Return whether `error` only means that this kind of view does not work, and another kind remains."""
        if error.code not in CANNOT:
            return False
        own = view.mode is MountMode.BIND and view.directory is not None
        kind = WorkspaceMode.COPY if own else WorkspaceMode(view.mode.value)
        kinds = self._kinds(job)
        if kind in kinds and len(kinds) == 1:
            return False
        with self._lock:
            self._ruled_out.add(kind)
        return True

    def _kinds(self, job: Job) -> list[WorkspaceMode]:
        """Return the kinds to try for the job, cheapest first; the last one is the fallback."""
        mounts = self.providers[job.provider].capabilities.mounts
        if job.no_checkout or job.inputs is not None:
            kinds: list[WorkspaceMode] = [WorkspaceMode.COPY, WorkspaceMode.VOLUME]
        elif self.mode is not WorkspaceMode.AUTO:
            kinds = [self.mode]
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
                self._overlays[provider] = self.providers[provider].overlays(self.workspace)
            return self._overlays[provider]

    def _new_directory(self, job: Job) -> Path:
        """Name the directory after the job; a second attempt gets another name."""
        above, name = jobs_of(self.workspace), job_directory_name(job.id)
        try:
            make_own(above)
            directory, number = above / name, 1
            while True:
                try:
                    directory.mkdir(mode=0o700)
                except FileExistsError:
                    number += 1
                    directory = above / f"{name}.{number}"
                else:
                    return directory
        except OSError as error:
            raise SnapshotError(f"no directory for the files of job {job.id}: {error}") from error
