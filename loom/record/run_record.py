"""All writes of a run's record. Documents are replaced by rename; events are appended in whole lines."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from loom.errors import InfrastructureError
from loom.record.documents import Document
from loom.record.events import PhaseEvent, encode
from loom.record.run_paths import RunPaths
from loom.util import atomic, jsons
from loom.util.paths import RUNTIME

RUNTIME_LINK = Path(RUNTIME)
_ROOM_BYTES = 1 << 20
"""Disk space reserved for a run's last events and documents."""
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This directory holds the record of a loom run; `loom clean` removes it.\n"
_README = """\
The record of one `loom run`. Start with receipts/*.json, then logs/*/pipeline/manifest.json, then the failing job's
manifest, then the failing step's events.jsonl. `loom diagnose` follows these pointers for you, `loom clean` removes it.
"""


class RunRecord(Struct):
    """Writes one record. Not thread-safe: the recorder calls it under the journal's lock.

    InfrastructureError RECORD_UNWRITABLE (a full disk) ends the job that has no space for its output, or the run if its
    result could not be recorded. Some space is reserved for that, so even a run on a full disk ends with a receipt.
    """

    paths: RunPaths
    _files: dict[str, BinaryIO] = {}
    _room: BinaryIO | None = None
    _was_full: bool = False

    @contextlib.contextmanager
    def created(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Create the private directories for the first event, which the caller writes inside; then the identity. Else nothing."""
        with self._as_unwritable():
            self.paths.root.mkdir(parents=True, mode=0o700)
        try:
            with self._as_unwritable():
                self._mark()
                write_document(self.paths.draft_of_identity, jsons.encode_file(dict(identity)))
                (self.paths.root / "README").write_text(_README)
                self.paths.receipt.parent.mkdir()
                (self.paths.logs / "pipeline").mkdir(parents=True)
                self._keep_room()
            yield
            with self._as_unwritable():
                self.paths.draft_of_identity.rename(self.paths.identity)
        except BaseException:
            self.close_all()
            shutil.rmtree(self.paths.root, ignore_errors=True)
            raise

    def reopen(self, identity: Mapping[str, Any], so_far: Sequence[PhaseEvent]) -> None:
        """Go on with the record of a run that was left: with these events, and without the files of jobs that go on."""
        finished = {event.job_id for event in so_far if event.message == "job_finished"}
        lines = [(event, encode(event)) for event in so_far]
        with self._as_unwritable():
            for job in (self.paths.logs / "jobs").glob("*"):
                if job.name not in finished:
                    for part in ("user", "system"):
                        shutil.rmtree(job / part, ignore_errors=True)
                    write_document(
                        job / "events.jsonl", b"".join(line for event, line in lines if event.job_id == job.name)
                    )
            of_jobs = [line for event, line in lines if event.scope in ("pipeline", "job") and event.section is None]
            write_document(self.paths.logs / "pipeline/events.jsonl", b"".join(of_jobs))
            write_document(self.paths.events, b"".join(line for _, line in lines))
            write_document(self.paths.identity, jsons.encode_file(dict(identity)))
            self._keep_room()

    def _mark(self) -> None:
        """Write the mark by which `Store.remove` knows a record."""
        (self.paths.root / "CACHEDIR.TAG").write_text(TAG)

    def _make_folder(self, folder: Path) -> None:
        """Create the folder, and the mark again where it was removed. FileNotFoundError when somebody removed the record."""
        if not (self.paths.root / "CACHEDIR.TAG").exists():
            self._mark()
        folder.mkdir(parents=True, exist_ok=True)

    def _keep_room(self) -> None:
        """Reserve space in an unnamed file, which any end of this process frees."""
        path = self.paths.root / ".room"
        room = path.open("wb")
        path.unlink()
        self._room = room
        with contextlib.suppress(OSError):  # the file system can't reserve space
            os.posix_fallocate(room.fileno(), 0, _ROOM_BYTES)

    def _give_room(self, error: OSError) -> bool:
        """Free, after a failed write, the reserve; return whether there was one."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or self._room is None:
            return False
        self._room.close()
        self._room = None
        self._was_full = True
        return True

    @contextlib.contextmanager
    def _as_unwritable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InfrastructureError(
                f"the record can't be written at {self.paths.root}: {error.strerror or error}",
                hint="free some space or give permission there, or name another directory with LOOM_STATE_DIR",
                code="RECORD_UNWRITABLE",
            ) from error

    def append(self, relative: str, data: bytes) -> None:
        """Append whole lines to a file below `logs/<run_id>/`; readers see them at once."""
        self._written(partial(self._append, relative, data))

    def _written(self, write: Callable[[], None]) -> None:
        """Write, at need in the reserve."""
        with self._as_unwritable():
            try:
                write()
            except OSError as error:
                if not self._give_room(error):
                    raise
                write()

    def append_output(self, relative: str, data: bytes) -> None:
        """Append output, which may not use the reserve; after a full disk only while there is space for the run's end, too."""
        with self._as_unwritable():
            free = os.statvfs(self.paths.root) if self._was_full else None
            if free is not None and free.f_bavail * free.f_frsize <= 2 * _ROOM_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                self._append(relative, data)
            except OSError as error:
                self._give_room(error)
                raise

    def _append(self, relative: str, data: bytes) -> None:
        """Truncate a failed write to whole lines."""
        file = self._files.get(relative)
        if file is None:
            path = self.paths.logs / relative
            self._make_folder(path.parent)
            file = self._files[relative] = path.open("ab", buffering=0)
        view = memoryview(data)
        written = 0
        try:
            while written < len(view):
                written += file.write(view[written:]) or 0
        except OSError:
            half = written - (data.rfind(b"\n", 0, written) + 1)
            if half:
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - half)
            raise

    def size_of(self, relative: str) -> tuple[int, int]:
        """Return the bytes and lines of a file below `logs/<run_id>/`; 0 for one that does not exist yet."""
        try:
            data = (self.paths.logs / relative).read_bytes()
        except OSError:
            return 0, 0
        return len(data), data.count(b"\n")

    def close(self, relative: str) -> None:
        file = self._files.pop(relative, None)
        if file is not None:
            file.close()

    def close_all(self) -> None:
        for relative in list(self._files):
            self.close(relative)
        if self._room is not None:
            self._room.close()
            self._room = None

    def document(self, relative: str, content: Document | Mapping[str, Any]) -> None:
        self.publish(self.paths.logs / relative, jsons.encode_file(content))

    def publish(self, path: Path, data: bytes) -> None:
        """Replace a file atomically."""

        def write() -> None:
            self._make_folder(path.parent)
            atomic.write(path, data)

        self._written(write)

    def set_attempt_aside(self, job_id: str, attempt: int) -> None:
        """Move a failed attempt's steps to `attempts/<n>/`, so that `user/` holds the last attempt."""
        job = self.paths.job(job_id)
        if (job / "user").exists():
            for relative in [name for name in self._files if name.startswith(f"jobs/{job_id}/user/")]:
                self.close(relative)
            target = job / "attempts" / str(attempt)
            with self._as_unwritable():
                target.mkdir(parents=True, exist_ok=True)
                (job / "user").rename(target / "user")

    def link_into(self, workspace: Path) -> None:
        """Link `<workspace>/.loom/.runtime` to the record, replacing anything that a job left there."""
        link = workspace / RUNTIME_LINK
        with contextlib.suppress(OSError):
            if link.parent.is_symlink() or (link.parent.exists() and not link.parent.is_dir()):
                return
            link.parent.mkdir(exist_ok=True)
            if link.is_symlink() or link.is_file():
                link.unlink()
            elif link.is_dir():
                shutil.rmtree(link)
            link.symlink_to(self.paths.root)


def write_document(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, data)
