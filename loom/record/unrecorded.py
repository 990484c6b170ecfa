"""The last `loom run` of each checkout that ended before it had a record, so that a diagnosis does not pass for its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from loom.record.documents import Document, Moment
from loom.record.events import timestamp
from loom.status import Code
from loom.util import atomic, typed
from loom.util.private import check_private, make_private
from loom.util.untrusted_files import read_regular

LONGEST = 2000


class Unrecorded(Document):
    """A run that was refused and left no record."""

    at: Moment
    command: list[str]
    exit_code: Code
    error: str
    error_code: str | None = None
    hint: str | None = None


def note(state_dir: Path, root: Path, found: Unrecorded) -> None:
    """Keep it as the last one of the checkout at `root`. OSError when it can't be kept."""
    path = _path(state_dir, root)
    make_private(state_dir)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    atomic.write(path, msgspec.json.encode(found))


def find_unrecorded(state_dir: Path, root: Path, run_id: str | None) -> Unrecorded | None:
    """Return the last one of the checkout at `root`, if it is later than this run (None: than none)."""
    try:
        check_private(state_dir)
        found = typed.decode(read_regular(_path(state_dir, root)), Unrecorded)
    except (OSError, ValueError):
        return None
    return found if run_id is None or found.at > timestamp(int(run_id)) else None


def _path(state_dir: Path, root: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return state_dir / "unrecorded" / f"{name}.json"
