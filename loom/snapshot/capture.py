"""Fill a workspace from a source: copy, make its `.git`, prove what came out."""

from __future__ import annotations

import builtins
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import copy_files, filters, git, skip_worktree, submodules, tree
from loom.snapshot import git_dir as layout
from loom.snapshot.contents import decide, give_way, new_files, new_files_command
from loom.snapshot.copy_workers import Pool
from loom.snapshot.index import (
    LIST,
    Index,
    directories,
    is_runtime,
    lstat,
    modes_count,
    pin_name,
    same_content,
)
from loom.snapshot.lock import occupied
from loom.snapshot.manifest import FILLING, Manifest, write_manifest
from loom.snapshot.model import Change, LeftOut, Rules, Snapshot, SnapshotCanceled, Source, Submodule, readable
from loom.snapshot.removal import delete
from loom.snapshot.source import truth
from loom.snapshot.special_files import ignored, specials
from loom.util.bounded import listed
from loom.util.paths import own_directories
from loom.util.units import counted

OnProgress = Callable[[int, int], None]
"""Receives (files copied, files known of), often."""

_OURS = "loom's own: never part of a snapshot"
_NAMED = 10
_LARGE_INDEX = 1_000_000
_INDEX_ENTRY = 120
"""Bytes of an index per file, about."""
_DIFF_FILES = ("diff-files", "-z", "--raw", "--no-renames", "--ignore-submodules=all")
_SPARSE = ("core.sparsecheckout", "sparse.expectfilesoutsideofpatterns")
"""What makes git take away the mark of files that a sparse checkout should not have, and are there all the same."""
# Kernel clocks that stamp files run up to one tick behind.
_TICK_NS = 20_000_000


def take(source: Source, workspace: Path, *, cancel: Cancel, on_progress: OnProgress | None = None) -> Snapshot:
    """Fill `workspace`, an empty directory, with what CI would check out if the source's present work were committed.

    The source is only read. SnapshotError when something could not be read or written, SnapshotCanceled when the flag
    was set meanwhile; either leaves `workspace` as empty as it was.
    """
    if any(workspace.iterdir()):
        raise SnapshotError(f"{workspace}: not empty", hint="a workspace is filled once, in a new directory")
    with occupied(workspace), git.ended_by(cancel):
        return _take(source, workspace, cancel, on_progress)


def _take(source: Source, workspace: Path, cancel: Cancel, on_progress: OnProgress | None) -> Snapshot:
    started = time.perf_counter()
    git_dir = workspace / ".git"
    try:
        git_dir.mkdir()
        (git_dir / FILLING).touch()
        filled = _Filling(
            source, workspace, git_dir, None, workspace, cancel, on_progress, source.read_only_mounts
        ).run()
        write_manifest(
            git_dir,
            Manifest(
                source_root=str(source.root),
                object_format=source.object_format,
                head_sha=source.head_sha,
                tree_sha=filled.tree_sha,
                branch=source.branch,
                changed=filled.changed,
                rules=filled.rules,
                stores=tuple(map(str, (source.objects_dir, *filled.borrowed))),
                submodules=tuple(filled.submodules),
                left_out=tuple(filled.left_out),
            ),
        )
    except BaseException as error:
        empty(workspace)
        if cancel.requested and isinstance(error, (SnapshotError, OSError)) and not isinstance(error, SnapshotCanceled):
            # Ctrl-C reaches the git processes, too, and they may be the first to end.
            raise SnapshotCanceled("interrupted while the workspace was being filled") from error
        if isinstance(error, OSError):
            place = error.filename if isinstance(error.filename, str) else str(workspace)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise SnapshotError(
                f"{readable(place)}: {error.strerror or error}",
                hint="free some space there, or point TMPDIR at another disk" if full else "check its permissions",
                code="WORKSPACE_NOT_WRITTEN" if full else None,
            ) from error
        raise
    return Snapshot(
        path=workspace,
        source_root=source.root,
        head_sha=source.head_sha,
        tree_sha=filled.tree_sha,
        branch=source.branch,
        files=filled.files,
        bytes=filled.bytes,
        changed=filled.changed,
        left_out=tuple(filled.left_out),
        submodules=tuple(filled.submodules),
        borrowed=filled.borrowed,
        duration_ms=(time.perf_counter() - started) * 1000,
    )


