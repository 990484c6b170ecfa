"""How what loom makes outside of the repository is called: workspaces and receipts."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

RUN_PREFIX = "loom-run-local-"
"""Of a run's workspace and of its receipt; the run's id follows."""

RUNTIME = ".loom/.runtime"
"""In a workspace, the link to the record of its finished run."""

WORKSPACE = rf"{RUN_PREFIX}(?P<run_id>[0-9]{{16,}})-[0-9]+"
"""As a pattern; `run_id` also of a workspace that was made without a run: a time in nanoseconds, as nobody else counts."""


def new_workspace(tmp_dir: Path, run_id: str) -> Path:
    """A path for one; nothing is made."""
    return tmp_dir / f"{RUN_PREFIX}{run_id}-{secrets.randbelow(10**6):06d}"


def layers_of(workspace: Path) -> Path:
    """Where what jobs write into their views of a workspace lies: beside it, on the same file system."""
    return workspace.with_name(f"{workspace.name}.layers")


def half_removed(directory: Path) -> Path:
    """What a directory is called while it is being deleted: what goes by its own name is whole, or not there."""
    return directory.with_name(f".{directory.name}.removing")


def workspace_beside(path: Path) -> Path:
    """The workspace that `path` is, or whose layers or remains it is by its name."""
    return path.with_name(path.name.removesuffix(".layers").removesuffix(".removing").removeprefix("."))


def run_of_workspace(name: str) -> str | None:
    """The id in a workspace's name; None for what is not named like one."""
    match = re.fullmatch(WORKSPACE, name)
    return match["run_id"] if match else None


def own_directories(tmp_dir: Path, root: Path) -> list[str]:
    """Where `tmp_dir` lies in the directory `root`: loom's own in it, by their names, as paths from there."""
    place = Path(os.path.realpath(tmp_dir))
    if not place.is_relative_to(root):
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    ours = (place / name for name in names if run_of_workspace(workspace_beside(Path(name)).name) is not None)
    return [str(path.relative_to(root)) for path in ours]
