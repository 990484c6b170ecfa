"""The register of loom's own workspaces: a list in the state directory that identifies each by its inode.

Jobs, or other users of a shared /tmp, can take over a name and copy a marker. Loom removes only directories that this
list names and that are still the same. Nothing that jobs write is trusted.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from loom.util import atomic, processes, typed
from loom.util.paths import half_removed
from loom.util.private import make_in_shared, make_private
from loom.values import Immutable

Kind = Literal["run", "snapshot", "spare"]
"""`snapshot`: created by `loom snapshot`, without a run. `spare`: of a run that is over, kept to become a later one's."""

_LARGE = 100_000
"""The bytes of the known files of a tree of about 1,000 files."""


class OwnWorkspace(Immutable):
    """A directory that loom created. `path_hex` also encodes names that are not text."""

    path_hex: str
    run_id: str
    repo_root: str
    kind: Kind
    device: int
    inode: int
    boot_id: str

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(bytes.fromhex(self.path_hex)))

    def is_same(self, directory: Path) -> bool:
        """Return whether this is the same directory, under any name; the device's number may change at a reboot."""
        try:
            status = directory.lstat()
        except OSError:
            return False
        same_device = status.st_dev == self.device or self.boot_id != processes.boot_id()
        return status.st_ino == self.inode and same_device


class WorkspaceRegistry:
    """The workspaces that loom owns, in one state directory: one small file each."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "workspaces"

    def make(self, workspace: Path, *, run_id: str, repo_root: Path, kind: Kind = "run") -> None:
        """Create the directory, private to the user, and register it. SnapshotError when it can't be created."""
        make_in_shared(workspace)
        self.register(workspace, run_id=run_id, repo_root=repo_root, kind=kind)

    def register(
        self, workspace: Path, *, run_id: str, repo_root: Path, kind: Kind = "run", directory: Path | None = None
    ) -> None:
        """Register a directory, unless the state directory can't be written: it then remains until a person removes it.

        `directory` is about to get this name.
        """
        with suppress(OSError):
            status = (directory or workspace).lstat()
            entry = OwnWorkspace(
                path_hex=os.fsencode(os.path.realpath(workspace)).hex(),
                run_id=run_id,
                repo_root=str(repo_root),
                kind=kind,
                device=status.st_dev,
                inode=status.st_ino,
                boot_id=processes.boot_id(),
            )
            make_private(self.folder.parent)
            self.folder.mkdir(exist_ok=True, mode=0o700)
            atomic.write(self._file(workspace), msgspec.json.encode(entry))

    def all(self) -> list[OwnWorkspace]:
        """List the registered workspaces, also removed ones; skip invalid files."""
        found = (self._read(path) for path in sorted(self.folder.glob("*.json")))
        return [entry for entry in found if entry is not None]

    def of(self, workspace: Path) -> OwnWorkspace | None:
        entry = self._read(self._file(workspace))
        return entry if entry is not None and entry.path == Path(os.path.realpath(workspace)) else None

    def confirms(self, workspace: Path) -> bool:
        """Return whether `workspace`, or what an interrupted removal left, is the registered directory, or gone."""
        entry = self.of(workspace)
        there = [path for path in (workspace, half_removed(workspace)) if os.path.lexists(path)]
        return entry is not None and all(entry.is_same(path) for path in there)

    def spares(self, repo_root: Path) -> list[Path]:
        """List the spare workspaces of a checkout, the newest first."""
        found = (one.path for one in self.all() if (one.kind, one.repo_root) == ("spare", str(repo_root)))
        return sorted((path for path in found if self.confirms(path)), reverse=True)

    def known(self, workspace: Path) -> Path:
        """Return the file that tells which files of a workspace are as its snapshot left them."""
        return self._file(workspace).with_suffix(".known")

    def is_large(self, workspace: Path) -> bool:
        """Return whether a workspace can be renewed, and is so large that this is quicker than creating another."""
        try:
            return self.known(workspace).stat().st_size >= _LARGE
        except OSError:
            return False

    def forget(self, workspace: Path) -> None:
        """Forget a removed workspace. A failure is retried with the next removal."""
        with suppress(OSError):
            self.known(workspace).unlink(missing_ok=True)
            self._file(workspace).unlink()

    def _file(self, workspace: Path) -> Path:
        return self.folder / f"{workspace.name}.json"

    @staticmethod
    def _read(path: Path) -> OwnWorkspace | None:
        try:
            return typed.decode(path.read_bytes(), OwnWorkspace) if path.is_file() else None
        except (OSError, ValueError):
            return None
