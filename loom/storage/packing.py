"""Pack what a selection names into an archive, without what holds a secret."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from loom.secrets.masking import Masker
from loom.storage.selection import Selection
from loom.storage.tar import Check, Checked, Entry, Item, Writer
from loom.storage.unpacking import Held
from loom.storage.workspace import Skipped, WorkspaceView
from loom.util.paths import below, climbs_out


def without_secret_names(
    items: Iterable[Item], masker: Masker | None, on_skipped: Callable[[Skipped], None]
) -> Iterator[Item]:
    """Leave out what has a secret in its name or in the target of its link, and name it masked; contents are not looked at."""
    if masker is None or not masker.active:
        yield from items
        return
    left_out = ""
    for entry, content in items:
        if left_out and below(entry.path, left_out):
            continue  # in a directory that is left out: to say it once is enough
        path, target = os.fsencode(entry.path), os.fsencode(entry.target)
        shown = masker.mask_bytes(path)
        if shown != path:
            left_out = entry.path
            on_skipped(Skipped(path=os.fsdecode(shown), reason="a secret is in its name"))
        elif masker.mask_bytes(target) != target:
            on_skipped(Skipped(path=entry.path, reason="a secret is in the target of its link"))
        else:
            yield entry, content


class Hashed:
    """A file that knows the size and the checksum of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def packing(
    archive: Writer, view: WorkspaceView, selection: Selection, skipped: list[Skipped], masker: Masker | None
) -> Iterator[Entry]:
    """Put what is meant by `selection` into an archive, each entry given when it is in; what is left out goes to `skipped`.

    Left out is what can't be read, and what holds a secret of `masker`'s in its name, its link or its content.
    """
    masker = masker if masker is not None and masker.active else None
    held, left_out = Held(), set[str]()
    for entry, content in without_secret_names(view.read(selection, skipped.append), masker, skipped.append):
        held.add(entry)
        if entry.kind == "hardlink" and entry.target in left_out:
            skipped.append(Skipped(path=entry.path, reason=f"the same file as {entry.target}, which was left out"))
            continue
        secret = _add(archive, entry, content, masker, view.check)
        if secret is not None:
            left_out.add(entry.path)
            skipped.append(Skipped(path=entry.path, reason=f"it holds the secret {secret}"))
            continue
        yield entry


def _add(archive: Writer, entry: Entry, content: IO[bytes] | None, masker: Masker | None, check: Check) -> str | None:
    """Add an entry, or else the name of the secret that its content holds."""
    if masker is None or content is None:
        archive.add(entry, None if content is None else Checked(content, check))
        return None
    with _rereadable(content, check) as twice:
        secret = masker.found_in(twice)
        if secret is None:
            twice.seek(0)
            archive.add(entry, Checked(twice, check))
    return secret


@contextmanager
def _rereadable(content: IO[bytes], check: Check) -> Iterator[IO[bytes]]:
    """The same content to be read twice: what comes out of a tar stream can be read once."""
    if isinstance(content, io.FileIO):
        yield content
        return
    with tempfile.SpooledTemporaryFile(max_size=8 << 20) as copy:
        shutil.copyfileobj(Checked(content, check), copy, 1 << 20)
        copy.seek(0)
        yield cast("IO[bytes]", copy)


def leads_out(entry: Entry) -> bool:
    """Whether a link points outside of the workspace, as text; what it may lead over on the way is not looked at."""
    if entry.kind != "link":
        return False
    return entry.target.startswith("/") or climbs_out(entry.path, entry.target)
