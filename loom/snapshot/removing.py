"""Delete workspaces; nothing else."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import SnapshotError
from loom.names import run_of_workspace
from loom.snapshot.manifest import NAME


class Removal(Struct, frozen=True, kw_only=True):
    """What became of a workspace. `remaining` are paths that could not be deleted, with the reason."""

    path: Path
    remaining: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        return not self.remaining


def is_workspace(path: Path, *, recorded: bool = False) -> bool:
    """Whether `path` is a directory that loom made: by its name, and by its mark or a run's record that names it.

    `recorded`: a run's record names it; a job may have removed the mark along with `.git`.
    """
    try:
        directory = stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
    return directory and run_of_workspace(path.name) is not None and (recorded or (path / ".git" / NAME).is_file())


def remove(workspace: Path, *, recorded: bool = False) -> Removal:
    """Delete a workspace with all that jobs left in it, as far as the rights go; gone already is fine.

    SnapshotError for what is no workspace of loom's. Symbolic links are removed, never followed.
    """
    if not workspace.is_symlink() and not workspace.exists():
        return Removal(path=workspace)
    if not is_workspace(workspace, recorded=recorded):
        raise SnapshotError(
            f"{workspace}: not one of loom's workspaces; nothing was deleted",
            hint="remove it by hand if you are sure",
            code="NOT_A_WORKSPACE",
        )
    remaining: dict[str, str] = {}

    def failed(function: Callable[..., Any], path: str, error: BaseException) -> None:
        """Directories without the rights to list or empty them get these, if they are ours; then once more."""
        if isinstance(error, FileNotFoundError):
            return
        parent = os.path.dirname(path)  # noqa: PTH120
        try:
            for directory in {parent, path}:
                status = os.lstat(directory)
                if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
                    os.chmod(directory, 0o700)  # noqa: PTH101
            if stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path)
            else:
                os.unlink(path)  # noqa: PTH108
        except OSError as again:
            if not isinstance(again, FileNotFoundError):
                remaining.setdefault(path, again.strerror or str(again))

    # Out of the way first: what goes by this name is a whole workspace or none.
    going = workspace.with_name(f".{workspace.name}.removing")
    try:
        workspace.rename(going)
    except OSError:
        going = workspace
    shutil.rmtree(going, onerror=lambda function, path, info: failed(function, path, info[1]))
    if going != workspace and going.exists():
        try:
            going.rename(workspace)
        except OSError:
            pass
    if not workspace.exists():
        return Removal(path=workspace)
    left = {path.replace(str(going), str(workspace), 1): why for path, why in remaining.items()}
    return Removal(path=workspace, remaining=tuple(left.items()) or ((str(workspace), "could not be deleted"),))
