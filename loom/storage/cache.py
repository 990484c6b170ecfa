"""Jobs' caches: a content-addressed store in the user's cache folder, shared by checkouts and by many looms at once.

    <folder>/entries/<project>[-protected]/<id>.json   what a key stands for; its mtime is when it was last used
    <folder>/blobs/<ab>/<sha256>.tar.zst   the archives; several entries may share one
    <folder>/tmp/                          what is being written; what a killed loom left there goes at the next restore
    <folder>/lock                          held while entries and blobs change, never while anything is packed

A cache is help, not input: nothing here raises because the store is broken. What went wrong is a warning in the result,
and the job goes on as if there had been no cache. `CacheError` is for the command line, where the store is the subject.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, cast

import msgspec
import zstandard
from msgspec import Struct
from msgspec.structs import replace

from loom.errors import CacheError
from loom.plan.model import Cache as Spec
from loom.status import OnOutput
from loom.storage import tar
from loom.storage.bucket import Bucket
from loom.storage.cache_keys import selection_of
from loom.storage.packing import packing
from loom.storage.tar import DamagedArchive, Item, TarEntry
from loom.storage.unpacking import Totals, UnsafeArchive
from loom.storage.workspace import DirectoryView, Skipped, WorkspaceView
from loom.util import atomic, processes
from loom.util import untrusted_files as files
from loom.util.digests import Hashed, digest_of
from loom.util.masking import Masker
from loom.util.paths import Tracked
from loom.util.private import check_private, make_private
from loom.util.units import counted, rough_size
from loom.values import Immutable

Hit = Literal["exact", "fallback", "miss"]

_SCHEMA = 2
_LARGEST_ENTRY = 1 << 24
_LEVEL = 1
_MOST_LISTED = 1000
"""The number of a bucket's entries that are examined for a fallback key."""
_CHUNK = 1 << 20
_SECOND = 1_000_000_000
_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder holds loom's caches; backups may leave it out.\n"


class RestoreResult(Immutable):
    """`key` is the matched key ("" for a miss), `bytes` the unpacked size."""

    hit: Hit
    key: str = ""
    files: int = 0
    bytes: int = 0
    packed_bytes: int = 0
    warning: str | None = None


class SaveResult(Immutable):
    """`saved` is False when the store already has the content (`unchanged`) or could not accept it (`warning`)."""

    key: str
    saved: bool = False
    unchanged: bool = False
    files: int = 0
    bytes: int = 0
    packed_bytes: int = 0
    skipped: tuple[Skipped, ...] = ()
    warning: str | None = None


class Stored(Immutable):
    """An entry of the store, as its file has it. Times in seconds since the epoch."""

    schema: int = _SCHEMA
    id: str
    used_at: float
    """Read back from the time of the file, which a restore sets."""
    project: str
    key: str
    paths: tuple[str, ...]
    blob: str
    files: int
    bytes: int
    packed_bytes: int
    created_at: float
    protected: bool = False
    """Saved by a run on a protected branch; only such runs write these."""
    by_key: bool = False
    """The key alone names the entry; otherwise its paths do too."""
    trees: tuple[str, ...] = ()
    """Fingerprints of the packed tree: as it was, and as it is after a restore."""


