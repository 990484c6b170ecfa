"""Names of the paths that loom creates outside the repository (workspaces, receipts), and operations on relative paths
as text.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from loom.values import Immutable

RUN_PREFIX = "loom-run-local-"
"""Prefix of a run's workspace and receipt; the run's id follows."""

RUNTIME = ".loom/.runtime"
"""In a workspace: the link to its finished run's record."""

WORKSPACE = rf"{RUN_PREFIX}(?P<run_id>[0-9]{{16,}})-[0-9]+"
"""A pattern. `run_id` also matches a workspace without a run; that number is a time in nanoseconds, which no other tool
uses.
"""


JOB_DIRECTORY = rf"{WORKSPACE}(?:\.jobs/[^/\s]+/workspace)?"
"""A pattern: a run's workspace, or the directory of one of its jobs."""


def name_from(root: Path, path: Path) -> str:
    """Return the name of a file in messages: from the repository's root, or in full outside of it."""
    absolute = Path(os.path.normpath(path if path.is_absolute() else root / path))
    try:
        return str(absolute.relative_to(os.path.normpath(root)))
    except ValueError:
        return str(absolute)


def new_workspace(tmp_dir: Path, run_id: str) -> Path:
    """Return a workspace path; does not create it. The directory above is the user's, and closed to others: a workspace has
    the mode that CI's has.
    """
    return tmp_dir / f"loom-{os.geteuid()}" / f"{RUN_PREFIX}{run_id}-{secrets.randbelow(10**6):06d}"


def jobs_of(workspace: Path) -> Path:
    """Return the directory of the jobs' own files: beside the run's workspace, on the same file system."""
    return workspace.with_name(f"{workspace.name}.jobs")


def job_directory_name(job_id: str) -> str:
    """Encode a job id as a directory name that is valid on every file system and in overlayfs options."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", job_id).lstrip(".-")[:80] or "job"


def is_of_job(directory: Path) -> bool:
    """Return whether this is a job's own directory, not the run's workspace."""
    return directory.parent.parent.name.endswith(".jobs")


def half_removed(directory: Path) -> Path:
    """Return the name of a directory during its deletion: under its own name, a directory is complete or absent."""
    return directory.with_name(f".{directory.name}.removing")


def workspace_beside(path: Path) -> Path:
    """Return the workspace for a path: of a job directory, or of remains of a deletion."""
    return path.with_name(path.name.removesuffix(".removing").removeprefix(".").removesuffix(".jobs"))


def run_of_workspace(name: str) -> str | None:
    """Return the id in a workspace's name; None for other names."""
    match = re.fullmatch(WORKSPACE, name)
    return match["run_id"] if match else None


def leads_out(path: Path, root: Path) -> str | None:
    """Return the target of a path in the repository at `root` if a link leads outside; None otherwise."""
    real = os.path.realpath(path)
    return None if Path(real).is_relative_to(os.path.realpath(root)) else real


def own_directories(tmp_dir: Path, root: Path) -> list[str]:
    """Find loom's own entries of `tmp_dir` inside the directory `root`, by name, as relative paths."""
    directory = Path(os.path.realpath(tmp_dir))
    if not directory.is_relative_to(root):
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    ours = (directory / name for name in names if run_of_workspace(workspace_beside(Path(name)).name) is not None)
    return [str(path.relative_to(root)) for path in ours]


def normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def is_below(path: str, directory: str) -> bool:
    """Return whether `path` is `directory` or below it; "" contains everything."""
    return not directory or path == directory or path.startswith(directory + "/")


def ancestors(path: str) -> list[str]:
    """Return a path's parent directories, outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def climbs_out(path: str, target: str) -> bool:
    """Return whether a relative link at `path` points out of its tree, by text."""
    depth = path.count("/")
    for part in target.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


class Tracked(Immutable):
    """The paths of a workspace that git tracks."""

    paths: frozenset[str]
    """Files, submodules, and all directories above them."""
    submodules: tuple[str, ...] = ()

    def __contains__(self, path: str) -> bool:
        """Return whether git tracks this path, or something below it, or a submodule has it."""
        return path in self.paths or any(is_below(path, each) for each in self.submodules)
