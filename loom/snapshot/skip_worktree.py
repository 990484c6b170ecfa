"""Files hidden from git: skip-worktree, assume-unchanged, and those that a sparse checkout excludes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from loom.errors import SnapshotError
from loom.snapshot import git, tree
from loom.snapshot.index import Index
from loom.snapshot.model import Source


def drop_intended(
    index: Index, environment: Mapping[str, str], workspace: Path, zero_sha: str
) -> list[tuple[str, str]]:
    """Take those from `index.pinned` that `git add -N` only announced: no `git add` would add them. Returns (path, tag).

    `environment` names the workspace's index, which loses them as well.
    """
    intended = git.intended(environment, cwd=workspace) & {path for path, _ in index.pinned}
    if not intended:
        return []
    lines = tree.index_lines(tree.IndexEdits(removed=sorted(intended)), zero_sha)
    git.run(("update-index", "-z", "--index-info"), environment, cwd=workspace, given=lines)
    dropped = [(path, tag) for path, tag in index.pinned if path in intended]
    index.pinned = [(path, tag) for path, tag in index.pinned if path not in intended]
    return dropped


def lay_out(paths: list[str], environment: Mapping[str, str], workspace: Path, source: Source) -> None:
    """Write what the index holds for these files into the workspace, where git may look at them.

    `environment` names the workspace's index, with the user's configuration.
    """
    given = git.nul_joined(paths)
    for switch in ("--no-skip-worktree", "--no-assume-unchanged"):
        git.run(("update-index", switch, "-z", "--stdin"), environment, cwd=workspace, given=given)
    try:
        git.run(("checkout-index", "--force", "-u", "-z", "--stdin"), environment, cwd=workspace, given=given)
    except git.GitFailed as error:
        if not source.repository.partial:
            raise
        raise SnapshotError(
            f"{source.root}: this partial clone lacks files that are hidden from git, or outside of a sparse checkout, and loom "
            f"fetches nothing for it: {error.stderr.strip()}",
            hint=f"fetch what CI checks out: git -C {source.root} archive --output=/dev/null HEAD",
            code="OBJECTS_NOT_FETCHED",
        ) from error