def empty(workspace: Path) -> None:
    """Remove what is inside `workspace`, not itself: it may be mounted already."""
    for entry in os.scandir(workspace):
        if entry.is_dir(follow_symlinks=False):
            delete(Path(entry.path))
        else:
            Path(entry.path).unlink(missing_ok=True)


class _Filled(Struct):
    tree_sha: str = ""
    files: int = 0
    bytes: int = 0
    changed: tuple[Change, ...] = ()
    left_out: list[LeftOut] = field(default_factory=list)
    submodules: list[Submodule] = field(default_factory=list)
    borrowed: tuple[Path, ...] = ()
    excludes: builtins.bytes = b""
    attributes: builtins.bytes = b""
    own_attributes: builtins.bytes = b""
    raw: tuple[tuple[str, str], ...] = ()
    config: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rules(self) -> Rules:
        return Rules(
            excludes=self.excludes,
            attributes=self.attributes,
            own_attributes=self.own_attributes,
            config=tuple(self.config),
            raw=self.raw,
        )


class _Filling:
    """One repository into one directory; submodules are fillings of their own."""

    def __init__(
        self,
        source: Source,
        target: Path,
        git_dir: Path,
        prefix: str | None,
        outermost: Path,
        cancel: Cancel,
        on_progress: OnProgress | None,
        may_borrow: tuple[Path, ...],
    ) -> None:
        self._source = source
        self._target = target
        self._git_dir = git_dir
        self._prefix = prefix
        """The path of a submodule from the outermost root, with a slash; None for the outermost repository."""
        self._outermost = outermost
        """The workspace."""
        self._cancel = cancel
        self._on_progress = on_progress
        self._may_borrow = may_borrow
        """What containers are going to see: stores that the outermost source named."""
        self._zero = "0" * len(source.head_sha)
        self._done = _Filled()
        self._processes: list[git.Running] = []
        self._index_tree: str | None = None
        self._filters_given_up = False
        self._filters_named = False
        self._own = self._own_directories()
        self._names: dict[str, str] | None = None
        self._places: list[str] = []

    def run(self) -> _Filled:
        try:
            return self._run()
        except BaseException:
            for process in self._processes:
                process.stop()
            raise

    def _run(self) -> _Filled:
        source, git_dir, done = self._source, self._git_dir, self._done
        since_ns = time.time_ns() - _TICK_NS
        done.excludes = layout.excludes_of(source)
        done.attributes = layout.attributes_of(source)
        done.own_attributes = layout.own_attributes_of(source)
        done.config = tree.hashing_config(source)
        (git_dir / "objects").mkdir(parents=True)
        data = layout.copy_index(source, git_dir)
        with Pool(source.root, self._target, since_ns=since_ns, cancel=self._cancel) as pool:
            pool.prepare(len(data) // _INDEX_ENTRY)
            listing, questions = self._lay_out(data)
            index = Index(os.fsdecode(listing.output()).split("\0")[:-1])
            about = len(index.items)
            dirty, others = questions or self._ask()
            found = pool.copy(
                index.tracked(source, outermost=self._prefix is None),
                about=about,
                look_around=True,
                on_portion=self._progress(about),
            )
            _, listed, said = others.result()
            new = new_files(source, listed, outermost=self._prefix is None)
            for path in new.workspaces:
                self._leave_out(path, _OURS)
            untracked = new.files
            first, absent = found.files, set(found.absent)
            become = copy_files.ANY if modes_count(source) else copy_files.REGULAR
            more = pool.copy(
                ((path, become) for path in untracked),
                about=len(untracked),
                look_around=True,
                on_portion=self._progress(about + len(untracked), first),
            )
        self._name_own()
        for path, why in git.unlisted_directories(said):
            self._leave_out(path, f"a directory that git can't read: {why}")
        vanished = set(more.absent)
        found.add(vars(more))
        self._refuse_unreadable(found)
        self._refuse_links(found)
        self._remove_empty(absent)
        modified = dict(self._modified(dirty))
        for path in found.unstable:
            self._leave_out(
                path, f"changed during each of {copy_files.ATTEMPTS} attempts to copy it; the last one counts"
            )
        for path in sorted(vanished - {special for special, _ in found.special}):
            self._leave_out(path, "vanished while the workspace was being filled")
        edits = tree.Edits(removed=give_way(source, index, new, found.directories) + sorted(absent) + index.runtime)
        for path in index.runtime:
            self._leave_out(path, "tracked where the record of runs is shown: never part of a snapshot")
        unseen = {path for path, _ in index.pinned}
        if index.pinned:
            self._lay_out_hidden(index)
        self._nested(index, new.repositories, edits)
        every = [*index.paths(), *untracked]
        self._name_special(found, index, every)
        other = index.unmerged.keys() | index.replaced
        """Entries that say nothing of a file."""
        forced = (set(found.recent) | set(found.unstable) | set(modified) | other) - absent
        forced -= unseen | set(index.gitlinks)
        edits.present = sorted(forced | set(untracked) - vanished)
        swapped = set(found.recent) | set(found.unstable)
        suspicious = {path for path in forced - other if path in swapped or self._stat_may_lie(path)}
        if suspicious:
            edits.reset = [
                (path, mode, sha)
                for path, mode, sha in index.entries()
                if path in suspicious and modified.get(path) != "A"
            ]
            self._reset_stat_data(edits.reset)
        self._filters_named = self._names_filters(every)
        self._prove(edits)
        self._note_bytes(every)
        done.files += found.files
        done.bytes += found.bytes
        return done

    def _lay_out(self, data: bytes) -> tuple[git.Running, tuple[git.Running, git.Running] | None]:
        """Make the `.git`, while git lists the index (`data`), and answers what `_ask` asks where there is time for it."""
        source, git_dir = self._source, self._git_dir
        # Most indexes can be read as they are; git is at it while this one is looked at.
        sparse = truth(source.config.get(_SPARSE[0], ()), False)
        listing = None if sparse or layout.is_split(data) else self._start(*LIST)
        plain = not sparse and layout.is_plain(data)
        self._index_tree = layout.tree_of_index(data, len(self._zero) // 2) if plain else None
        layout.lay_out(
            source,
            git_dir,
            work_tree=None if self._prefix is None else os.path.relpath(self._target, git_dir),
            rules=self._done.rules,
        )
        if listing is None or not plain:
            if listing is not None:
                listing.stop()
            layout.copy_shared_indexes(source, git_dir)
            self._make_index_plain()
            listing = self._start(*LIST)
        # In a large tree the copying waits for the listing, so nothing is to hold that up.
        questions = None if len(data) > _LARGE_INDEX else self._ask()
        self._done.borrowed = layout.lay_out_objects(source, git_dir, may_borrow=self._may_borrow, cancel=self._cancel)
        if self._prefix is not None:
            (self._target / ".git").write_bytes(os.fsencode(f"gitdir: {os.path.relpath(git_dir, self._target)}\n"))
        return listing, questions

    # What the source holds

    def _ask(self) -> tuple[git.Running, git.Running]:
        """Start asking git what of the tracked files changed, and what else is there."""
        return (
            self._start(*_DIFF_FILES),
            self._start(*new_files_command(self._own, outermost=self._prefix is None)),
        )

    def _start(self, *arguments: str, config: Iterable[tuple[str, str]] = ()) -> git.Running:
        """A git command that reads the source through the index that was copied; anything it wrote would land here."""
        source = self._source
        process = git.Running(
            arguments,
            git.environment_for(
                source.environment,
                keep_config=True,
                git_dir=source.git_dir,
                work_tree=source.root,
                index=self._git_dir / "index",
                objects=self._git_dir / "objects",
                alternates=(source.objects_dir,),
                config=tuple(config),
            ),
            cwd=source.root,
        )
        self._processes.append(process)
        return process

    def _modified(self, dirty: git.Running) -> Iterator[tuple[str, str]]:
        try:
            return _raw_status(dirty.output())
        except git.GitFailed as error:
            if not filters.failed(error.stderr):
                raise
            # It could not be compared through its filter: as far as this answer goes, it changed.
            return _raw_status(self._start(*_DIFF_FILES, config=filters.without(self._source.config)).output())

    def _names_filters(self, paths: list[str]) -> bool:
        """Whether any attributes may hide a file's bytes; asking git about every file takes it longer."""
        done = self._done
        if self._source.attributes_tree:
            return True
        files = (self._target / path for path in paths if path.rpartition("/")[2] == ".gitattributes")
        texts = (done.attributes, done.own_attributes, *(file.read_bytes() for file in files if file.is_file()))
        return any(word in text for text in texts for word in filters.NAMED_IN_ATTRIBUTES)

    def _give_up_filters(self, error: git.GitFailed) -> None:
        """Go on without the filters of .gitattributes when one of them can't run; any other failure stays one."""
        if not filters.failed(error.stderr) or self._filters_given_up:
            raise error
        self._filters_given_up = True
        self._done.config += filters.without(self._source.config)
        last = error.stderr.strip().splitlines()[-1].removeprefix("fatal: ")
        self._leave_out(".gitattributes", f"a filter that can't run ({last}): files count as they are on disk")

    def _own_directories(self) -> list[str]:
        """Workspaces and what is beside them: the directory of temporary files may well be in the checkout."""
        root, here = self._source.root, Path(os.path.realpath(self._outermost))
        found = own_directories(here.parent, root)
        if here.is_relative_to(root) and (own := str(here.relative_to(root))) not in found:
            found.append(own)
        return found

    def _name_own(self) -> None:
        """Say which of loom's own directories are not there, but for those that the user's rules ignore anyway."""
        if not self._own:
            return
        here = Path(os.path.realpath(self._outermost))
        others = [path for path in self._own if self._source.root / path != here]
        passed_over = ignored(self._source, others, rules_in_index=True)
        for path in others:
            if path not in passed_over:
                self._leave_out(path, _OURS)

    def _make_index_plain(self) -> None:
        """Rewrite an index that says what is true of the source's place only: a shared part, monitors, a sparse form, marks
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

    def _progress(self, total: int, before: int = 0) -> Callable[[int], None] | None:
        told = self._on_progress
        return None if told is None else lambda files: told(before + files, total)

    # What needs a word

    def _leave_out(self, path: str, reason: str) -> None:
        self._done.left_out.append(LeftOut(path=(self._prefix or "") + path, reason=reason))

    def _refuse_unreadable(self, found: copy_files.Findings) -> None:
        if not found.denied:
            return
        denied = dict(sorted(found.denied))
        lines = (f"{readable((self._prefix or '') + path)}: {os.strerror(number)}" for path, number in denied.items())
        raise SnapshotError(
            f"{self._source.root}: {counted(len(denied), 'file')} can't be read:\n"
            + "\n".join(f"  {line}" for line in listed(lines, _NAMED)),
            hint="make them readable (chmod u+r), or let .gitignore name them if CI does not need them",
            code="SOURCE_UNREADABLE",
        )

    def _refuse_links(self, found: copy_files.Findings) -> None:
        if found.no_links:
            named = ", ".join(listed((readable((self._prefix or "") + path) for path in found.no_links), _NAMED))
            raise SnapshotError(
                f"{self._source.root}: tracked as a link, and the file that stands for it (core.symlinks=false) holds what "
                f"no link can lead to: {named}",
                hint="restore it (git checkout -- FILE), or commit it as a file; no checkout could lay this out",
                code="SOURCE_LINK_INVALID",
            )

    def _remove_empty(self, absent: set[str]) -> None:
        """Take away directories that were made for files which are not there."""
        for directory in sorted(directories(absent), reverse=True):
            try:
                (self._target / directory).rmdir()
            except OSError:
                continue  # it holds something, or is none

    def _name_special(self, found: copy_files.Findings, index: Index, known: list[str]) -> None:
        for path, kind in sorted(specials(self._source, found, known, rules_in_index=index.has_rules).items()):
            if not (self._prefix is None and is_runtime(path)):
                self._leave_out(path, f"a {kind}: git keeps only files and links")

    # The workspace's side

    def _here(self, *, index: Path, config: Iterable[tuple[str, str]] = ()) -> dict[str, str]:
        """For git in the workspace, reading and writing there only, configured by nothing but `config`."""
        environment = git.environment_for(
            self._source.environment, git_dir=self._git_dir, work_tree=self._target, index=index, config=tuple(config)
        )
        return environment | git.NO_USER_CONFIG

    def _lay_out_hidden(self, index: Index) -> None:
        source, own = self._source, self._git_dir / "index"
        if index.pinned_empty:
            here = self._here(index=own)
            for path, tag in skip_worktree.drop_intended(index, here, self._target, self._zero):
                self._leave_out(path, skip_worktree.intended_reason(tag))
        # Files come through the user's filters, as in a checkout, and those may need the source's git directory. A partial
        # clone may have to fetch them, which takes addresses and credentials.
        kept = [(key, value) for key, value in self._done.config if not key.startswith("filter.")]
        lfs = [("filter.lfs.required", "false"), *((f"filter.lfs.{key}", "") for key in ("clean", "smudge", "process"))]
        there = git.environment_for(
            source.environment,
            keep_config=True,
            git_dir=source.git_dir if filters.at_home(self._done.config) else self._git_dir,
            work_tree=self._target,
            index=own,
            objects=self._git_dir / "objects",
            alternates=(source.objects_dir,),
            config=[*kept, *lfs, *layout.AS_LAID_OUT],
        )
        paths = [path for path, _ in index.pinned]
        try:
            skip_worktree.lay_out(paths, there, self._target, source.root)
        except git.GitFailed as error:
            self._give_up_filters(error)
            there = git.with_config(there, filters.without(source.config))
            skip_worktree.lay_out(paths, there, self._target, source.root)
        for path, tag in index.pinned:
            status = lstat(self._target / path)
            self._done.files += 1
            self._done.bytes += status.st_size if status else 0
            if not same_content(source.root / path, self._target / path):
                why = f"edits on disk ({pin_name(tag)} hides them from git): the staged content is laid out"
                self._leave_out(path, why)

    def _nested(self, index: Index, repositories: list[str], edits: tree.Edits) -> None:
        """Submodules with their own work; other repositories inside this one as the empty directories CI would have."""
        for path, tracked in [*((path, True) for path in index.gitlinks), *((path, False) for path in repositories)]:
            nested = decide(self._source, path, index, self._submodule_names, tracked=tracked)
            if nested.directory:
                (self._target / path).mkdir(parents=True, exist_ok=True)
            elif tracked:
                edits.removed.append(path)
            if nested.reason is not None:
                self._leave_out(path, nested.reason)
            if nested.commit is not None:
                edits.gitlinks.append((path, nested.commit))
            if nested.inner is not None and nested.name is not None:
                self._submodule(path, nested.inner, nested.name)

    def _submodule_names(self) -> Mapping[str, str]:
        if self._names is None:
            # As CI has it: a sparse checkout may hide the source's, and ignore rules may have left it out.
            self._names = submodules.submodule_names(self._target / ".gitmodules", self._source)
        return self._names

    def _submodule(self, path: str, inner: Source, name: str) -> None:
        prefix = f"{self._prefix or ''}{path}/"
        git_dir = self._git_dir / "modules" / submodules.own_place(name, self._places)
        target, outermost, may_borrow = self._target / path, self._outermost, self._may_borrow
        filled = _Filling(inner, target, git_dir, prefix, outermost, self._cancel, self._on_progress, may_borrow).run()
        self._done.submodules.append(
            Submodule(
                path=prefix[:-1],
                head_sha=inner.head_sha,
                tree_sha=filled.tree_sha,
                changed=filled.changed,
                rules=filled.rules,
            )
        )
        self._done.submodules += filled.submodules
        self._done.left_out += filled.left_out
        self._done.borrowed += filled.borrowed
        self._done.files += filled.files
        self._done.bytes += filled.bytes

    def _stat_may_lie(self, path: str) -> bool:
        """Whether the time and size of the copy could equal the index's although the content does not.

        The index also knew the source's change time and inode; in the workspace those mean nothing.
        """
        status = lstat(self._source.root / path)
        return status is None or status.st_ctime_ns // 1_000_000_000 != status.st_mtime_ns // 1_000_000_000

    def _reset_stat_data(self, entries: list[tuple[str, str, str]]) -> None:
        """Make git in the workspace look at these files itself."""
        lines = tree.index_lines(tree.Edits(reset=entries), self._zero)
        here = self._here(index=self._git_dir / "index")
        if lines:
            git.run(("update-index", "-z", "--index-info"), here, cwd=self._target, given=lines)

    def _hash_at_home(self, edits: tree.Edits, index: Path) -> tuple[tree.Edits, str]:
        """Have files hashed in the source whose filters have to run there; returns what is left to do, and what git said."""
        drivers = filters.at_home(self._done.config) if self._filters_named else frozenset()
        here = self._here(index=index, config=self._done.config)
        paths = filters.filtered(edits.present, drivers, here, self._target)
        if not paths:
            return edits, ""
        entries, said = filters.ids_at_home(paths, self._target, self._source, self._done.config)
        left = sorted(set(edits.present) - set(paths))
        return tree.Edits(edits.removed, left, edits.reset + entries, edits.gitlinks), said

    def _note_bytes(self, paths: Iterable[str]) -> None:
        """For `verify`, which runs no filters of the user's: the bytes of all files whose ids do not tell them."""
        if self._filters_named:
            here = self._here(index=self._git_dir / "index", config=self._done.config)
            drivers = filters.at_home(self._done.config)
            found = filters.filtered(sorted(set(paths)), drivers, here, self._target, also=filters.HIDING)
            self._done.raw = tuple(filters.raw_ids(found, here, self._target).items())

    def _take_back(self, refused: list[str]) -> None:
        """Files that no tree may have: their names mean git's own directory somewhere."""
        for path in refused:
            (self._target / path).unlink(missing_ok=True)
            self._done.files -= 1
            self._leave_out(path, "a name that git refuses (it means .git on some file system)")

    def _prove(self, edits: tree.Edits) -> None:
        """Compute the tree from what is in the workspace, in an index that is gone afterwards."""
        own = index = self._git_dir / "index"
        if self._cancel.requested:
            raise SnapshotCanceled("interrupted while the workspace was being filled")
        if edits:
            index = self._git_dir / "loom-index"
            for _ in range(2):
                if own.exists():
                    status = own.stat()
                    index.write_bytes(own.read_bytes())
                    os.utime(index, ns=(status.st_mtime_ns, status.st_mtime_ns))
                try:
                    left, said = self._hash_at_home(edits, index)
                    said += tree.apply(
                        self._here(index=index, config=self._done.config), self._target, left, zero_sha=self._zero
                    )
                    self._take_back(git.refused_names(said))
                    # A filter that is not `required` may fail: git takes the file as it is.
                    if failed := filters.complaints(said):
                        why = "; ".join(failed)
                        why = f"a filter that does not work ({why}): files count as they are on disk"
                        self._leave_out(".gitattributes", why)
                    break
                except git.GitFailed as error:
                    self._give_up_filters(error)
        elif self._index_tree == self._source.head_tree_sha:
            self._done.tree_sha = self._source.head_tree_sha
            return  # nothing staged and nothing else: what git would find out by comparing the two
        here = self._here(index=index, config=self._done.config)
        self._done.changed = tree.compare(here, self._target, self._source.head_sha)
        self._done.tree_sha = tree.tree_of(here, self._source.head_tree_sha, self._done.changed)
        if index != own:
            index.unlink(missing_ok=True)


def _raw_status(data: bytes) -> Iterator[tuple[str, str]]:
    items = git.nul_list(data)
    for meta, path in zip(items[::2], items[1::2], strict=True):
        yield os.fsdecode(path), meta[-1:].decode()
