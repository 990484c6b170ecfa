"""Files that appear whole: a reader finds the old content or the new one, never a part of either."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o666, drafts: Path | None = None) -> Iterator[Path]:
    """Yield the path of a new, empty file that replaces `path` at the end of the block; after an error it is removed.

    The file is in the directory `drafts`, or beside `path`. `mode` counts without the bits of the umask.
    """
    draft = (drafts or path.parent) / f".{path.name}.{secrets.token_hex(4)}.tmp"
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write(path: Path, data: bytes, *, mode: int = 0o666, drafts: Path | None = None) -> None:
    """Replace `path` by a file with this content. OSError when that can't be done."""
    with replacing(path, mode=mode, drafts=drafts) as draft:
        draft.write_bytes(data)


def write_among(path: Path, data: bytes, *, most: int) -> None:
    """Replace a private file; of those beside it only the newest `most` stay. OSError when that can't be done."""
    write(path, data, mode=0o600)
    for _, old in sorted((entry.stat().st_mtime, entry.path) for entry in os.scandir(path.parent))[:-most]:
        Path(old).unlink(missing_ok=True)
