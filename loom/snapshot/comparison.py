"""Compare two snapshots of one repository by their manifests, without a git process.

Beside `verification.changes_between`, which lists both trees with git (it knows submodules and SHA-256): a thousandth of
its time, at the end of each failed run.
"""

from __future__ import annotations

from loom.snapshot import objects
from loom.snapshot.manifest import Manifest

Ids = tuple[str | None, str | None]


def differing(a: Manifest, b: Manifest) -> dict[str, Ids]:
    """Return paths with different content or mode, with git's ids of both contents (None: missing).

    Different commits must both be in the repository of `a`. SnapshotError otherwise.
    """
    heads = {} if a.head_sha == b.head_sha else objects.compare_commits(a, b)
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
