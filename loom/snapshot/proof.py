"""Compute the tree of a filled workspace from its content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.snapshot import filters, git, tree
from loom.snapshot.model import Change, LeftOut, Rules, SnapshotCanceled, Source, Submodule
from loom.snapshot.renewal import KnownFiles, take_out
from loom.snapshot.repository import as_written
from loom.util.units import counted


class Filled(Struct):
    """The intermediate result for one repository."""

    known: KnownFiles
    """The files that a later copy may leave as they are."""
    prefix: str = ""
    """The path of a submodule from the outermost root, with a slash."""
    tree_sha: str = ""
    files: int = 0
    bytes: int = 0
    changed: tuple[Change, ...] = ()
    brought: tuple[str, ...] = ()
    left_out: list[LeftOut] = []
    submodules: list[Submodule] = []
    borrowed: tuple[Path, ...] = ()
    stores: tuple[Path, ...] = ()
    """The object stores of the source, and of its submodules, that have the snapshot's commits."""
    rules: Rules = Rules()

    def configure(self, config: Iterable[tuple[str, str]]) -> None:
        self.rules = replace(self.rules, config=tuple(config))

    def forget_copies(self, paths: Collection[str]) -> None:
        """Note that these files were written again after they were copied."""
        take_out(self.known.files, paths)
        self.known.apart.update(map(os.fsencode, paths))

    def leave_out(self, path: str, reason: str) -> None:
        left = LeftOut(path=self.prefix + path, reason=reason)
        if left not in self.left_out:
            self.left_out.append(left)


