"""Job artifacts: collect them from the workspace view, store them in the record, restore them.

`restore` reverses `collect`; the archive between them is also what people download. Jobs write the collected files, so
names and links are untrusted (rules: `storage.workspace`).
"""

from __future__ import annotations

import errno
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Generic, TypeVar, cast

from loom.errors import ArtifactError
from loom.plan.model import Artifacts
from loom.status import OnOutput
from loom.storage import tar, zips
from loom.storage.packing import leads_out, packing
from loom.storage.reports import UnreadableReport
from loom.storage.selection import PathSelection, UnsafePath
from loom.storage.tar import Content, DamagedArchive, Item, TarEntry, read
from loom.storage.unpacking import Totals, UnsafeArchive, checked, unpack_items
from loom.storage.workspace import Skipped, WorkspaceView
from loom.util import atomic
from loom.util.digests import Hashed, file_digest
from loom.util.masking import Masker
from loom.util.paths import Tracked
from loom.util.units import counted, rough_size
from loom.util.untrusted_files import open_regular
from loom.values import Immutable

T = TypeVar("T")

_CHUNK = 1 << 20
_GZIP_LEVEL = 1  # a run waits for it; level 6 takes four times as long to save a tenth


class Collected(Immutable):
    """A stored archive. `files` includes links; `bytes` is the content's size, `archive_bytes` the archive's."""

    files: int
    bytes: int
    archive_bytes: int
    sha256: str
    missing: tuple[str, ...] = ()
    """Patterns without a match."""
    skipped: tuple[Skipped, ...] = ()
    """Requested files that were left out: sockets, unreadable files, files with secrets."""
    links_out: tuple[str, ...] = ()
    """Links that point outside the workspace; stored as links."""


class ReadReports(Immutable, Generic[T]):
    """The reports of one kind that a job left; `problems` lists unreadable ones with the reason."""

    read: tuple[T, ...]
    missing: tuple[str, ...]
    """Patterns without a match."""
    problems: tuple[str, ...]


def collect(
    spec: Artifacts,
    view: WorkspaceView,
    *,
    archive: Path,
    on_output: OnOutput,
    masker: Masker | None = None,
    tracked: Tracked | None = None,
) -> Collected:
    """Store the files of `spec` in `archive` (tar, gzip), atomically. `tracked`: also all that is not among these.

    An empty result is no error. A file with a secret (found by `masker`) is left out. ArtifactError for a pattern outside
    the workspace, an unreadable view or an unwritable record; nothing remains then.
    """
    selection = _selection(spec, tracked)
    skipped: list[Skipped] = []
    held, links_out = Totals(), list[str]()

    def chosen() -> Iterator[Item]:
        for entry, content in packing(view, selection, held, skipped, masker):
            if leads_out(entry):
                links_out.append(entry.path)
            yield entry, content

    with _as_artifact_error("keep the artifacts"):
        archive.parent.mkdir(parents=True, exist_ok=True)
    with _as_artifact_error("keep the artifacts"), atomic.replacing(archive) as draft, draft.open("wb") as file:
        hashed = Hashed(file)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=hashed, mtime=0) as packed:
            packed.writelines(tar.packed(chosen()))
        result = Collected(
            files=held.files,
            bytes=held.bytes,
            archive_bytes=hashed.size,
            sha256=hashed.digest.hexdigest(),
            missing=selection.missing,
            skipped=tuple(skipped),
            links_out=tuple(links_out),
        )
        for line in _summary_lines(result):
            on_output("stdout", line.encode("utf-8", "surrogateescape") + b"\n")
    return result


def restore(archives: Mapping[Path, str | None], view: WorkspaceView) -> Sequence[Totals]:
    """Unpack archives into a job's view, in order: later files win. ArtifactError for another SHA-256, and unsafe entries."""
    with _as_artifact_error("restore the artifacts", next(iter(archives)) if len(archives) == 1 else None):
        return view.write(*(partial(_verified, *each) for each in archives.items())) if archives else ()


@contextmanager
def _verified(archive: Path, sha256: str | None) -> Iterator[IO[bytes]]:
    with _as_artifact_error("restore the artifacts", archive):
        if sha256 is not None and file_digest(archive) != sha256:
            raise ArtifactError(
                f"{archive} is not what the job left: its checksum differs from the record's",
                hint="Run the job that makes it again.",
                code="ARTIFACT_UNREADABLE",
            )
        with _opened(archive) as packed:
            yield packed


