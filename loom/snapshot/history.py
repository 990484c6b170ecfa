"""Reduce what a workspace gets of a repository to what a clone in CI has: commits, refs, submodules."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from loom.plan.clone import Clone
from loom.snapshot import git
from loom.snapshot.model import Source
from loom.util.untrusted_files import read_regular

_LOG = ("log", "--no-show-signature", "--decorate=full", "--decorate-refs=refs/tags", "--format=%H %P%x00%D", "HEAD")
_AT_FIRST = 4
"""So many times the depth is asked for: with merges, a history has more commits than generations."""


def as_cloned(source: Source, clone: Clone | None, names: Iterable[str]) -> Source:
    """Return the source as `clone` has it (None: as it is); `names`: the refs that lead to HEAD there."""
    if clone is None:
        return source
    refs = [ref for ref in source.refs if ref[0].startswith("refs/tags/") and not ref[2]]
    boundary = boundary_of(source)
    if clone.depth:
        boundary, tags = _reach(source, clone.depth, boundary)
        refs = [ref for ref in refs if ref[0] in tags]
    else:
        refs += [ref for ref in source.refs if ref[0].startswith("refs/remotes/origin/") and not ref[2]]
    own = {name: (name, source.head_sha, "") for name in names}
    others = (ref for ref in refs if ref[0] not in own)
    return dataclasses.replace(source, clone=clone, boundary=boundary, refs=(*own.values(), *others))


def boundary_of(source: Source) -> frozenset[str]:
    """Return the commits of a shallow repository whose parents it lacks."""
    try:
        text = read_regular(source.common_dir / "shallow") if source.shallow else b""
    except FileNotFoundError:
        text = b""  # unshallowed a moment ago
    return frozenset(text.decode("ascii").split())


def _reach(source: Source, depth: int, before: frozenset[str]) -> tuple[frozenset[str], set[str]]:
    """Return the commits of the last of `depth` generations, and the names of the tags of all, as `git fetch --depth` does."""
    count = depth * _AT_FIRST
    while True:
        parents: dict[str, list[str]] = {}
        tags: dict[str, list[str]] = {}
        for line in _log(source, count):
            commits, _, names = line.partition("\0")
            sha, *parents[sha] = commits.split()
            tags[sha] = [name.removeprefix("tag: ") for name in names.split(", ")]
        last, seen = {source.head_sha}, {source.head_sha}
        for _ in range(depth - 1):
            last = {parent for sha in last for parent in parents.get(sha, ())} - seen
            seen |= last
        if seen <= parents.keys() or len(parents) < count:
            return frozenset(last) | (before & seen), {name for sha in seen for name in tags.get(sha, ())}
        count *= 8


def _log(source: Source, count: int) -> Iterable[str]:
    asked = git.in_repository(source.repository, source.environment)
    out = git.run((*_LOG[:1], f"--max-count={count}", *_LOG[1:]), asked, cwd=source.root)
    return os.fsdecode(out).split("\n")[:-1]
