"""Fill a workspace from a source: copy files, create its `.git`, prove the result."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import asdict

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import contents, copy_files, filters, git, line_endings, tree
from loom.snapshot import git_dir as layout
from loom.snapshot.copy_workers import CopyPool
from loom.snapshot.history import as_cloned
from loom.snapshot.index import Index, directories, lstat, modes_count, pin_name, same_content
from loom.snapshot.inside import directory_in, remove_empty
from loom.snapshot.lock import occupied
from loom.snapshot.manifest import FILLING, write_manifest
from loom.snapshot.model import Manifest, PullRequest, Snapshot, SnapshotCanceled, Source, Submodule, readable
from loom.snapshot.proof import Filled, Proof
from loom.snapshot.pull_request import bring
from loom.snapshot.questions import Questions
from loom.snapshot.removal import delete
from loom.snapshot.renewal import KnownFiles, Renewer, keep_known, put_in, strip, take_known
from loom.snapshot.repository import as_under_git
from loom.snapshot.source import check_consent
from loom.util.bounded import listed
from loom.util.paths import own_directories
from loom.util.units import counted
from loom.util.untrusted_files import special_kind

if TYPE_CHECKING:
    from loom.snapshot.watched import WatchedWorkspace

OnProgress = Callable[[int, int], None]
"""Called often with (files copied, files known)."""

_NAMED = 10
_LARGE_INDEX = 1_000_000
_INDEX_ENTRY = 120
"""Approximate size of an index entry."""
# Kernel clocks that stamp files run up to one tick behind.
_TICK_NS = 20_000_000


def take(
    source: Source,
    workspace: Path,
    *,
    cancel: Cancel,
    on_progress: OnProgress | None = None,
    umask: int = copy_files.GITS_UMASK,
    known: Path | None = None,
    watched: WatchedWorkspace | None = None,
) -> Snapshot:
    """Fill the empty directory `workspace` with the checkout that CI would have if the source's present work were
    committed. It and its files get the modes that `umask` leaves, so the directory above keeps it private.

    `known`: the file, out of the reach of jobs, that tells which files of the workspace are as this function left them;
    whatever else is there is replaced. `watched`: what the kernel told of them since then. Only reads the source.
    SnapshotError when a file can't be read or written, SnapshotCanceled when the flag was set; either leaves `workspace` empty.
    """
    with occupied(workspace), git.ended_by(cancel):
        files = None if known is None else take_known(known)
        try:
            same = files is not None and files.umask == umask
            if files is not None and same and strip(workspace, files.objects, umask, of_git=True) is not None:
                return _take(source, workspace, cancel, on_progress, umask, known, files, watched)
        except SnapshotCanceled:
            raise
        except (SnapshotError, OSError):
            pass  # not to be renewed, or a true failure, which occurs again
        if known is not None:
            empty(workspace)
        if workspace.exists() and any(workspace.iterdir()):
            raise SnapshotError(f"{workspace}: not empty", hint="a workspace is filled once, in a new directory")
        return _take(source, workspace, cancel, on_progress, umask, known)


def _take(
    source: Source,
    workspace: Path,
    cancel: Cancel,
    on_progress: OnProgress | None,
    umask: int,
    known: Path | None,
    files: KnownFiles | None = None,
    watched: WatchedWorkspace | None = None,
) -> Snapshot:
    started = time.perf_counter()
    git_dir = workspace / ".git"
    check_consent(source)
    try:
        git_dir.mkdir(exist_ok=files is not None)
        workspace.chmod(0o777 & ~umask)
        (git_dir / FILLING).touch()
        filled = _Filling(
            source,
            workspace,
            git_dir,
            None,
            workspace,
            cancel,
            on_progress,
            source.read_only_mounts,
            umask,
            files,
            watched,
        ).run()
        manifest = Manifest(
            source_root=str(source.root),
            head_sha=source.head_sha,
            tree_sha=filled.tree_sha,
            branch=source.branch,
            changed=filled.changed,
            rules=filled.rules,
            stores=tuple(map(str, filled.stores)),
            submodules=tuple(filled.submodules),
            left_out=tuple(filled.left_out),
            brought=filled.brought,
        )
        write_manifest(git_dir, manifest)
        if known is not None:
            keep_known(filled.known, known)
    except BaseException as error:
        empty(workspace)
        if cancel.requested and isinstance(error, (SnapshotError, OSError)) and not isinstance(error, SnapshotCanceled):
            # Ctrl-C also reaches the git processes, which may end first.
            raise SnapshotCanceled("interrupted while the workspace was being filled") from error
        if isinstance(error, OSError):
            path = error.filename if isinstance(error.filename, str) else str(workspace)
            if not workspace.exists():
                raise SnapshotError(
                    f"{workspace} was removed while it was filled",
                    hint="run it again; see what removes files there, or name another directory with LOOM_TMP_DIR",
                ) from error
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise SnapshotError(
                f"{readable(path)}: {error.strerror or error}",
                hint="free some space there, or name another disk with LOOM_TMP_DIR"
                if full
                else "check its permissions",
                code="WORKSPACE_NOT_WRITTEN" if full else None,
            ) from error
        raise
    return Snapshot(
        **asdict(manifest),
        path=workspace,
        files=filled.files,
        bytes=filled.bytes,
        borrowed=filled.borrowed,
        own_rules=any(filters.are_own(one.rules) for one in (manifest, *manifest.submodules)),
        duration_ms=(time.perf_counter() - started) * 1000,
    )


def empty(workspace: Path) -> None:
    """Remove the content of `workspace`, but not itself: it may already be mounted."""
    try:
        entries = list(os.scandir(workspace))
    except FileNotFoundError:
        return  # somebody removed it
    for entry in entries:
        _remove(entry)


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        delete(Path(entry.path))
    else:
        Path(entry.path).unlink(missing_ok=True)


class _Filling:
    """The copy of one repository into one directory; submodules are copies of their own."""

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
        umask: int,
        files: KnownFiles | None = None,
        watched: WatchedWorkspace | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._git_dir = git_dir
        self._is_outermost = prefix is None
        self._outermost = outermost
        """The workspace."""
        self._cancel = cancel
        self._on_progress = on_progress
        self._may_borrow = may_borrow
        """The outermost source's object stores, as containers will see them."""
        self._umask = umask
        self._files = files
        """The files that the target already has."""
        self._watched = watched
        self._renewer: Renewer | None = None
        self._done = Filled(files or KnownFiles(umask), prefix=prefix or "")
        self._questions = Questions(source, git_dir, self._own_directories(), outermost=self._is_outermost)
        self._proof = Proof(source, target, git_dir, self._done, cancel)
        self._index_tree: str | None = None
        self._index: Index
        self._new: contents.New
        self._found: copy_files.Findings
        self._absent: set[str]
        """Tracked files that are missing."""
        self._vanished: set[str]
        """Untracked files that vanished before the copy."""
        self._module_directories: list[str] = []

    def run(self) -> Filled:
        try:
            return self._run()
        except BaseException:
            self._questions.stop()
            raise

    def _run(self) -> Filled:
        source, done = self._source, self._done
        done.rules = layout.rules_of(source, tree.hashing_config(source))
        unlisted = self._copy()
        index, new, found = self._index, self._new, self._found
        self._check()
        changes = self._questions.changes()
        self._write_as_in_ci(changes)
        self._name(unlisted)
        gone = contents.give_way(source, index, new, found.directories)
        edits = tree.IndexEdits(removed=gone + sorted(self._absent) + index.runtime)
        unseen = {path for path, _ in index.pinned} | set(index.gitlinks)
        if index.pinned:
            self._lay_out_hidden(index)
        self._nested(index, new.repositories, edits)
        every = [*index.paths, *new.files]
        self._look_again(changes, unseen, edits)
        self._proof.of(edits, every, index_tree=self._index_tree)
        done.files += found.files
        done.bytes += found.bytes
        if source.pull_request is not None and self._is_outermost:
            self._merge(source.pull_request, set(every))
        return done

    def _merge(self, request: PullRequest, paths: set[str]) -> None:
        """Bring the merge of a pull request, and prove it."""
        done = self._done
        here = self._proof.here(index=self._git_dir / "index", config=done.rules.config)
        work = done.tree_sha, done.changed
        merged, changes = bring(self._source, request, here, self._target, work, umask=self._umask)
        gone = {change.path for change in changes if change.kind == "deleted"}
        written = {change.path for change in changes} - gone
        done.files += len(written - paths) - len(gone)
        done.forget_copies(gone | written)
        self._proof.of(tree.IndexEdits(present=sorted(written)), sorted((paths | written) - gone), index_tree=None)
        if done.tree_sha != merged:
            raise SnapshotError(
                f"the merge with {request.base} has files that a filter of .gitattributes changes",
                hint=f"git merge {request.tip[:12]} first",
            )
        done.brought = tuple(change.path for change in changes)

    def _copy(self) -> str:
        """Copy all files while git answers; return its messages about directories that it can't list."""
        source, questions = self._source, self._questions
        since_ns = time.time_ns() - _TICK_NS
        (self._git_dir / "objects").mkdir(parents=True, exist_ok=self._files is not None)
        data = layout.copy_index(source, self._git_dir)
        root, target = source.root, self._target
        if self._files is not None:
            self._renewer = Renewer(root, target, self._files, since_ns=since_ns)
        with CopyPool(
            root, target, since_ns=since_ns, cancel=self._cancel, own=self._renewer, umask=self._umask
        ) as pool:
            pool.prepare(len(data) // _INDEX_ENTRY)
            self._lay_out(data)
            del data  # 40 MB, of 500,000 files
            if self._renewer is not None:
                self._questions.ask()
                if self._watched is None or not self._watched.is_untouched():
                    self._renewer.strip()  # while git lists the index
            index = self._index = questions.index()
            about = len(index.paths)
            questions.ask()
            tracked = index.tracked(source, outermost=self._is_outermost)
            if self._renewer is not None:
                tracked = iter(self._make_way(self._renewer, dict(tracked)).items())
            found = self._found = pool.copy(tracked, about=about, on_portion=self._progress(about))
            listed, unlisted = questions.new_files()
            new = self._new = contents.new_files(source, listed, outermost=self._is_outermost)
            self._absent = set(found.absent)
            if self._renewer is not None:  # a new file may be where the directory of an absent one was
                self._renewer.keep_only(self._renewer.files.keys() - self._absent)
            become = copy_files.ANY if modes_count(source) else copy_files.REGULAR
            more = pool.copy(
                ((path, become) for path in new.files),
                about=len(new.files),
                on_portion=self._progress(about + len(new.files), found.files),
            )
            if self._renewer is not None:
                self._renewer.finish((*found.absent, *more.absent))
                found.add(vars(self._renewer.kept))
        self._vanished = set(more.absent)
        found.add(vars(more))
        put_in(self._done.known.files, found.copied)
        return unlisted

    def _make_way(self, renewer: Renewer, tracked: dict[str, int]) -> dict[str, int]:
        """Remove what is not in the snapshot any more; return what may have changed. SnapshotError for what can't be renewed."""
        source, own = self._source, self._git_dir / "index"
        new = contents.new_files(source, self._questions.new_files()[0], outermost=self._is_outermost)
        data = own.read_bytes()
        facts = layout.facts_in_index(data, len(source.head_sha) // 2)
        entries, digest = zip(self._index.paths, facts, strict=True), hashlib.sha256(data).digest()
        apart = renewer.changed(tracked.keys(), entries, digest, written_s=own.stat().st_mtime_ns // 10**9)
        apart |= self._questions.changes().keys()
        as_on_disk = (copy_files.ANY, copy_files.LINK)
        left = {path: become for path, become in tracked.items() if path in apart or become not in as_on_disk}
        renewer.keep_but(apart.union(left), count=len(tracked) - len(left))
        renewer.keep_only(renewer.files.keys() & tracked.keys() | set(new.files))
        self._done.known.apart = set(map(os.fsencode, (*left, *new.files)))
        return left

    def _lay_out(self, data: bytes) -> None:
        """Create the `.git` while git lists the index, whose file is `data`."""
        source, git_dir = self._source, self._git_dir
        self._questions.begin(data)
        if self._questions.index_is_plain:
            self._index_tree = layout.tree_of_index(data, len(source.head_sha) // 2)
        layout.lay_out(
            source,
            git_dir,
            work_tree=None if self._is_outermost else os.path.relpath(self._target, git_dir),
            rules=self._done.rules,
        )
        self._questions.make_index_plain()
        if len(data) <= _LARGE_INDEX:  # in a large tree the copy waits for the listing, so nothing may delay that
            self._questions.ask()
        objects: copy_files.Copied = []
        self._done.borrowed = layout.lay_out_objects(
            source, git_dir, objects, may_borrow=self._may_borrow, cancel=self._cancel
        )
        put_in(self._done.known.objects, objects)
        self._done.stores = (source.objects_dir, *self._done.borrowed)
        if not self._is_outermost:
            (self._target / ".git").write_bytes(os.fsencode(f"gitdir: {os.path.relpath(git_dir, self._target)}\n"))

    def _check(self) -> None:
        self._refuse_unreadable(self._found)
        self._refuse_links(self._found)
        # Directories created for missing files.
        for directory in sorted(directories(self._absent), reverse=True):
            remove_empty(self._target, directory)

    def _write_as_in_ci(self, changes: Collection[str]) -> None:
        source = self._source
        attributes = self._proof.attributes_among([*self._index.paths, *self._new.files])
        own = not line_endings.are_defaults(source.config)
        if not own and not any(word in attributes for word in line_endings.WORDS):
            return
        here = self._proof.here(index=self._git_dir / "index", config=source.attributes_config)
        autocrlf = own and source.config.get("core.autocrlf", ("",))[-1].lower() not in ("false", "no", "off", "0", "")
        changed = line_endings.restore(
            here, self._target, autocrlf=autocrlf, attributes=attributes, changed=set(changes)
        )
        self._found.recent += changed
        self._done.forget_copies(changed)
        if own:
            kept = (pair for pair in self._done.rules.config if pair[0] not in line_endings.KEYS)
            self._done.configure((*kept, *line_endings.DEFAULTS))
        if changed:
            more = f", and {counted(len(changed) - 1, 'other file')}" if changed[1:] else ""
            by, remedy = (
                ("your core.autocrlf or core.eol", "git config core.autocrlf input, and check the files out again")
                if own
                else (".gitattributes", "commit, remove the files, and check them out again")
            )
            why = f"not as a checkout writes it, by {by}{more}: the workspace has the bytes of CI; to have them here: {remedy}"
            self._done.leave_out(changed[0], why)

    def _look_again(self, changes: Mapping[str, str], unseen: set[str], edits: tree.IndexEdits) -> None:
        """Record the files that git must inspect in the workspace, except `unseen` ones: the index's facts may not apply."""
        index, found = self._index, self._found
        swapped = set(found.recent) | set(found.unstable)
        other = index.unmerged.keys() | index.replaced
        """Entries without facts about a file."""
        forced = (swapped | changes.keys() | other) - self._absent - unseen
        edits.present = sorted(forced | set(self._new.files) - self._vanished)
        suspicious = {path for path in forced - other if path in swapped or self._stat_may_lie(path)}
        if suspicious:
            edits.reset = [
                (path, mode, sha)
                for path, mode, sha in index.entries()
                if path in suspicious and changes.get(path) != "added"
            ]
            self._proof.reset(edits.reset)

    def _stat_may_lie(self, path: str) -> bool:
        """Return whether a copy's time and size could match the index although its content differs."""
        status = lstat(self._source.root / path)
        return status is None or status.st_ctime_ns // 1_000_000_000 != status.st_mtime_ns // 1_000_000_000

    def _own_directories(self) -> list[str]:
        """Return workspaces and related directories: the temporary directory may be inside the checkout."""
        root, here = self._source.root, Path(os.path.realpath(self._outermost))
        found = own_directories(here.parent, root)
        if here.is_relative_to(root) and (own := str(here.relative_to(root))) not in found:
            found.append(own)
        return found

    def _progress(self, total: int, before: int = 0) -> Callable[[int], None] | None:
        told = self._on_progress
        return None if told is None else lambda files: told(before + files, total)

    # Messages

    def _name(self, unlisted: str) -> None:
        """Report files that are not part of the snapshot, in a fixed order."""
        done, found = self._done, self._found
        for path, why in git.unlisted_directories(unlisted):
            done.leave_out(path, f"a directory that git can't read: {why}")
        for path in found.unstable:
            why = f"changed during each of {copy_files.ATTEMPTS} attempts to copy it; the last one counts"
            done.leave_out(path, why)
        for path, mode in sorted(found.special):
            done.leave_out(path, f"a {special_kind(mode)}: git keeps only files and links")
        for path in sorted(self._vanished - {special for special, _ in found.special}):
            done.leave_out(path, "vanished while the workspace was being filled")
        for path in sorted(path for path, mode in self._index.unmerged.items() if mode != "160000"):
            done.leave_out(path, "in conflict: git commits no such file; it is as on disk")
        for path in self._index.runtime:
            done.leave_out(path, "tracked where the record of runs is shown: never part of a snapshot")

    def _refuse_unreadable(self, found: copy_files.Findings) -> None:
        if not found.denied:
            return
        denied = dict(sorted(found.denied))
        lines = (f"{readable(self._done.prefix + path)}: {os.strerror(number)}" for path, number in denied.items())
        raise SnapshotError(
            f"{self._source.root}: {counted(len(denied), 'file')} can't be read:\n"
            + "\n".join(f"  {line}" for line in listed(lines, _NAMED)),
            hint="make them readable (chmod u+r), or let .gitignore name them if CI does not need them",
            code="SOURCE_UNREADABLE",
        )

    def _refuse_links(self, found: copy_files.Findings) -> None:
        if found.no_links:
            named = ", ".join(listed((readable(self._done.prefix + path) for path in found.no_links), _NAMED))
            raise SnapshotError(
                f"{self._source.root}: tracked as a link, and the file that stands for it (core.symlinks=false) holds what "
                f"no link can lead to: {named}",
                hint="restore it (git checkout -- FILE), or commit it as a file; no checkout could lay this out",
                code="SOURCE_LINK_INVALID",
            )

    def _lay_out_hidden(self, index: Index) -> None:
        source, own = self._source, self._git_dir / "index"
        if index.pinned_empty:
            here = self._proof.here(index=own)
            for path, tag in contents.drop_intended(index, here, self._target, "0" * len(source.head_sha)):
                self._done.leave_out(path, f"intended to be added, but {pin_name(tag)} hides it from git")
        # Files pass the user's filters, as in a checkout; these may need the source's git directory.
        kept = [(key, value) for key, value in self._done.rules.config if not key.startswith("filter.")]
        lfs = [("filter.lfs.required", "false"), *((f"filter.lfs.{key}", "") for key in ("clean", "smudge", "process"))]
        if source.repository.trusted:
            drivers = [(key, values[-1]) for key, values in source.config.items() if key.startswith("filter.")]
            lfs = [*as_under_git(source.repository, drivers, elsewhere=True), *lfs]
        there = git.environment_for(
            source.environment,
            keep_config=True,
            repository=source.repository,
            work_tree=self._target,
            index=own,
            objects=self._git_dir / "objects",
            alternates=(source.objects_dir,),
            config=[*kept, *lfs, *layout.AS_LAID_OUT],
        )
        paths = [path for path, _ in index.pinned]
        try:
            contents.lay_out_hidden(paths, there, self._target, source, umask=self._umask)
        except git.GitFailed as error:
            self._proof.give_up_filters(error)
            there = git.with_config(there, filters.without(source.config))
            contents.lay_out_hidden(paths, there, self._target, source, umask=self._umask)
        for path, tag in index.pinned:
            status = lstat(self._target / path)
            self._done.files += 1
            self._done.bytes += status.st_size if status else 0
            if not same_content(source.root / path, self._target / path):
                why = f"edits on disk ({pin_name(tag)} hides them from git): the staged content is laid out"
                self._done.leave_out(path, why)

    def _nested(self, index: Index, repositories: list[str], edits: tree.IndexEdits) -> None:
        """Capture submodules with their own work; other nested repositories become the empty directories of a CI checkout."""
        for path, tracked in [*((path, True) for path in index.gitlinks), *((path, False) for path in repositories)]:
            nested = contents.decide(self._source, path, index, lambda: self._submodule_names, tracked=tracked)
            if (clone := self._source.clone) is not None and tracked:
                nested = contents.cloned(nested, path, clone, self._submodule_names)
            if nested.directory:
                with directory_in(self._target, path, umask=self._umask):
                    pass  # a link that the index hides can't be in its way
            elif tracked:
                edits.removed.append(path)
            if nested.reason is not None:
                self._done.leave_out(path, nested.reason)
            if nested.commit is not None:
                edits.gitlinks.append((path, nested.commit))
            if nested.inner is not None and nested.name is not None:
                self._submodule(path, nested.inner, nested.name)

    @cached_property
    def _submodule_names(self) -> Mapping[str, str]:
        # From the index: a sparse checkout may hide the source's, and ignore rules may exclude it.
        return contents.submodule_names(self._target / ".gitmodules", self._source)

    def _submodule(self, path: str, inner: Source, name: str) -> None:
        prefix = f"{self._done.prefix}{path}/"
        git_dir = self._git_dir / "modules" / contents.module_directory(name, self._module_directories)
        target, outermost, may_borrow = self._target / path, self._outermost, self._may_borrow
        if (clone := self._source.clone) is not None:
            inner = as_cloned(inner, clone.clone_of_submodule(), ())
        filled = _Filling(
            inner, target, git_dir, prefix, outermost, self._cancel, self._on_progress, may_borrow, self._umask
        ).run()
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
        self._done.stores += filled.stores
        self._done.files += filled.files
        self._done.bytes += filled.bytes
