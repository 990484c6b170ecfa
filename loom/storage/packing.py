"""Pack selected files into an archive, without those that hold secrets."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from loom.storage.selection import PathSelection
from loom.storage.tar import Check, CheckedStream, Content, Item, TarEntry
from loom.storage.unpacking import Totals
from loom.storage.workspace import Skipped, WorkspaceView
from loom.util.masking import Masker
from loom.util.paths import climbs_out, is_below


def _drop_secret_names(items: Iterable[Item], masker: Masker, on_skipped: Callable[[Skipped], None]) -> Iterator[Item]:
    """Leave out entries with a secret in their name or link target, and report them masked; does not read contents."""
    left_out = ""
    for entry, content in items:
        if left_out and is_below(entry.path, left_out):
            continue  # below a directory that is already reported
        path, target = os.fsencode(entry.path), os.fsencode(entry.target)
        shown = masker.mask_bytes(path)
        if shown != path:
            left_out = entry.path
            on_skipped(Skipped(path=os.fsdecode(shown), reason="a secret is in its name"))
        elif masker.mask_bytes(target) != target:
            on_skipped(Skipped(path=entry.path, reason="a secret is in the target of its link"))
        else:
            yield entry, content


def packing(
    view: WorkspaceView, selection: PathSelection, held: Totals, skipped: list[Skipped], masker: Masker | None
) -> Iterator[Item]:
    """Yield the selected files, which `held` counts.

    `skipped` gets unreadable ones, and those with a secret of `masker` in name, link or content.
    """
    masker = masker if masker is not None and masker.active else None
    left_out = set[str]()
    items: Iterable[Item] = view.read(selection, skipped.append)
    for entry, content in items if masker is None else _drop_secret_names(items, masker, skipped.append):
        if entry.kind == "hardlink" and entry.target in left_out:
            skipped.append(Skipped(path=entry.path, reason=f"the same file as {entry.target}, which was left out"))
        elif masker is None or content is None:
            held.add(entry)
            yield entry, None if content is None else CheckedStream(content, view.check)
        else:
            with _rereadable(content, view.check) as twice:
                if (secret := masker.found_in(twice.read)) is not None:
                    left_out.add(entry.path)
                    skipped.append(Skipped(path=entry.path, reason=f"it holds the secret {secret}"))
                    continue
                twice.seek(0)
                held.add(entry)
                yield entry, CheckedStream(twice, view.check)


@contextmanager
def _rereadable(content: Content, check: Check) -> Iterator[IO[bytes]]:
    """Buffer content to read it twice, which a tar stream does not allow."""
    if isinstance(content, io.FileIO):
        yield content
        return
    with tempfile.SpooledTemporaryFile(max_size=8 << 20) as copy:
        shutil.copyfileobj(CheckedStream(content, check), copy, 1 << 20)
        copy.seek(0)
        yield cast("IO[bytes]", copy)


def leads_out(entry: TarEntry) -> bool:
    """Return whether a link's target is textually outside the workspace; links on the way are not resolved."""
    if entry.kind != "link":
        return False
    return entry.target.startswith("/") or climbs_out(entry.path, entry.target)
