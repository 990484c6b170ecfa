"""How what loom makes outside of the repository is called (workspaces and receipts), and paths inside of a tree, as text."""

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


JOB_PLACE = rf"{WORKSPACE}(?:\.jobs/[^/\s]+/workspace)?"
"""As a pattern: a run's workspace, or the directory of one of its jobs."""


def new_workspace(tmp_dir: Path, run_id: str) -> Path:
    """A path for one; nothing is made."""
    return tmp_dir / f"{RUN_PREFIX}{run_id}-{secrets.randbelow(10**6):06d}"


def jobs_of(workspace: Path) -> Path:
    """Where the jobs' own directories are: beside the run's workspace, on the same file system."""
    return workspace.with_name(f"{workspace.name}.jobs")


def job_directory_name(job_id: str) -> str:
    """A job's id as a directory's name that every file system and overlayfs's options take."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", job_id).lstrip(".-")[:80] or "job"


def is_of_job(place: Path) -> bool:
    """Whether this is one job's own place, and not the run's workspace."""
    return place.parent.parent.name.endswith(".jobs")


def half_removed(directory: Path) -> Path:
    """What a directory is called while it is being deleted: what goes by its own name is whole, or not there."""
    return directory.with_name(f".{directory.name}.removing")


def workspace_beside(path: Path) -> Path:
    """The workspace that `path` is by its name, or belongs to: as its jobs' directories, or as remains of either."""
    return path.with_name(path.name.removesuffix(".removing").removeprefix(".").removesuffix(".jobs"))


def run_of_workspace(name: str) -> str | None:
    """The id in a workspace's name; None for what is not named like one."""
    match = re.fullmatch(WORKSPACE, name)
    return match["run_id"] if match else None


def leads_out(path: Path, root: Path) -> str | None:
    """Where `path`, of the repository at `root`, leads by a link if that is outside; None when it stays inside."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(root)) else real


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


def normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it; all is below ""."""
    return not directory or path == directory or path.startswith(directory + "/")


def climbs_out(path: str, target: str) -> bool:
    """Whether a relative link at `path` leads out of the tree that both are in, as text."""
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False
