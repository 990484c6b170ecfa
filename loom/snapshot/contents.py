"""Decide the content of a snapshot from git's lists and the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field

from loom.snapshot import git
from loom.snapshot.index import Index, directories, is_directory, is_runtime, pin_name
from loom.snapshot.model import Source, object_format
from loom.snapshot.removal import is_workspace
from loom.snapshot.submodules import inner_repository
from loom.util.paths import RUNTIME


class New(Struct):
    """Files that git neither tracks nor ignores."""

    files: list[str] = field(default_factory=list)
    repositories: list[str] = field(default_factory=list)


def new_files_command(own: Iterable[str], *, outermost: bool) -> tuple[str, ...]:
    """Return the git command that lists them; `own` are loom's directories in the checkout."""
    patterns = [f"/{git.literal_pattern(path)}/" for path in own]
    if outermost:
        patterns.append("/" + RUNTIME)
    excludes = (word for pattern in patterns for word in ("--exclude", pattern))
    return ("ls-files", "-z", "--others", "--exclude-standard", *excludes)


def new_files(source: Source, listed: bytes, *, outermost: bool) -> New:
    """Parse the command's output."""
    new = New()
    for path in os.fsdecode(listed).split("\0")[:-1]:
        if not path.endswith("/"):
            if not (outermost and is_runtime(path)):
                new.files.append(path)
        elif not is_workspace(source.root / path):
            new.repositories.append(path[:-1])
    return new


def give_way(source: Source, index: Index, new: New, replaced: Iterable[str]) -> list[str]:
    """Remove hidden entries from `index` that git drops for something new of that name, or of a directory's; return them.

    `replaced`: directories that replaced tracked files: one of them may now be a repository.
    """
    hidden = (path for path, _ in index.pinned)
    new.repositories += [
        path
        for path in (*replaced, *hidden)
        if is_directory(source.root, path) and git.is_repository(source.root / path, source.environment)
    ]
    taken = {*new.files, *new.repositories}
    above = directories(taken)
    gone = {
        path for path, _ in index.pinned if path in above or path in taken or not taken.isdisjoint(directories([path]))
    }
    index.pinned = [(path, tag) for path, tag in index.pinned if path not in gone]
    return sorted(gone)


class Nested(Struct, frozen=True, kw_only=True):
    """The treatment of a submodule or nested repository."""

    directory: bool = True
    commit: str | None = None
    """Its new id in the tree; None: the index's."""
    inner: Source | None = None
    """Its checkout; laid out when .gitmodules has a `name` for it."""
    name: str | None = None
    reason: str | None = None
    """Why files of it are missing; None if expected."""


def decide(source: Source, path: str, index: Index, names: Callable[[], Mapping[str, str]], *, tracked: bool) -> Nested:
    """`names` maps paths to the names in the snapshot's .gitmodules."""
    place = source.root / path
    there = is_directory(source.root, path) and os.path.lexists(place / ".git")
    inner = inner_repository(place, source) if there else None
    if path in index.pinned_gitlinks:
        tag, commit = index.pinned_gitlinks[path]
        if inner is None:
            return Nested()
        if inner.head_sha != commit:
            why = f"a submodule at another commit ({pin_name(tag)} hides that): an empty directory"
            return Nested(reason=why)
    if tracked and not is_directory(source.root, path):
        return Nested(directory=False)
    if inner is None:
        if not tracked:
            why = "a repository of its own without a commit: git can't add it"
            return Nested(directory=False, reason=why)
        return Nested(reason=_not_checked_out(source, path, in_conflict=path in index.unmerged))
    if len(inner.head_sha) != len(source.head_sha):
        why = f"a repository of another format ({object_format(inner.head_sha)}): git can't name its commit here"
        return Nested(reason=why)
    name = names().get(path)
    if name is not None:
        return Nested(commit=inner.head_sha, inner=inner, name=name)
    what = "a repository that .gitmodules does not name" if tracked else "a repository of its own, and no submodule"
    return Nested(commit=inner.head_sha, reason=f"{what}: CI has an empty directory there")


def _not_checked_out(source: Source, path: str, *, in_conflict: bool) -> str | None:
    place = source.root / path
    if in_conflict:
        return "a submodule in conflict that is not checked out: git can't add it"
    if os.path.lexists(place / ".git"):
        return "a submodule in which git finds no commit: an empty directory"
    return "files in a submodule that is not checked out: git does not look at them" if any(place.iterdir()) else None
