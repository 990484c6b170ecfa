"""The files of a job with `inputs`: those of the commit's tree that its globs name, and the id of the tree of these alone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import git, repository, tree
from loom.snapshot.capture import take
from loom.snapshot.copy_workers import duplicate
from loom.snapshot.index import directories
from loom.snapshot.manifest import read_manifest
from loom.snapshot.model import Source, object_format
from loom.snapshot.removal import remove
from loom.snapshot.tree import Entries
from loom.util import globs
from loom.util.paths import Tracked, new_workspace
from loom.util.private import make_in_shared
from loom.values import Environ

GIT = ".git"
"""The input of a job that asks for the repository: it has all files of the tree, so all of them count."""


def tree_entries(environment: Environ, root: Path, tree_sha: str) -> Entries:
    """Return all files and submodules of a tree."""
    found: Entries = {}
    for item in git.nul_list(git.run(("ls-tree", "-r", "-z", "--full-tree", tree_sha), environment, cwd=root)):
        about, _, path = item.partition(b"\t")
        mode, _, sha = about.decode().split(" ")
        found[os.fsdecode(path)] = mode, sha
    return found


def input_tree(entries: Entries, tree_sha: str, inputs: Sequence[str]) -> str:
    """Return the id of what decides on the files that a job with these inputs has of a tree."""
    if GIT in inputs:
        return tree_sha
    # By its attributes, a file with the same id is another one in a checkout: line ends, `ident`, filters.
    attributes = {path: entry for path, entry in entries.items() if path.rpartition("/")[2] == ".gitattributes"}
    return tree.tree_of_entries(attributes | _selected(entries, inputs), object_format(tree_sha))


def copy_inputs(workspace: Path, target: Path, inputs: Sequence[str], *, environ: Environ, cancel: Cancel) -> str:
    """Fill the empty directory `target` with a job's inputs from a run's untouched workspace; return their tree's id.

    SnapshotError for an input in a submodule, and for a workspace that is not what its manifest says.
    """
    tree_sha, entries = _tree_of_workspace(workspace, environ)
    selected = _selected(entries, inputs)
    if modules := [path for path, (mode, _) in selected.items() if mode == "160000"]:
        raise SnapshotError(
            f"inputs: {modules[0]} is a submodule, of which no job can have a part",
            hint="leave the submodule out of the job's inputs, or leave `inputs` out",
            code="INPUTS_NOT_POSSIBLE",
        )
    paths = frozenset(selected) | directories(selected)
    wanted = Tracked(paths=paths, submodules=(GIT,) if GIT in inputs else ())
    duplicate(workspace, target, cancel=cancel, only=wanted)
    return input_tree(entries, tree_sha, inputs)


def present_entries(source: Source, tmp_dir: Path, cancel: Cancel) -> tuple[str, Entries] | None:
    """Return the id of the tree of the source's present work, and what it has, by a snapshot that is taken for that.

    None where the tree does not say all: a submodule has work of its own. Raises as `take`.
    """
    workspace = new_workspace(tmp_dir, str(time.time_ns()))
    make_in_shared(workspace)
    try:
        taken = take(source, workspace, cancel=cancel)
        if any(module.changed for module in taken.submodules):
            return None
        return _tree_of_workspace(workspace, source.environment)
    finally:
        remove(workspace, recorded=True)


def _tree_of_workspace(workspace: Path, environ: Environ) -> tuple[str, Entries]:
    """Return the id of the tree of an untouched workspace, and what it has."""
    manifest = read_manifest(workspace)
    found = repository.at(workspace / GIT, workspace, environ)
    environment = git.environment_for(environ, repository=found) | git.NO_USER_CONFIG
    entries = tree_entries(environment, workspace, manifest.head_sha)
    for change in manifest.changed:
        entries.pop(change.path, None)
        if change.kind != "deleted":
            entries[change.path] = change.mode, change.sha
    if tree.tree_of_entries(entries, object_format(manifest.head_sha)) != manifest.tree_sha:
        raise SnapshotError(f"{workspace}: its manifest does not describe its tree", code="MANIFEST_DAMAGED")
    return manifest.tree_sha, entries


def _selected(entries: Entries, inputs: Sequence[str]) -> Entries:
    wanted = [globs.compile(each, below=True) for each in inputs]
    return {path: entry for path, entry in entries.items() if any(glob.fullmatch(path) for glob in wanted)}
