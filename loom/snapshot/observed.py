"""The state of a checkout besides the content of its files: what else decides the snapshot and the plan. For `loom watch`."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from loom.errors import LoomError
from loom.snapshot import git, tree
from loom.snapshot import git_dir as layout
from loom.snapshot.contents import new_files_command
from loom.snapshot.index import LIST, modes_count
from loom.snapshot.model import Source
from loom.snapshot.names import checked_listing
from loom.snapshot.repository import RepositoryView
from loom.snapshot.source import discover
from loom.util.paths import run_of_workspace, workspace_beside
from loom.values import Environ, Immutable

_ANY_MODE = ""
"""What counts of a path whose file decides; of another one, such as a hidden entry, what the index has of it."""


class State(Immutable):
    names: Mapping[str, str]
    """The paths of a snapshot, each with what the index decides of it."""
    settings: Mapping[str, Hashable]
    """Other settings that count, with their values."""
    head: tuple[object, ...]
    read_from: tuple[Path, ...]
    """The files outside of the work tree that all this was read from."""


class CheckoutChange(Immutable):
    """The differences between two states."""

    paths: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    head: bool = False
    """HEAD, a branch or a tag moved."""

    def __bool__(self) -> bool:
        return bool(self.paths or self.settings or self.head)

    def __or__(self, other: CheckoutChange) -> CheckoutChange:
        return CheckoutChange(
            paths=self.paths | other.paths, settings=self.settings | other.settings, head=self.head or other.head
        )


class Observed(Struct, kw_only=True):
    """The last known state of a checkout. `also`: files outside of the snapshot whose content counts too."""

    root: Path
    environ: Environ
    also: tuple[Path, ...] = ()
    _state: State | None = None
    _read: tuple[object, ...] = field(default=())

    @property
    def stale(self) -> bool:
        """Return whether a file outside of the work tree has another status than when it was read."""
        return self._state is None or self._statuses() != self._read

    def may_move(self, path: str) -> bool:
        """Return whether a change of this file may change the set of paths in a snapshot."""
        known = self._state is not None and path in self._state.names
        return not known or path.endswith(".gitignore") or not os.path.lexists(self.root / path)

    def news(self) -> CheckoutChange:
        """Ask git, and return what changed since the last call; nothing at the first."""
        before, read = self._state, self._statuses()
        try:
            self._state = _state_of(self.root, self.environ, self.also)
            if before is None or before.read_from != self._state.read_from:
                read = self._statuses()  # first, so that a change in between is seen the next time
                self._state = _state_of(self.root, self.environ, self.also)
        except LoomError:  # in the middle of a rebase, for example; the next call looks again
            return CheckoutChange()
        self._read, after = read, self._state
        if before is None:
            return CheckoutChange()
        settings = before.settings.items() ^ after.settings.items()
        return CheckoutChange(
            paths=frozenset(self._differing(before, after)),
            settings=frozenset(name for name, _ in settings),
            head=before.head != after.head,
        )

    def _differing(self, before: State, after: State) -> Iterable[str]:
        for path in before.names.keys() | after.names.keys():
            both = before.names.get(path), after.names.get(path)
            gone = None in both and _ANY_MODE in both and not os.path.lexists(self.root / path)
            if both[0] != both[1] and not gone:
                yield path

    def _statuses(self) -> tuple[object, ...]:
        return () if self._state is None else tuple(map(_status, self._state.read_from))


def _status(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_own(path: str) -> bool:
    """Return whether a path is in a workspace, or beside one: the temporary directory may be in the checkout."""
    parts = Path(path).parts
    return any(run_of_workspace(workspace_beside(Path(part)).name) for part in parts[:-1] or parts)


def _state_of(root: Path, environ: Environ, also: tuple[Path, ...]) -> State:
    """Read the state. LoomError where git can't tell."""
    source = discover(root, environ=environ, commit=False)
    names = dict(_names(source.repository, git.as_inherited(environ), modes=modes_count(source), prefix=""))
    outside = [path for path in also if str(Path(os.path.relpath(path, source.root))) not in names]
    outside += layout.rule_files(source)
    files = _config_files(source, environ)
    of_branch = (source.common_dir / "refs/heads" / source.branch,) if source.branch else ()
    return State(
        names=names,
        settings={
            "git's configuration": tuple(tree.hashing_config(source)),
            **{str(path): _content(path) for path in outside},
            "the branch": source.branch or "",
        },
        head=(source.head_sha, source.refs),
        read_from=(source.index_path, source.git_dir / "HEAD", *of_branch, *files, *outside),
    )


def _names(
    repository: RepositoryView, inherited: Mapping[str, str], *, modes: bool, prefix: str
) -> Iterator[tuple[str, str]]:
    """Yield the paths that a snapshot would have, also those of submodules, with what the index decides of each."""
    root, here = repository.root, {**inherited, **repository.environment}
    modules = (repository.git_dir / "modules", repository.common_dir / "modules")
    tracked, new = (git.Running(each, here, cwd=root) for each in (LIST, new_files_command((), outermost=not prefix)))
    for item in checked_listing(tracked.output(), repository.git_dir / "index"):
        about, _, path = item.partition("\t")
        tag, mode, _, stage = about.split(" ")
        if mode == "160000" and (inner := git.repository_at(root / path, inherited, modules=modules)) is not None:
            plain = git.environment_for(inherited, keep_config=True)
            there = {**plain, **inner.environment}
            yield prefix + path, os.fsdecode(git.run(("rev-parse", "HEAD"), there, cwd=inner.root))
            yield from _names(inner, plain, modes=modes, prefix=f"{prefix}{path}/")
        elif tag == "H" and stage == "0" and mode != "160000":
            yield prefix + path, _ANY_MODE if modes or mode == "100644" else mode
        else:
            yield prefix + path, about
    for path in os.fsdecode(new.output()).split("\0")[:-1]:
        if not is_own(path):
            yield prefix + path, _ANY_MODE


def _config_files(source: Source, environ: Environ) -> Iterable[Path]:
    """Return the files that git's configuration is made of, also those that may come."""
    listed = git.run(
        ("config", "--list", "--show-origin", "--name-only", "-z"),
        git.in_repository(source.repository, environ),
        cwd=source.root,
    )
    origins = {part[5:] for part in os.fsdecode(listed).split("\0") if part.startswith("file:")}
    home = Path(environ.get("HOME", "/"))
    usual = (home / ".gitconfig", Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "git/config")
    own = (source.common_dir / "config", source.git_dir / "config.worktree")
    return sorted({*usual, *own, *(source.root / path for path in origins)})


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""
