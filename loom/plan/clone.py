"""The part of a repository that a job's clone has, as GitLab's runner fetches it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from loom.util.globs import match_name
from loom.util.paths import is_below
from loom.values import Immutable

Recursion = Literal["none", "normal", "recursive"]
_RECURSION: tuple[Recursion, ...] = ("none", "normal", "recursive")


class Clone(Immutable):
    depth: int = 0
    """The number of commits from HEAD, with the refs of HEAD and tags in reach; 0: all commits, remote branches and tags."""
    submodules: Recursion = "recursive"
    submodule_depth: int = 0
    submodule_paths: tuple[str, ...] = ()
    """Git's pathspecs of submodules; empty: all."""
    files: bool = True
    """Whether the commit's files are checked out."""

    def takes(self, path: str) -> bool:
        """Return whether the clone has a submodule's files."""
        if self.submodules == "none":
            return False
        without = [spec.rpartition(")")[2] for spec in self.submodule_paths if spec.startswith(":(exclude)")]
        without += [spec[2:] for spec in self.submodule_paths if re.match(":[!^]", spec)]
        wanted = [spec for spec in self.submodule_paths if not spec.startswith(":")]
        return (not wanted or _fits(path, wanted)) and not _fits(path, without)

    def lacking(self, paths: Iterable[str]) -> list[str]:
        """Return those of these submodules, at any depth, whose files the clone lacks."""
        found, taken, left = sorted(paths), list[str](), list[str]()
        for path in found:
            above = [one for one in taken if is_below(path, one)]
            if self.submodules != "recursive" if above else not self.takes(path):
                left.append(path)
            else:
                taken.append(path)
        return left

    def clone_of_submodule(self) -> Clone:
        """Return the clone of each of its submodules."""
        inner: Recursion = "recursive" if self.submodules == "recursive" else "none"
        return Clone(depth=self.submodule_depth, submodule_depth=self.submodule_depth, submodules=inner)


def _fits(path: str, specs: Iterable[str]) -> bool:
    plain = (spec.rstrip("/") for spec in specs)
    return any(spec == "." or is_below(path, spec) or match_name(spec, path) for spec in plain)


def widest(clones: Iterable[Clone | None]) -> Clone | None:
    """Return the clone that has what each of these has; None: all of the checkout."""
    found = list(dict.fromkeys(clones))
    several = [clone for clone in found if clone is not None]
    if len(several) < len(found) or not several:
        return None
    paths = {clone.submodule_paths for clone in several if clone.submodules != "none"}
    return Clone(
        depth=_deepest(clone.depth for clone in several),
        submodules=max((clone.submodules for clone in several), key=_RECURSION.index),
        submodule_depth=_deepest(clone.submodule_depth for clone in several),
        submodule_paths=paths.pop() if len(paths) == 1 else (),
    )


def _deepest(depths: Iterable[int]) -> int:
    return max(depths, key=lambda depth: depth or float("inf"))


def refs_of_head(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the refs of HEAD that GitLab names to its runner, beside a tag: that of the pipeline, and that of the branch."""
    named = (("CI_PIPELINE_ID", "refs/pipelines/"), ("CI_COMMIT_BRANCH", "refs/remotes/origin/"))
    return tuple(f"{above}{variables[name]}" for name, above in named if variables.get(name))
