"""Identify the content of a snapshot's folder without reading files: equal names mean equal files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from loom.snapshot import git
from loom.snapshot.manifest import read_manifest
from loom.snapshot.model import Source


def identity_of(source: Source, workspace: Path, folder: str, *, manifest_file: Path | None = None) -> str | None:
    """Identify the content of `folder` (relative, without links; `.` is all) at snapshot time.

    None if git can't tell. For `.` the commit, its branch and all tags count too, because the snapshot includes `.git`.
    """
    manifest = read_manifest(workspace, manifest_file)
    inside = f"{folder}/"
    if folder == "." or any(inside.startswith(f"{sub.path}/") for sub in manifest.submodules):
        tags = [ref for ref in source.refs if ref[0].startswith("refs/tags/")]
        found: object = (manifest.tree_sha, manifest.head_sha, manifest.branch, tags, manifest.submodules)
    else:
        try:
            here = git.environment_for(source.environment, repository=source.repository)
            tree = git.run(("ls-tree", "--full-tree", "-z", manifest.head_sha, "--", folder), here, cwd=source.root)
        except git.GitFailed:
            return None
        changed = [change for change in manifest.changed if change.path.startswith(inside)]
        found = (tree, changed, [sub for sub in manifest.submodules if sub.path.startswith(inside)])
    # The rules decide which bytes a file gets, and files that are left out are absent.
    whole = repr((found, manifest.rules, manifest.left_out))
    return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()
