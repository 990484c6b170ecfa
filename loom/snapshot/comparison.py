"""What differs between two snapshots of one repository, by the manifests that `take` wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from loom.snapshot import git
from loom.snapshot.manifest import Manifest

Ids = tuple[str | None, str | None]


def differing(a: Manifest, b: Manifest, root: Path, *, environ: Mapping[str, str]) -> dict[str, Ids]:
    """The paths whose content or mode differs, with git's ids of both contents (None: not there).

    Both commits must still be in the repository at `root`, if they are not the same one. SnapshotError otherwise.
    """
    heads = {} if a.head_sha == b.head_sha else _between(a.head_sha, b.head_sha, root, environ)
    of_a = {change.path: (change.mode, change.sha) for change in a.changed}
    of_b = {change.path: (change.mode, change.sha) for change in b.changed}
    before = {change.path: (change.old_mode, change.old_sha) for change in (*a.changed, *b.changed)}
    found: dict[str, Ids] = {}
    for path in sorted({*heads, *of_a, *of_b}):
        in_heads = heads.get(path, (before.get(path, ("", "")),) * 2)
        one, two = of_a.get(path, in_heads[0]), of_b.get(path, in_heads[1])
        if one != two:
            found[path] = (_id(one[1]), _id(two[1]))
    return found


def _id(sha: str) -> str | None:
    return sha if sha.strip("0") else None


def _between(
    a: str, b: str, root: Path, environ: Mapping[str, str]
) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
    """`path -> ((mode, id) in a, (mode, id) in b)` of two commits."""
    raw = git.run(
        ("diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev", a, b), git.environment_for(environ), cwd=root
    )
    items = git.nul_list(raw)
    found = {}
    for about, path in zip(items[::2], items[1::2], strict=True):
        mode_a, mode_b, id_a, id_b, _ = about.decode().removeprefix(":").split(" ")
        found[os.fsdecode(path)] = ((mode_a, id_a), (mode_b, id_b))
    return found
