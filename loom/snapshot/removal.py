"""Delete workspaces."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from loom.errors import SnapshotError
from loom.snapshot.lock import alone_in, is_occupied
from loom.snapshot.manifest import FILLING, NAME
from loom.util.paths import half_removed, jobs_of, run_of_workspace
from loom.values import Immutable


class Removal(Immutable):
    """The outcome for a workspace. `remaining` are paths that could not be deleted, with the reason."""

    path: Path
    remaining: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        return not self.remaining


def is_workspace(path: Path, *, recorded: bool = False) -> bool:
    """Return whether `path` is loom's, by its name, and by its mark or a record. Not while it is being filled.

    `recorded`: a run's record names it; a job may have removed the mark along with `.git`.
    """
    try:
        directory = stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False
    if not directory or run_of_workspace(path.name) is None:
        return False
    git_dir = path / ".git"
    if recorded or os.path.isfile(git_dir / NAME):  # noqa: PTH113  False also where nobody may look
        return True
    # The process that filled it was killed.
    return os.path.isfile(git_dir / FILLING) and is_occupied(path) is False  # noqa: PTH113


def remains(workspace: Path) -> list[Path]:
    """Return the existing directories of a workspace: itself, its jobs', and remains of an interrupted removal."""
    return [path for path in (half_removed(workspace), jobs_of(workspace), workspace) if _is_our_directory(path)]


def _is_our_directory(path: Path) -> bool:
    """Return whether it is neither a link nor another user's: the temporary directory is shared."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and os.geteuid() in (0, status.st_uid)


def remove(workspace: Path, *, recorded: bool = False) -> Removal:
    """Delete a workspace with all jobs' files, as far as permissions allow; a missing one is fine.

    SnapshotError for other directories, and for one in use. Symbolic links are removed, never followed.
    """
    there = workspace.is_symlink() or workspace.exists()
    named_like_one = run_of_workspace(workspace.name) is not None
    if there and not is_workspace(workspace, recorded=recorded):
        raise SnapshotError(
            f"{workspace}: not one of loom's workspaces; nothing was deleted",
            hint="remove it by hand if you are sure",
            code="NOT_A_WORKSPACE",
        )
    remaining: dict[str, str] = {}
    with alone_in(workspace) as alone:
        if alone is False:
            raise SnapshotError(
                f"{workspace}: in use by a run or a shell; nothing was deleted",
                hint="wait for it to end, then delete it again",
                code="WORKSPACE_IN_USE",
            )
        if half_removed(workspace) in remains(workspace) and named_like_one:
            remaining |= delete(half_removed(workspace))
        # Rename it first: under its own name, a workspace is complete or absent.
        going = half_removed(workspace)
        try:
            workspace.rename(going)
        except OSError:
            going = workspace
    for beside in remains(workspace) if named_like_one else []:
        if beside not in (workspace, going):
            remaining |= delete(beside)
    if there:
        left = delete(going)
        if going != workspace and going.exists():
            try:
                going.rename(workspace)
            except OSError:
                pass
        remaining |= {path.replace(str(going), str(workspace), 1): why for path, why in left.items()}
    return Removal(path=workspace, remaining=tuple(remaining.items()))


def delete(tree: Path) -> dict[str, str]:
    """Delete it; return the failures with reasons."""
    remaining: dict[str, str] = {}

    def failed(path: str, error: BaseException) -> None:
        """Grant the missing permissions on our own directories, then retry."""
        if isinstance(error, FileNotFoundError):
            return
        parent = os.path.dirname(path)  # noqa: PTH120
        try:
            if _removed_empty(path):
                return
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

    try:
        shutil.rmtree(tree, onerror=lambda _, path, info: failed(path, info[1]))
    except RecursionError:  # a thousand nested directories
        subprocess.run(  # no limit: it deletes
            ["rm", "-rf", "--", str(tree)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        if tree.exists():
            remaining.setdefault(str(tree), "directories too deep inside one another")
    return remaining if tree.exists() else {}


def _removed_empty(path: str) -> bool:
    """Remove an empty directory: another user's closed directory (overlayfs creates one) may be empty."""
    try:
        os.rmdir(path)  # noqa: PTH106
    except OSError:
        return False
    return True