class Proof:
    """Git in the workspace, configured only with settings that affect the tree."""

    def __init__(self, source: Source, target: Path, git_dir: Path, done: Filled, cancel: Cancel) -> None:
        self._source = source
        self._target = target
        self._git_dir = git_dir
        self._done = done
        self._cancel = cancel
        self._zero = "0" * len(source.head_sha)
        self._filters_given_up = False
        self._filters_named = False
        self._attributes: bytes | None = None

    def of(self, edits: tree.IndexEdits, paths: list[str], *, index_tree: str | None) -> None:
        """Note the tree, what changed, and what verifying needs. `paths` are all files, `index_tree` is the index's own."""
        self._filters_named = self._names_filters(paths)
        self._prove(edits, index_tree)
        self._note_bytes(paths)

    def here(self, *, index: Path, config: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
        """Return the environment for git in the workspace, isolated, configured only by `config`."""
        environment = git.environment_for(
            self._source.environment, git_dir=self._git_dir, work_tree=self._target, index=index, config=tuple(config)
        )
        return environment | git.NO_USER_CONFIG

    def reset(self, entries: list[tuple[str, str, str]]) -> None:
        """Make git in the workspace inspect these files itself."""
        here = self.here(index=self._git_dir / "index")
        tree.apply(here, self._target, tree.IndexEdits(reset=entries), zero_sha=self._zero)

    def _names_filters(self, paths: list[str]) -> bool:
        """Return whether any attributes may change a file's bytes; asking git about every file is slower."""
        done = self._done
        if self._source.attributes_tree:
            return True
        text = self.attributes_among(paths)
        own = sorted({filters.driver_of(key) for key, _ in self._source.repository.filters})
        for name in (name for name in own if os.fsencode(f"filter={name}") in text):
            why = f"the filter {name} of .git/config is not run until you allow it (loom trust): files count as they are on disk"
            done.leave_out(".gitattributes", why)
        return any(word in text for word in filters.NAMED_IN_ATTRIBUTES)

    def attributes_among(self, paths: Iterable[str]) -> bytes:
        """Return the text of all attributes that count: the user's, and those of the files among `paths`."""
        if self._attributes is None:
            files = (self._target / path for path in paths if path.rpartition("/")[2] == ".gitattributes")
            there = [file.read_bytes() for file in files if file.is_file()]
            self._attributes = b"\n".join((self._done.rules.attributes, self._done.rules.own_attributes, *there))
        return self._attributes

    def give_up_filters(self, error: git.GitFailed) -> None:
        """Continue without the filters of .gitattributes when one can't run; raise other failures."""
        if not filters.failed(error.stderr) or self._filters_given_up:
            raise error
        self._filters_given_up = True
        self._done.configure((*self._done.rules.config, *filters.without(self._source.config)))
        last = as_written(error.stderr).strip().splitlines()[-1].removeprefix("fatal: ")
        self._done.leave_out(".gitattributes", f"a filter that can't run ({last}): files count as they are on disk")

    def _hash_at_home(self, edits: tree.IndexEdits, index: Path) -> tuple[tree.IndexEdits, str]:
        """Hash files in the source if their filters must run there; return the remaining edits and git's messages."""
        drivers = filters.source_bound(self._done.rules.config) if self._filters_named else frozenset()
        here = self.here(index=index, config=self._done.rules.config)
        paths = filters.filtered(edits.present, drivers, here, self._target)
        if not paths:
            return edits, ""
        entries, stderr = filters.ids_at_home(paths, self._target, self._source, self._done.rules.config)
        left = sorted(set(edits.present) - set(paths))
        return tree.IndexEdits(edits.removed, left, edits.reset + entries, edits.gitlinks), stderr

    def _note_bytes(self, paths: Iterable[str]) -> None:
        """Record the unfiltered ids, for `verify`, which runs no user filters."""
        if self._filters_named:
            here = self.here(index=self._git_dir / "index", config=self._done.rules.config)
            self._name_pointers(sorted(paths), here)
            drivers = filters.source_bound(self._done.rules.config)
            found = filters.filtered(sorted(set(paths)), drivers, here, self._target, also=filters.HIDING)
            raw = tuple(filters.ids_of(found, here, self._target, "--no-filters")[0].items())
            self._done.rules = replace(self._done.rules, raw=raw)

    def _name_pointers(self, paths: list[str], here: Mapping[str, str]) -> None:
        """Tell of files of git-lfs without content, where the job has a clone of GitLab's runner, which fetches it."""
        if self._source.clone is not None and (found := filters.lfs_pointers(paths, here, self._target)):
            others = f", like {counted(len(found) - 1, 'other')}" if found[1:] else ""
            why = f"a pointer of git-lfs{others}: GitLab's runner fetches the content; here: git lfs pull"
            self._done.leave_out(found[0], why)

    def _prove(self, edits: tree.IndexEdits, index_tree: str | None) -> None:
        """Compute the tree from the workspace in a temporary index."""
        own = index = self._git_dir / "index"
        if self._cancel.requested:
            raise SnapshotCanceled("interrupted while the workspace was being filled")
        if edits:
            index = self._git_dir / "loom-index"
            for _ in range(2):
                if own.exists():
                    shutil.copy2(own, index)  # with its time
                try:
                    left, stderr = self._hash_at_home(edits, index)
                    stderr += tree.apply(
                        self.here(index=index, config=self._done.rules.config), self._target, left, zero_sha=self._zero
                    )
                    for path in git.refused_names(stderr):
                        (self._target / path).unlink(missing_ok=True)
                        self._done.files -= 1
                        self._done.leave_out(path, "a name that git refuses (it means .git on some file system)")
                    # An optional filter may fail: git uses the file unchanged.
                    if failed := filters.complaints(stderr):
                        why = "; ".join(failed)
                        why = f"a filter that does not work ({why}): files count as they are on disk"
                        self._done.leave_out(".gitattributes", why)
                    break
                except git.GitFailed as error:
                    self.give_up_filters(error)
        elif index_tree == self._source.head_tree_sha:
            self._done.tree_sha = self._source.head_tree_sha
            return  # nothing is staged, so this equals git's comparison
        here = self.here(index=index, config=self._done.rules.config)
        self._done.changed = tree.compare(here, self._target, self._source.head_sha)
        self._done.tree_sha = tree.tree_of(here, self._source.head_tree_sha, self._done.changed)
        if index != own:
            index.unlink(missing_ok=True)
