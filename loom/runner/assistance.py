"""What a run got besides the work of its steps: a shell, a command or an edit in a job's place, `--sync`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import snapshot
from loom.errors import LoomError
from loom.plan.model import MountMode
from loom.providers.base import Session, SessionRequest
from loom.record.events import RUN, PhaseCode
from loom.record.journal import Journal
from loom.record.run_paths import RunPaths
from loom.snapshot import Change, Edited
from loom.util import atomic


class Assisted(Struct, frozen=True, kw_only=True):
    how: str
    """See `documents.Assistance`."""
    job_id: str | None = None
    command: str | None = None
    paths: tuple[str, ...] = ()

    def fact(self) -> dict[str, Any]:
        paths = [snapshot.readable(path) for path in self.paths]
        return {"how": self.how, "job_id": self.job_id, "command": self.command, "changes": paths}


class Assistances:
    """One run's: states them in the record, and knows the tree that ran. Thread-safe."""

    def __init__(self, journal: Journal, *, environ: Mapping[str, str], paths: RunPaths) -> None:
        self._journal = journal
        self._environ = environ
        self._paths = paths
        self._manifest_file = paths.snapshot
        self._changes: dict[str, Change] = {}
        self._unknown = False
        self._lock = threading.Lock()

    def add(self, assisted: Assisted | None, changes: tuple[Change, ...] | None = ()) -> None:
        """`changes`: how the files differ from the snapshot by it, or by earlier ones; None where that is unknown."""
        if assisted is not None:
            self._journal.fact(RUN, PhaseCode.RUN_PIPELINE_EXECUTE, "assisted", assisted.fact())
        with self._lock:
            self._unknown |= changes is None
            for change in changes or ():
                # Jobs that ran on different files ran on no one tree.
                self._unknown |= self._changes.setdefault(change.path, change) != change

    def stood_in(self, job_id: str, session: Session, request: SessionRequest, entered: EntryMoment) -> None:
        """Add a shell in a job's place."""
        files, edited = session.workspace_view(), edited_since(session, request, entered)
        changes: tuple[Change, ...] | None = None
        if edited is not None and not edited:
            changes = ()
        elif edited is not None and files is not None:
            changes = self._among(files, edited)
        paths = sorted(edited.files) if edited is not None and changes is None else [one.path for one in changes or ()]
        self.add(Assisted(how="shell", job_id=job_id, paths=tuple(paths)), changes)

    def kept(self, job_id: str, session: Session, request: SessionRequest) -> None:
        """Note what a later run needs to tell what was changed in a kept place."""
        if request.mount_mode is MountMode.BIND and (view := session.workspace_view()) is not None:
            with suppress(OSError):
                atomic.write(self._paths.kept_files(job_id), b"".join(snapshot.digests_in(view)), mode=0o600)

    def _among(self, files: Path, edited: Edited) -> tuple[Change, ...] | None:
        try:
            return snapshot.changes_among(files, edited, (), environ=self._environ, manifest_file=self._manifest_file)
        except LoomError:
            return None

    def tree_sha(self, snapshot_tree_sha: str | None, workspace: Path) -> str | None:
        """The tree that ran; None where that is unknown."""
        if self._unknown or not self._changes:
            return None if self._unknown else snapshot_tree_sha
        try:
            return snapshot.tree_with(
                workspace, self._changes.values(), environ=self._environ, manifest_file=self._manifest_file
            )
        except LoomError:
            return None  # the git objects of the workspace are gone


class EntryMoment(Struct, frozen=True, kw_only=True):
    """A moment, and which files were there where only that tells later which were removed."""

    at_ns: int
    paths: frozenset[bytes] | None


def entered(session: Session, request: SessionRequest) -> EntryMoment:
    view = session.workspace_view() if request.mount_mode is MountMode.BIND else None
    return EntryMoment(at_ns=moment_ns(), paths=None if view is None else snapshot.digests_in(view))


def edited_since(session: Session, request: SessionRequest, since: EntryMoment) -> Edited | None:
    """What changed in a job's files since then; None where this machine can't see them."""
    layer = request.mount_mode is MountMode.OVERLAY
    upper = None if request.directory is None else request.directory / "upper"
    written = upper if layer else session.workspace_view()
    if written is None:
        return None
    return snapshot.edited_since(written, since.at_ns / 1e9, before=since.paths, layer=layer)


def moment_ns() -> int:
    """Now, between the times that files get before and after this call: the kernel's clock for them is up to 10 ms late."""
    now = time.time_ns()
    time.sleep(0.01)
    return now
