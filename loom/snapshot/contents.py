"""Decide the content of a snapshot from git's lists and the disk, for both capture and `explain`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct, field

from loom.snapshot import git, skip_worktree
from loom.snapshot.index import LIST, Index, is_directory, is_runtime, pin_name
from loom.snapshot.model import Source
from loom.snapshot.names import checked_listing
from loom.snapshot.removal import is_workspace
from loom.snapshot.submodules import inner_repository, submodule_names, submodule_names_in_index
from loom.util.paths import RUNTIME
from loom.util.special_files import special_kind


class New(Struct):
    """Files that git neither tracks nor ignores."""

    files: list[str] = field(default_factory=list)
    repositories: list[str] = field(default_factory=list)
    workspaces: list[str] = field(default_factory=list)
    """Loom's own files: never part of a snapshot."""


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
        elif is_workspace(source.root / path):
            new.workspaces.append(path[:-1])
        else:
            new.repositories.append(path[:-1])
    return new


def give_way(source: Source, index: Index, new: New, directories: Iterable[str]) -> list[str]:
    """Remove hidden entries from `index` that git drops in favour of a new file of that name; return them.

    `directories` replaced tracked files: one of them may now be a repository.
    """
    hidden = (path for path, _ in index.pinned)
    new.repositories += [path for path in (*directories, *hidden) if _is_repository(source, path)]
    return skip_worktree.give_way(index, (*new.files, *new.repositories))


def _is_repository(source: Source, path: str) -> bool:
    return is_directory(source.root, path) and git.is_repository(source.root / path, source.environment)


class Nested(Struct, frozen=True, kw_only=True):
    """The treatment of a submodule or nested repository."""

    path: str
    held: bool = True
    """Whether the tree contains it."""
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
            return Nested(path=path)
        if inner.head_sha != commit:
            why = f"a submodule at another commit ({pin_name(tag)} hides that): an empty directory"
            return Nested(path=path, reason=why)
    if tracked and not is_directory(source.root, path):
        return Nested(path=path, held=False, directory=False)
    if inner is None:
        if not tracked:
            why = "a repository of its own without a commit: git can't add it"
            return Nested(path=path, held=False, directory=False, reason=why)
        return Nested(path=path, reason=_not_checked_out(source, path, in_conflict=path in index.unmerged))
    if len(inner.head_sha) != len(source.head_sha):
        why = f"a repository of another format ({inner.object_format}): git can't name its commit here"
        return Nested(path=path, held=tracked, reason=why)
    name = names().get(path)
    if name is not None:
        return Nested(path=path, commit=inner.head_sha, inner=inner, name=name)
    what = "a repository that .gitmodules does not name" if tracked else "a repository of its own, and no submodule"
    return Nested(path=path, commit=inner.head_sha, reason=f"{what}: CI has an empty directory there")


def _not_checked_out(source: Source, path: str, *, in_conflict: bool) -> str | None:
    place = source.root / path
    if in_conflict:
        return "a submodule in conflict that is not checked out: git can't add it"
    if os.path.lexists(place / ".git"):
        return "a submodule in which git finds no commit: an empty directory"
    return "files in a submodule that is not checked out: git does not look at them" if any(place.iterdir()) else None


class Contents:
    """The content that a snapshot of the source would have now."""

    def __init__(self, source: Source, own: Collection[str], *, outermost: bool) -> None:
        self._source = source
        self._here = git.environment_for(
            source.environment,
            keep_config=True,
            repository=source.repository,
            index=source.index_path,
        )
        self.files: dict[str, str] = {}
        """path -> `tracked`, `untracked`, `skip-worktree` or `assume-unchanged`."""
        self.dropped: dict[str, str] = {}
        """path -> why a tracked file is left out."""
        self._directories: dict[str, bool] = {"": True}
        self.index = Index(checked_listing(self._ask(*LIST), source.index_path))
        expected = []
        for path, _ in self.index.tracked(source, outermost=outermost):
            if why := self._missing(path):
                self.dropped[path] = why
                expected += [path] if is_directory(source.root, path) else []
            else:
                self.files[path] = "tracked"
        for path in self.index.gitlinks:
            if path not in self.index.pinned_gitlinks and not is_directory(source.root, path):
                self.dropped[path] = "tracked, and deleted on disk"
        self.new = new_files(source, self._ask(*new_files_command(own, outermost=outermost)), outermost=outermost)
        for path in give_way(source, self.index, self.new, expected):
            self.dropped[path] = "something new has the name of its directory"
        intended = git.intended(self._here, cwd=source.root) if self.index.pinned_empty else set()
        for path, tag in self.index.pinned:
            if path in intended:
                self.dropped[path] = skip_worktree.intended_reason(tag)
            else:
                self.files[path] = pin_name(tag)
        self.files.update(dict.fromkeys(self.new.files, "untracked"))
        self._nested: dict[str, Nested] = {}

    def _ask(self, *command: str) -> bytes:
        return git.run(command, self._here, cwd=self._source.root)

    def _missing(self, path: str) -> str | None:
        """Explain why a tracked file can't be copied; None for a file or link."""
        if not self._is_directory(path.rpartition("/")[0]):
            return "tracked, and deleted on disk"
        try:
            status = os.lstat(f"{self._source.root}/{path}")
        except OSError:
            return "tracked, and deleted on disk"
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            return None
        if kind := special_kind(status.st_mode):
            return f"tracked, and a {kind} on disk: counts as deleted"
        return "tracked, and deleted on disk"

    def _is_directory(self, path: str) -> bool:
        """A real directory, with real parents."""
        if path not in self._directories:
            self._directories[path] = is_directory(self._source.root, path)
        return self._directories[path]

    @property
    def repositories(self) -> Iterable[str]:
        return (*self.index.gitlinks, *self.new.repositories)

    def nested(self, path: str) -> Nested | None:
        """Return the treatment of the repository at `path`; None if git sees none."""
        if path not in self._nested:
            tracked = path in self.index.gitlinks
            if not tracked and path not in self.new.repositories:
                return None
            self._nested[path] = decide(self._source, path, self.index, self._names, tracked=tracked)
        return self._nested[path]

    def _names(self) -> Mapping[str, str]:
        match self.files.get(".gitmodules"):
            case None:
                return {}
            case "tracked" | "untracked":
                return submodule_names(self._source.root / ".gitmodules", self._source)
            case _:
                return submodule_names_in_index(self._source)
