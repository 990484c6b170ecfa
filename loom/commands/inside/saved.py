"""Save the differences of a kept job's files from their snapshot in the record, for `loom pull` when the files are gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec
import zstandard

from loom import snapshot
from loom.commands.inside import session
from loom.commands.project import Project
from loom.errors import RecordError, RequestError
from loom.plan.model import MountMode
from loom.record.past_run import PastJob
from loom.snapshot import Change, Content, SavedFiles, Verification, readable
from loom.util import atomic, typed
from loom.util.jsons import map_texts
from loom.util.units import rough_size
from loom.util.untrusted_files import read_regular

LARGEST_FILE = 100_000_000
MOST_BYTES = 250_000_000
"""The limit for the saved files of a job together, and for one file; larger ones are only named."""


def save(project: Project, job: PastJob) -> list[str]:
    """Save what the files of a kept job differ in from its snapshot; return the paths of those changed since it was kept.

    Called before a session is adopted or removed. What can't be saved is named. Nothing is saved of a job without files, nor of
    a layer that nobody changed and that can't be read without a copy of all its files. ProviderError, RecordError or
    SnapshotError when there is something and it could not be saved.
    """
    if not job.has_snapshot:
        return []  # no snapshot to differ from
    left_out: dict[str, str] = {}
    try:
        files = session.view_now(project, job)
        if files is None and _untouched(job):
            return []
        view = job.view
        copied = files is None and not (view and view.mode is MountMode.BIND and session.may_enter(view.files))
        files = files or session.files_of(project, job, left_out)
    except RequestError as error:
        if error.code == "NOTHING_KEPT":
            return []
        raise
    manifest = job.manifest
    found = snapshot.verify(files, environ=project.environ, manifest_file=manifest if manifest.exists() else None)
    _write(job, found, left_out)
    since = job.kept_at
    return [] if since is None else list(snapshot.changed_since(found, since.timestamp(), copied=copied))


def _untouched(job: PastJob) -> bool:
    """Return whether an overlay's layer is as the steps left it; False where that is unknown: it may not be visible."""
    view, since = job.view, job.kept_at
    if view is None or view.mode is not MountMode.OVERLAY or since is None or not job.ran_as_root:
        return False
    return snapshot.is_untouched(view.files.parent / "upper", since.timestamp())


def _write(job: PastJob, found: Verification, without: dict[str, str]) -> None:
    """`without`: paths that the verified directory is missing since they could not be copied into it."""
    left_out = {**without, **{path: f"a {kind}, not a file" for path, kind in found.special}, **dict(found.unreadable)}
    total = 0
    files: list[tuple[Change, Content | None]] = []
    for change in found.changes:
        path, content = change.path, None
        if path in left_out:
            continue
        if change.kind != "deleted":
            if change.mode == "160000":
                left_out[path] = "a repository of its own"
                continue
            size = (found.workspace / path).lstat().st_size
            if size > LARGEST_FILE or total + size > MOST_BYTES:
                limits = f"{rough_size(LARGEST_FILE)} of a file, {rough_size(MOST_BYTES)} in all"
                left_out[path] = f"{rough_size(size)}; saved are at most {limits}"
                print(f"loom: not saved in the record: {readable(path)} ({left_out[path]})", file=sys.stderr)
                continue
            total += size
            content = snapshot.content_at(found.workspace, path)
        files.append((change, content))
    saved = msgspec.to_builtins(
        SavedFiles(files=tuple(files), left_out=tuple(left_out.items())), builtin_types=(bytes,)
    )
    # Paths need not be texts, so all texts are written with a character for each byte.
    packed = msgspec.msgpack.encode(map_texts(saved, lambda text: os.fsencode(text).decode("latin-1")))
    data = zstandard.ZstdCompressor(level=1).compress(packed)
    target = job.run.paths.saved(job.id)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if job.manifest.exists():  # the next sync replaces it
            atomic.write(_manifest_beside(target), read_regular(job.manifest), mode=0o600)
        atomic.write(target, data, mode=0o600)
    except OSError as error:
        raise RecordError(f"the changes could not be saved in {target}: {error.strerror or error}") from error


def _manifest_beside(saved: Path) -> Path:
    return saved.with_suffix(".manifest.json")


def manifest_of(job: PastJob) -> Path:
    """Return the manifest of the snapshot that a job's saved changes differ from."""
    own = _manifest_beside(job.run.paths.saved(job.id))
    return own if own.exists() else job.manifest


def read(job: PastJob) -> SavedFiles | None:
    """Return the saved changes of a job; None without any. RecordError for a damaged file."""
    file = job.run.paths.saved(job.id)
    if not file.exists():
        return None
    try:
        packed = read_regular(file, at_most=2 * MOST_BYTES)
        if zstandard.frame_content_size(packed) > 2 * MOST_BYTES:
            raise ValueError("it is larger than what loom saves")
        data = zstandard.ZstdDecompressor().decompress(packed)
        saved = map_texts(msgspec.msgpack.decode(data), lambda text: os.fsdecode(text.encode("latin-1")))
        return typed.convert(saved, SavedFiles)
    except (OSError, ValueError, RecursionError, zstandard.ZstdError) as error:
        raise RecordError(f"{file} can't be read: {error}") from error
