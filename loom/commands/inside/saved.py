"""What a kept job's files differ in from their snapshot, saved in the record before anything touches the place.

One archive for each job, for the user alone: an index of all changes, and the files that were added or changed. `loom
pull` reads it when the place is gone. A patch can't say everything (links, modes, large files); an archive can.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec import Struct

from loom import snapshot
from loom.commands.inside import session
from loom.commands.project import Here
from loom.errors import RecordError, RequestError
from loom.plan.model import MountMode
from loom.providers.files import archive_of, pack, packed, renamed, unpack_file
from loom.runner.previous_run import PastJob
from loom.snapshot import Change, Verification, readable
from loom.util.units import rough_size
from loom.util.untrusted_files import read_regular

LARGEST_FILE = 100_000_000
MOST_BYTES = 1_000_000_000
"""How much of a place is saved at most, and of one file; what is larger is named."""
_INDEX = "changes.json"
_FILES = "files"
_GITLINK = "160000"


class ArchiveIndex(Struct, frozen=True, kw_only=True):
    """The first member of the archive. Its paths are in hexadecimal: names need not be text."""

    schema_version: str = "loom.saved.v1"
    saved_at: float
    tree_sha: str
    changes: list[Change]
    left_out: list[tuple[str, str]]
    """(path, reason) of what is not in the archive."""


class Saved(Struct, frozen=True, kw_only=True):
    files: Path
    """A directory with the files that were added or changed, and no others."""
    changes: tuple[Change, ...]
    left_out: tuple[tuple[str, str], ...]


def save(here: Here, job: PastJob) -> None:
    """Save what the files of a kept job differ in from its snapshot, as they are now; what can't be saved is named.

    Called before a place is adopted, restored over, abandoned or removed. A caller that removes the place leaves it where
    this fails; one that goes on in it names the failure. Nothing is saved of a job without files, nor of
    a layer that nobody changed since the job was kept and that can't be read without a copy of all its files.
    ProviderError, RecordError or SnapshotError when there is something and it could not be saved.
    """
    if job.job.no_checkout:
        return  # no snapshot to differ from
    left_out: dict[str, str] = {}
    try:
        files = session.view_now(here, job)
        if files is None and _untouched(job):
            return
        files = files or session.files_of(here, job, left_out)
    except RequestError as error:
        if error.code == "NOTHING_KEPT":
            return
        raise
    manifest = job.manifest
    found = snapshot.verify(files, environ=here.environ, manifest_file=manifest if manifest.exists() else None)
    save_changes(found, job.run.entry.paths.saved(job.job.id), left_out)


def _untouched(job: PastJob) -> bool:
    """Whether an overlay's layer is as the steps left it. A layer of another user may not be visible, so it is unknown."""
    view, kept_at = job.view, job.kept.get("kept_at")
    if view is None or view.mode is not MountMode.OVERLAY or kept_at is None or not job.ran_as_root:
        return False
    return not snapshot.edited_since(view.place.parent / "upper", datetime.fromisoformat(kept_at).timestamp())


def save_changes(found: Verification, target: Path, without: dict[str, str]) -> None:
    """Write the archive. `without`: paths that the directory is missing since they could not be copied into it."""
    left_out = {**without, **{path: f"a {kind}, not a file" for path, kind in found.special}, **dict(found.unreadable)}
    total = 0
    changes, paths = [], []
    for change in found.changes:
        if change.path in left_out:
            continue
        changes.append(change)
        if change.kind == "deleted":
            continue
        if change.mode == _GITLINK:
            left_out[change.path] = "a repository of its own"
            continue
        size = (found.workspace / change.path).lstat().st_size
        if size > LARGEST_FILE or total + size > MOST_BYTES:
            limits = f"{rough_size(LARGEST_FILE)} of a file, {rough_size(MOST_BYTES)} in all"
            left_out[change.path] = f"{rough_size(size)}; saved are at most {limits}"
            _note(f"not saved in the record: {readable(change.path)} ({left_out[change.path]})")
            continue
        total += size
        paths.append(change.path)
    index = ArchiveIndex(
        saved_at=time.time(),
        tree_sha=found.tree_sha,
        changes=[_renamed(change, _hex(change.path)) for change in changes if change.path not in left_out],
        left_out=[(_hex(path), reason) for path, reason in left_out.items()],
    )
    data = msgspec.json.encode(index)
    member = tarfile.TarInfo(_INDEX)
    member.size, member.mode = len(data), 0o600
    files = archive_of(found.workspace, paths, change=_below_files)
    try:
        pack(renamed([("", packed([(member, io.BytesIO(data))])), ("", files)]), target)
    except OSError as error:
        raise RecordError(f"the changes could not be saved in {target}: {error.strerror or error}") from error


@contextmanager
def opened(job: PastJob) -> Iterator[Saved | None]:
    """Unpack what was saved of a job, until the block is left; None when nothing was. RecordError for a damaged archive."""
    archive = job.run.entry.paths.saved(job.job.id)
    if not archive.exists():
        yield None
        return
    with TemporaryDirectory(prefix="loom-saved-") as scratch:
        place = Path(scratch)
        unpack_file(archive, place)
        try:
            index = msgspec.json.decode(read_regular(place / _INDEX), type=ArchiveIndex)
            changes = tuple(_renamed(change, _inside(_text(change.path))) for change in index.changes)
            left_out = tuple((_text(path), reason) for path, reason in index.left_out)
        except (OSError, ValueError) as error:
            raise RecordError(f"{archive} can't be read: {error}") from error
        (place / _FILES).mkdir(exist_ok=True)
        yield Saved(files=place / _FILES, changes=changes, left_out=left_out)


def _below_files(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.name = f"{_FILES}/{member.name}"
    if member.islnk():
        member.linkname = f"{_FILES}/{member.linkname}"
    return member


def _renamed(change: Change, path: str) -> Change:
    return msgspec.structs.replace(change, path=path)


def _hex(path: str) -> str:
    return os.fsencode(path).hex()


def _text(encoded: str) -> str:
    return os.fsdecode(bytes.fromhex(encoded))


def _inside(path: str) -> str:
    """ValueError for a path that leads out of a workspace, or into its git directory."""
    if path.startswith("/") or not {"", ".", "..", ".git"}.isdisjoint(path.split("/")):
        raise ValueError(f"{path!r} is not the path of a file")
    return path


def _note(text: str) -> None:
    print(f"loom: {text}", file=sys.stderr)