def index_of(archive: Path) -> list[TarEntry]:
    """List an archive's entries except directories. ArtifactError for a damaged or unsafe one."""
    with _as_artifact_error("read the artifacts", archive), _items(archive) as items:
        held = [entry for entry, _ in checked(items) if entry.kind != "directory"]
    return sorted(held, key=lambda file: file.path)


def fetch(archive: Path, folder: Path) -> Totals:
    """Unpack an archive below `folder`, creating it if needed. ArtifactError as for `restore`."""
    with _as_artifact_error("fetch the artifacts", archive), _items(archive) as items:
        folder.mkdir(parents=True, exist_ok=True)
        return unpack_items(checked(items), folder)


def read_reports(patterns: Iterable[str], view: WorkspaceView, read: Callable[[Content, str], T]) -> ReadReports[T]:
    """Read a job's reports, each by its file and path. An unreadable one is a problem in the result, never an error."""
    selection = _selection(Artifacts(paths=tuple(patterns)))
    found: list[T] = []
    skipped: list[Skipped] = []
    problems: list[str] = []
    with _as_artifact_error("read the reports"):
        for entry, file in view.read(selection, skipped.append):
            if file is None:
                continue
            try:
                found.append(read(file, entry.path))
            except UnreadableReport as error:
                problems.append(f"{entry.path}: {error}")
    problems += [f"{item.path}: {item.reason}" for item in skipped]
    return ReadReports(read=tuple(found), missing=selection.missing, problems=tuple(problems))


def _selection(spec: Artifacts, beyond: Tracked | None = None) -> PathSelection:
    try:
        return PathSelection(spec.paths, spec.exclude, beyond, exclude_alone=spec.exclude_alone)
    except UnsafePath as error:
        raise ArtifactError(
            f"artifacts: {error}",
            hint="Name paths inside of the workspace, such as `build/` or `**/*.xml`.",
            code="ARTIFACT_PATH_INVALID",
        ) from error


@contextmanager
def _as_artifact_error(what: str, archive: Path | None = None) -> Iterator[None]:
    """Convert foreign exceptions to ArtifactError."""
    try:
        yield
    except UnsafeArchive as error:
        where = f"{archive}: " if archive else ""
        raise ArtifactError(
            f"can't {what}: {where}{error}",
            hint="Nothing outside of the workspace was touched.",
            code="ARTIFACT_UNSAFE",
        ) from error
    except (DamagedArchive, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ArtifactError(
            f"can't {what}: {archive or 'the archive'} is damaged ({error})", code="ARTIFACT_UNREADABLE"
        ) from error
    except OSError as error:
        path = f"{error.filename}: " if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"can't {what}: {path}the disk is full",
                hint="`loom clean` removes old runs; LOOM_STATE_DIR and LOOM_TMP_DIR name directories on another disk",
                code="ARTIFACT_NO_SPACE",
            ) from error
        raise ArtifactError(f"can't {what}: {path}{error.strerror or error}") from error


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    """Open a regular file; OSError for others (reading a FIFO would block)."""
    with open_regular(archive) as file, gzip.GzipFile(fileobj=file, mode="rb") as packed:
        yield cast(IO[bytes], packed)


@contextmanager
def _items(archive: Path) -> Iterator[Iterable[Item]]:
    """Open the archive of a job, or a zip file that one of its actions uploaded."""
    if archive.suffix == ".zip":
        with open_regular(archive) as file:
            yield zips.items(file)
        return
    with _opened(archive) as packed:
        yield read(packed)


def _summary_lines(result: Collected) -> Iterator[str]:
    yield f"{counted(result.files, 'file')}, {rough_size(result.bytes)} kept ({rough_size(result.archive_bytes)} packed)"
    for pattern in result.missing:
        yield f"warning: nothing found for {pattern}"
    for item in result.skipped:
        yield f"warning: {item.path} left out: {item.reason}"
    for path in result.links_out:
        yield f"warning: {path} is a link out of the workspace; kept as a link, what it points to is not"
