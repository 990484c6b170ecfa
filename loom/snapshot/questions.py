"""Queries to git about a source while a workspace is filled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loom.snapshot import filters, git
from loom.snapshot import git_dir as layout
from loom.snapshot.contents import new_files_command
from loom.snapshot.index import LIST, Index
from loom.snapshot.model import Source
from loom.snapshot.names import checked_listing
from loom.snapshot.repository import check_file
from loom.snapshot.source import truth
from loom.snapshot.tree import parse_raw
from loom.util.untrusted_files import read_regular

_DIFF_FILES = ("diff-files", "-z", "--raw", "--no-renames", "--ignore-submodules=all")
_EXACT = (("core.trustctime", "true"), ("core.checkStat", "default"))
"""An edit counts, also one that leaves a file's size and time."""
_SPARSE = ("core.sparsecheckout", "sparse.expectfilesoutsideofpatterns")
"""Settings that make git unhide files that exist although a sparse checkout excludes them."""


class Questions:
    """Git reads the source through the index that was copied to `git_dir`; anything it wrote would land there."""

    def __init__(self, source: Source, git_dir: Path, own: list[str], *, outermost: bool) -> None:
        self._source = source
        self._git_dir = git_dir
        self._new_files = new_files_command(own, outermost=outermost)
        self._processes: list[git.Running] = []
        self._listing: git.Running | None = None
        self._changes: git.Running | None = None
        self._new: git.Running | None = None
        self.index_is_plain = False

    def stop(self) -> None:
        for process in self._processes:
            process.stop()

    def begin(self, data: bytes) -> None:
        """Start git's listing of the index, whose file is `data`, if usable unmodified: most are."""
        sparse = truth(self._source.config.get(_SPARSE[0], ()), False)
        self.index_is_plain = not sparse and layout.is_plain(data)
        if self.index_is_plain or not (sparse or layout.is_split(data)):
            self._listing = self._start(*LIST)

    def make_index_plain(self) -> None:
        """Let git rewrite the index before it is listed, where that is needed."""
        if self._listing is None or not self.index_is_plain:
            if self._listing is not None:
                self._listing.stop()
            for shared in self._source.git_dir.glob("sharedindex.*"):  # of a split index
                check_file(shared)
                (self._git_dir / shared.name).write_bytes(read_regular(shared))
            self._rewrite_index()
            self._listing = self._start(*LIST)

    def index(self) -> Index:
        assert self._listing is not None, "make_index_plain comes first"
        listing = self._listing.output()
        items = checked_listing(listing, self._source.index_path)
        return Index(listing, [item.partition("\t")[2] for item in items])

    def ask(self) -> None:
        """Start asking what of the tracked files changed, and what else is there."""
        if self._changes is None:
            self._changes, self._new = self._start(*_DIFF_FILES), self._start(*self._new_files)

    def new_files(self) -> tuple[bytes, str]:
        """Return git's listing, and its messages about unreadable directories."""
        assert self._new is not None, "ask comes first"
        _, listed, stderr = self._new.result()
        return listed, stderr

    def changes(self) -> dict[str, str]:
        """Return the kind of each path's change from the index."""
        assert self._changes is not None, "ask comes first"
        try:
            data = self._changes.output()
        except git.GitFailed:
            # A file that can't be compared through its filter counts as changed; what else failed fails again.
            data = self._start(*_DIFF_FILES, config=filters.without(self._source.config)).output()
        return {change.path: change.kind for change in parse_raw(data)}

    def _start(self, *arguments: str, config: Iterable[tuple[str, str]] = ()) -> git.Running:
        source = self._source
        process = git.Running(
            arguments,
            git.environment_for(
                source.environment,
                keep_config=True,
                repository=source.repository,
                index=self._git_dir / "index",
                # It has none: git would read those of the workspace while they are copied, and pass over an ignore file that
                # is only half there.
                objects=self._git_dir,
                alternates=(source.objects_dir,),
                config=(*_EXACT, *config),
            ),
            cwd=source.root,
        )
        self._processes.append(process)
        return process

    def _rewrite_index(self) -> None:
        """Rewrite an index that says what is true of the source's directory only: a shared part, monitors, a sparse form, marks
        that only the source's git knows to be out of date."""
        git.run(
            ("update-index", "--no-split-index", "--no-untracked-cache", "--no-fsmonitor", "--force-write-index"),
            git.environment_for(
                self._source.environment,
                keep_config=True,
                git_dir=self._git_dir,
                work_tree=self._source.root,
                index=self._git_dir / "index",
                alternates=(self._source.objects_dir,),
                config=[(key, values[-1]) for key in _SPARSE if (values := self._source.config.get(key))],
            ),
            cwd=self._source.root,
        )
        for shared in self._git_dir.glob("sharedindex.*"):
            shared.unlink()
