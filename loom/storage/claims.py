"""Which workspaces are loom's: a list in the state directory, and by which directory each was meant.

A name can be taken over and a mark inside be copied, by a job or by another user of a shared /tmp. What this list names,
and what still is the same directory, is all that loom removes. Of what jobs write, nothing is believed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from loom.storage.private import make_private
from loom.util import atomic, processes
from loom.util.paths import half_removed


class Claim(Struct, frozen=True, kw_only=True):
    """A directory that loom made. `path_hex` also holds names that are no text."""

    path_hex: str
    run_id: str
    repo_root: str
    kind: Literal["run", "snapshot"]
    """`snapshot`: made by `loom snapshot`, for no run."""
    device: int
    inode: int
    boot_id: str

    @property
    def path(self) -> Path:
        return Path(os.fsdecode(bytes.fromhex(self.path_hex)))

    def holds_for(self, directory: Path) -> bool:
        """Whether this is the very directory that was made, by whatever name now.

        A file system's number may be another one after a restart of the machine; the directory's own is not.
        """
        try:
            status = directory.lstat()
        except OSError:
            return False
        same_device = status.st_dev == self.device or self.boot_id != processes.boot_id()
        return status.st_ino == self.inode and same_device


class Claims:
    """All claims of one state directory, a small file each."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "workspaces"

    def make(self, workspace: Path, *, run_id: str, repo_root: Path, kind: Literal["run", "snapshot"] = "run") -> None:
        """Make the directory, closed to other users, and claim it. OSError when it can't be made.

        One that can't be claimed (the state directory can't be written) stays until a person removes it.
        """
        workspace.mkdir(mode=0o700, parents=True)
        with suppress(OSError):
            status = workspace.lstat()
            claim = Claim(
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
            atomic.write(self._file(workspace), msgspec.json.encode(claim))

    def all(self) -> list[Claim]:
        """Of workspaces that are there and of those that are gone; files that are no claims are passed over."""
        found = (self._read(path) for path in sorted(self.folder.glob("*.json")))
        return [claim for claim in found if claim is not None]

    def of(self, workspace: Path) -> Claim | None:
        claim = self._read(self._file(workspace))
        return claim if claim is not None and claim.path == Path(os.path.realpath(workspace)) else None

    def confirms(self, workspace: Path) -> bool:
        """Whether `workspace`, or what a removal that was killed left of it, is the directory that was claimed, or is gone."""
        claim = self.of(workspace)
        there = [path for path in (workspace, half_removed(workspace)) if os.path.lexists(path)]
        return claim is not None and all(claim.holds_for(path) for path in there)

    def forget(self, workspace: Path) -> None:
        """Once nothing is left of it. What can't be forgotten is tried again with the next removal."""
        with suppress(OSError):
            self._file(workspace).unlink(missing_ok=True)

    def _file(self, workspace: Path) -> Path:
        return self.folder / f"{workspace.name}.json"

    @staticmethod
    def _read(path: Path) -> Claim | None:
        try:
            return msgspec.json.decode(path.read_bytes(), type=Claim) if path.is_file() else None
        except (OSError, ValueError):
            return None
