"""What a run got besides the work of its steps: a shell, a command or an edit in a job's place, `--sync`."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import snapshot
from loom.errors import LoomError
from loom.plan.model import MountMode
from loom.providers.base import Session, SessionRequest
from loom.record.events import RUN, PhaseCode
from loom.record.journal import Journal
from loom.snapshot import Change, Edited


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

    def __init__(self, journal: Journal, *, environ: Mapping[str, str], manifest_file: Path) -> None:
        self._journal = journal
        self._environ = environ
        self._manifest_file = manifest_file
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

    def stood_in(self, job_id: str, session: Session, request: SessionRequest, since_ns: int) -> None:
        """Add a shell in a job's place that was open since then."""
        files, edited = session.workspace_view(), edited_since(session, request, since_ns)
        changes: tuple[Change, ...] | None = None
        if edited is not None and not edited:
            changes = ()
        elif edited is not None and files is not None:
            changes = self._among(files, edited)
        paths = sorted(edited.files) if edited is not None and changes is None else [one.path for one in changes or ()]
        self.add(Assisted(how="shell", job_id=job_id, paths=tuple(paths)), changes)

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


def edited_since(session: Session, request: SessionRequest, since_ns: int) -> Edited | None:
    """What changed in a job's files since then; None where this machine can't see them."""
    upper = None if request.directory is None else request.directory / "upper"
    written = upper if request.mount_mode is MountMode.OVERLAY else session.workspace_view()
    return None if written is None else snapshot.edited_since(written, since_ns / 1e9)


def now_ns() -> int:
    """Now, as the times of files have it: the kernel's clock for them is up to 10 ms late."""
    return time.time_ns() - 10_000_000