class Cache(Struct):
    """A user's store, seen from one project. Safe for threads and processes.

    `protected`: the run is on a protected branch. It reads and writes only entries of such runs; other runs read both
    kinds and write their own.
    """

    folder: Path
    max_size: int
    project: str
    clock: Callable[[], float]
    protected: bool = False
    bucket: Bucket | None = None
    """Holds entries and archives under the names that they have in the folder, for other machines too."""

    def restore(self, spec: Spec, key: str, view: WorkspaceView, on_output: OnOutput) -> RestoreResult:
        """Unpack the entry for `key`, or the newest that one of `spec.fallback_keys` means."""
        _, result = self._used(spec, key, lambda entry, hit: self._unpack(entry, hit, view))
        _say(on_output, _restored_lines(result, key))
        return result

    def _used(
        self, spec: Spec, key: str, use: Callable[[Stored, Hit], RestoreResult]
    ) -> tuple[Stored | None, RestoreResult]:
        """Return the first entry that can be used, and what came of it."""
        warnings: list[str] = []
        found, result = None, RestoreResult(hit="miss")
        self._bring(spec, key, warnings)
        for entry, hit in self._candidates(spec, key, warnings):
            try:
                result = use(entry, hit)
                found = entry
                break
            except _Corrupt as error:
                warnings.append(f"the cache entry {entry.key!r} was removed: {error}")
                with suppress(OSError), self._locked():
                    self._drop([entry], self._all())
            except FileNotFoundError:
                continue  # another process evicted it first
            except (UnsafeArchive, OSError) as error:
                warnings.append(f"the cache entry {entry.key!r} can't be restored: {_reason(error)}")
                break
        return found, replace(result, warning="; ".join(warnings) or None)

    def save(
        self,
        spec: Spec,
        key: str,
        view: WorkspaceView,
        on_output: OnOutput,
        *,
        masker: Masker | None = None,
        tracked: Tracked | None = None,
    ) -> SaveResult:
        """Store the files of `spec` under `key`; `tracked`: also all that is not among these.

        Files in which `masker` finds a secret are left out."""
        skipped: list[Skipped] = []
        try:
            result = self._save(spec, key, view, skipped, masker, tracked)
        except (OSError, DamagedArchive, UnsafeArchive) as error:
            result = SaveResult(key=key, warning=f"the cache {key!r} can't be saved: {_reason(error)}")
        result = replace(result, skipped=tuple(skipped))
        if self.bucket is not None and (result.saved or result.unchanged):
            result = self._share(spec, key, result, self.bucket)
        _say(on_output, _saved_lines(result))
        return result

    def _save(
        self,
        spec: Spec,
        key: str,
        view: WorkspaceView,
        skipped: list[Skipped],
        masker: Masker | None,
        tracked: Tracked | None,
    ) -> SaveResult:
        selection = selection_of(spec.paths, tracked)
        check_private(self.folder)
        trees: tuple[str, ...] = ()
        if isinstance(view, DirectoryView):
            trees = _fingerprints(view.entries(selection, lambda _: None))
            same = next((entry for entry in self._there(spec, key) if trees[0] in entry.trees), None)
            if same is not None:
                self._touch(same)
                return SaveResult(key=key, unchanged=True, files=same.files, bytes=same.bytes)
        with self._draft() as file:
            held = Totals()
            hashed = _pack(packing(view, selection, held, skipped, masker), file)
            if not held.files:
                why = "all of it was left out" if skipped else f"none of {', '.join(spec.content)} is there"
                return SaveResult(key=key, warning=f"nothing to save for {key!r}: {why}")
            return self._published(spec, key, held, hashed, file.name, trees if not skipped else ())

    def find(self, spec: Spec, key: str) -> tuple[Stored | None, RestoreResult]:
        """Return the entry that `restore` would unpack, for callers that read its archive with `open`."""
        return self._used(spec, key, self._whole)

    def _whole(self, entry: Stored, hit: Hit) -> RestoreResult:
        if (damage := _damage_of(self._blob_path(entry.blob), entry.blob)) is not None:
            raise _Corrupt(damage)
        self._touch(entry)
        return RestoreResult(hit=hit, key=entry.key, bytes=entry.packed_bytes, packed_bytes=entry.packed_bytes)

    def open(self, blob: str) -> IO[bytes]:
        """Open the archive of an entry; OSError if it is gone."""
        return files.open_regular(self._blob_path(blob))

    def has(self, spec: Spec, key: str) -> bool:
        """Return whether this run's own namespace has an entry for exactly this key."""
        entry = self._read(self._paths(spec, key)[0])
        return entry is not None and self._blob_path(entry.blob).exists()

    def take(self, spec: Spec, key: str, archive: IO[bytes]) -> SaveResult:
        """Store an archive that somebody else made, as it is."""
        try:
            check_private(self.folder)
            with self._draft() as file:
                hashed = Hashed(file)
                shutil.copyfileobj(archive, hashed, _CHUNK)
                file.flush()
                result = self._published(spec, key, Totals(files=1, bytes=hashed.size), hashed, file.name)
        except OSError as error:
            return SaveResult(key=key, warning=f"the cache {key!r} can't be saved: {_reason(error)}")
        if result.warning is not None:
            return result
        result = replace(result, saved=True, unchanged=False)
        return result if self.bucket is None else self._share(spec, key, result, self.bucket)

    def _unpack(self, entry: Stored, hit: Hit, view: WorkspaceView) -> RestoreResult:
        with files.open_regular(self._blob_path(entry.blob)) as blob:
            if digest_of(blob).hexdigest() != entry.blob:
                raise _Corrupt("its checksum is wrong")

            def unpacked() -> IO[bytes]:
                # Use the open file: it survives eviction by another process.
                blob.seek(0)
                return cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(blob, _CHUNK, closefd=False))

            try:
                [written] = view.write(unpacked)
            except (DamagedArchive, zstandard.ZstdError, EOFError) as error:
                raise _Corrupt(str(error)) from error
        self._touch(entry)
        return RestoreResult(
            hit=hit, key=entry.key, files=written.files, bytes=written.bytes, packed_bytes=entry.packed_bytes
        )

    def _candidates(self, spec: Spec, key: str, warnings: list[str]) -> Iterator[tuple[Stored, Hit]]:
        try:
            check_private(self.folder)
        except OSError as error:
            warnings.append(f"the cache can't be used: {_reason(error)}")
            return
        self._sweep_unfinished()
        exact = self._exact(spec, key)
        yield from ((entry, "exact") for entry in exact)
        others: list[Stored] | None = None
        for fallback in spec.fallback_keys:
            if others is None:
                everything = (entry for folder in self._folders for entry in self._entries_in(folder))
                others = sorted(everything, key=lambda entry: -entry.created_at)
            for entry in others:
                if _falls_back(spec, fallback, entry) and entry not in exact:
                    yield entry, "fallback"

    def _exact(self, spec: Spec, key: str) -> list[Stored]:
        return [entry for path in self._paths(spec, key) if (entry := self._read(path)) is not None]

    @property
    def _folders(self) -> list[Path]:
        """Return the folders of the entries that this run may read, its own first."""
        return [self._folder(self.project, protected) for protected in ((True,) if self.protected else (False, True))]

    def _paths(self, spec: Spec, key: str) -> list[Path]:
        """Return the possible paths of the key's entry, one in each of `_folders`."""
        return [folder / f"{self._identity(spec, key)}.json" for folder in self._folders]

    # The bucket: read before the folder, and given the entries that the folder gets

    def _bring(self, spec: Spec, key: str, warnings: list[str]) -> None:
        """Download the entry that a restore would take from the bucket, unless the folder has one that is as new."""
        if self.bucket is None:
            return
        try:
            wanted = self._wanted(spec, key, self.bucket)
            here = self._read(self._path_of(wanted)) if wanted is not None else None
            if wanted is None or (here is not None and here.created_at >= wanted.created_at):
                return
            if wanted.packed_bytes > self.max_size:
                warnings.append(f"{wanted.key!r} in the bucket takes {self._too_large(wanted.packed_bytes)}")
                return
            with self._draft() as file:
                self.bucket.download(self._name(self._blob_path(wanted.blob)), Path(file.name))
                if (damage := _damage_of(Path(file.name), wanted.blob)) is not None:
                    warnings.append(f"{wanted.key!r} in the bucket is not used: {damage}")
                    return
                with self._locked():
                    self._publish(wanted, file.name)
        except (CacheError, OSError) as error:
            warnings.append(_reason(error))

    def _wanted(self, spec: Spec, key: str, bucket: Bucket) -> Stored | None:
        """Return the bucket's entry for `key`, else its newest one for a fallback key, if the folder has none for `key`."""
        exact = self._entries_of(bucket, self._paths(spec, key))
        if exact or self._exact(spec, key) or not spec.fallback_keys:
            return exact[0] if exact else None
        names = [name for folder in self._folders for name in bucket.names(self._name(folder))]
        entries = self._entries_of(bucket, [self.folder / name for name in names[:_MOST_LISTED]])
        for fallback in spec.fallback_keys:
            found = [entry for entry in entries if _falls_back(spec, fallback, entry)]
            if found:
                return max(found, key=lambda entry: entry.created_at)
        return None

    def _entries_of(self, bucket: Bucket, paths: Sequence[Path]) -> list[Stored]:
        content = bucket.read([self._name(path) for path in paths])
        found = [self._parsed(path, content.get(self._name(path), b""), self.clock()) for path in paths]
        return [entry for entry in found if entry is not None]

    def _share(self, spec: Spec, key: str, result: SaveResult, bucket: Bucket) -> SaveResult:
        """Store the folder's entry in the bucket, its archive first."""
        path = self._paths(spec, key)[0]
        try:
            if (entry := self._read(path)) is not None:
                bucket.upload(self._blob_path(entry.blob), self._name(self._blob_path(entry.blob)))
                bucket.write(self._name(path), files.read_regular(path))
        except (CacheError, OSError) as error:
            return replace(result, warning=_reason(error))
        return result

    def _too_large(self, size: int) -> str:
        return f"{rough_size(size)}, more than the limit of {rough_size(self.max_size)} for all (cache_max_size)"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    # For the command line

    def entries(self) -> list[Stored]:
        """List every entry of every project, last used first. CacheError when the store can't be read."""
        with self._raising():
            return self._all()

    def _all(self) -> list[Stored]:
        root = self.folder / "entries"
        found = [entry for path in (root.iterdir() if root.exists() else ()) for entry in self._entries_in(path)]
        return sorted(found, key=lambda entry: (-entry.used_at, entry.key))

    def remove(self, entries: Sequence[Stored]) -> int:
        """Remove entries, and what killed processes have left; return the freed bytes."""
        with self._raising(), self._locked():
            stray = {path.name.removesuffix(".tar.zst") for path in (self.folder / "blobs").glob("*/*")}
            return self._drop(entries, self._all(), orphans=stray) + self._sweep_unfinished()

    @contextmanager
    def _raising(self) -> Iterator[None]:
        try:
            check_private(self.folder)
            yield
        except OSError as error:
            raise CacheError(
                f"the cache in {self.folder} can't be used: {_reason(error)}",
                hint="`loom config show cache_dir` says where it is.",
            ) from error

    # Files

    def _identity(self, spec: Spec, key: str) -> str:
        return _id(self.project, key, () if spec.by_key else spec.content)

    def _folder(self, project: str, protected: bool) -> Path:
        name = hashlib.sha256(project.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self.folder / "entries" / (f"{name}-protected" if protected else name)

    def _path_of(self, entry: Stored) -> Path:
        return self._folder(entry.project, entry.protected) / f"{entry.id}.json"

    def _blob_path(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256[:2] / f"{sha256}.tar.zst"

    def _entries_in(self, folder: Path) -> list[Stored]:
        try:
            paths = list(folder.glob("*.json"))
        except OSError:
            return []
        return [entry for path in paths if (entry := self._read(path)) is not None]

    def _read(self, path: Path) -> Stored | None:
        """Read an entry; None if it is missing, damaged, misplaced or of another version."""
        try:
            with files.open_regular(path) as file:
                return self._parsed(path, file.read(_LARGEST_ENTRY), os.fstat(file.fileno()).st_mtime)
        except OSError:
            return None

    def _parsed(self, path: Path, content: bytes, used_at: float) -> Stored | None:
        try:
            entry = replace(_DECODER.decode(content), used_at=used_at)
        except (ValueError, RecursionError):
            return None
        whole = entry.schema == _SCHEMA and re.fullmatch(r"[0-9a-f]{64}", entry.blob)
        named = entry.id == _id(entry.project, entry.key, () if entry.by_key else entry.paths)
        return entry if whole and named and self._path_of(entry) == path else None

    @contextmanager
    def _draft(self) -> Iterator[Any]:
        """Create a file that is removed at the end unless renamed; locked, so that a sweep knows that its writer lives."""
        make_private(self.folder)
        (self.folder / "tmp").mkdir(exist_ok=True)
        if not (self.folder / "CACHEDIR.TAG").exists():
            (self.folder / "CACHEDIR.TAG").write_text(_TAG)
        with tempfile.NamedTemporaryFile(dir=self.folder / "tmp", delete=False) as file:
            try:
                processes.lock(file, fcntl.LOCK_EX)
                yield file
            finally:
                with suppress(OSError):
                    Path(file.name).unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        make_private(self.folder)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            processes.lock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _there(self, spec: Spec, key: str) -> list[Stored]:
        """Return the entries for this key that have their archive."""
        return [entry for entry in self._exact(spec, key) if self._blob_path(entry.blob).exists()]

    def _published(
        self, spec: Spec, key: str, held: Totals, hashed: Hashed, written: str, trees: tuple[str, ...] = ()
    ) -> SaveResult:
        """Store the archive in the file `written` for this key."""
        if hashed.size > self.max_size:
            return SaveResult(key=key, warning=f"the cache {key!r} takes {self._too_large(hashed.size)}")
        blob = hashed.digest.hexdigest()
        unchanged = any(entry.blob == blob for entry in self._there(spec, key))
        now = self.clock()
        entry = Stored(
            id=self._identity(spec, key),
            project=self.project,
            key=key,
            paths=spec.content,
            blob=blob,
            files=held.files,
            bytes=held.bytes,
            packed_bytes=hashed.size,
            created_at=now,
            used_at=now,
            protected=self.protected,
            by_key=spec.by_key,
            trees=trees,
        )
        with self._locked():
            self._publish(entry, written)
        return SaveResult(
            key=key,
            saved=not unchanged,
            unchanged=unchanged,
            files=held.files,
            bytes=held.bytes,
            packed_bytes=hashed.size,
        )

    def _publish(self, entry: Stored, written: str) -> None:
        """Write, with the lock held, the archive, then the entry that refers to it; keep the store within its limit."""
        blob = self._blob_path(entry.blob)
        blob.parent.mkdir(parents=True, exist_ok=True)
        Path(written).replace(blob)
        path = self._path_of(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        replaced = self._read(path)
        with atomic.replacing(path, drafts=self.folder / "tmp") as draft:
            draft.write_bytes(msgspec.json.encode(entry))
            os.utime(draft, (entry.used_at, entry.used_at))
        entries = self._all()
        newest = [one for one in entries if one.id == entry.id]
        over = _exceeding(newest + [one for one in entries if one.id != entry.id], self.max_size)
        self._drop(over, entries, orphans={replaced.blob} if replaced is not None else set())

    def _touch(self, entry: Stored) -> None:
        now = self.clock()
        with suppress(OSError):  # a read-only store
            os.utime(self._path_of(entry), (now, now))

    def _drop(self, gone: Sequence[Stored], entries: Sequence[Stored], *, orphans: Set[str] = frozenset()) -> int:
        """Remove, with the lock held, `gone`, and their archives and `orphans` unless others of `entries`, which are all,
        use them; return the freed bytes.
        """
        paths = {self._path_of(entry) for entry in gone}
        for path in paths:
            path.unlink(missing_ok=True)
        used = {entry.blob for entry in entries if self._path_of(entry) not in paths}
        freed = 0
        for blob in ({entry.blob for entry in gone} | orphans) - used:
            path = self._blob_path(blob)
            with suppress(FileNotFoundError, IsADirectoryError):
                freed += path.stat().st_size
                path.unlink()
        return freed

    def _sweep_unfinished(self) -> int:
        """Remove remains of killed processes; return the freed bytes."""
        freed = 0
        for path in (self.folder / "tmp").glob("*"):
            with suppress(OSError), files.open_regular(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the writer holds the lock while it lives
                if path.stat().st_mtime > self.clock() - 60:
                    continue  # just created, perhaps not locked yet
                freed += path.stat().st_size
                path.unlink()
        return freed


class _Corrupt(Exception):
    pass


_DECODER = msgspec.json.Decoder(Stored)


def _id(project: str, key: str, paths: Sequence[str]) -> str:
    text = json.dumps([project, key, list(paths)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _falls_back(spec: Spec, fallback: str, entry: Stored) -> bool:
    """Return whether an entry is one that a fallback key of the cache means."""
    if spec.by_key:
        return entry.by_key and entry.key == fallback
    return bool(fallback) and not entry.by_key and entry.paths == spec.content and entry.key.startswith(fallback)


def _exceeding(entries: Sequence[Stored], max_size: int) -> list[Stored]:
    """Return the entries that exceed the limit, given the most valuable first; shared archives count once."""
    total, seen = 0, set[str]()
    over: list[Stored] = []
    for entry in entries:
        more = 0 if entry.blob in seen else entry.packed_bytes
        if over or total + more > max_size:
            over.append(entry)
        else:
            total += more
            seen.add(entry.blob)
    return over


def _damage_of(blob: Path, sha256: str) -> str | None:
    try:
        with files.open_regular(blob) as file:
            return None if digest_of(file).hexdigest() == sha256 else "the archive is damaged"
    except FileNotFoundError:
        return "the archive is missing"
    except OSError as error:
        return f"the archive can't be read: {_reason(error)}"


# Packing


def _pack(items: Iterable[Item], file: IO[bytes]) -> Hashed:
    hashed = Hashed(file)
    compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=-1, write_checksum=True)
    with compressor.stream_writer(hashed, write_size=_CHUNK, closefd=False) as stream:  # type: ignore[arg-type]
        for piece in tar.packed(items):
            stream.write(piece)
    file.flush()
    return hashed


def _fingerprints(entries: Iterable[TarEntry]) -> tuple[str, str]:
    """Fingerprint a tree: as it is, and as it will be after a restore (archives store whole seconds)."""
    now, later = hashlib.sha256(), hashlib.sha256()
    for entry in entries:
        line = f"{entry.path}\0{entry.kind}\0{entry.mode}\0{entry.size}\0{entry.target}\0"
        # A directory's time changes with its entries, which are included themselves.
        mtime = 0 if entry.kind == "directory" else entry.mtime_ns
        now.update(f"{line}{mtime}\n".encode("utf-8", "surrogateescape"))
        later.update(f"{line}{mtime // _SECOND * _SECOND}\n".encode("utf-8", "surrogateescape"))
    return now.hexdigest(), later.hexdigest()


# Messages


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return error.message if isinstance(error, CacheError) else str(error)
    path = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{path}the disk is full"
    return f"{path}{error.strerror or error}"


def _say(on_output: OnOutput, lines: Iterable[str]) -> None:
    for line in lines:
        on_output("stdout", line.encode("utf-8", "replace") + b"\n")


def _restored_lines(result: RestoreResult, key: str) -> Iterator[str]:
    if result.warning:
        yield f"warning: {result.warning}"
    if result.hit == "miss":
        yield f"cache miss: {key}"
        return
    what = f" by fallback: {result.key} for {key}" if result.hit == "fallback" else f": {key}"
    yield f"cache hit{what} ({counted(result.files, 'file')}, {rough_size(result.bytes)})"


def _saved_lines(result: SaveResult) -> Iterator[str]:
    for item in result.skipped:
        yield f"warning: {item.path} left out: {item.reason}"
    if result.warning:
        yield f"warning: {result.warning}"
    elif result.unchanged:
        yield f"cache unchanged: {result.key}"
    elif result.saved:
        packed = rough_size(result.packed_bytes)
        yield f"cache saved: {result.key} ({counted(result.files, 'file')}, {rough_size(result.bytes)}, packed {packed})"
