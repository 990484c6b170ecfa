"""Who entered the containers of a run's jobs, and with which command: one line for each, also after the end of the run."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec

from loom.record.documents import Assistance, plain
from loom.record.run_paths import RunPaths
from loom.util import jsons
from loom.util.untrusted_files import read_regular


def note(paths: RunPaths, entry: Assistance) -> None:
    """Add an entry. OSError when the record can't be written."""
    file = os.open(paths.assistance, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, jsons.encode_line(plain(entry)))
    finally:
        os.close(file)


def noted(paths: RunPaths) -> list[Assistance]:
    """Return the entries; other lines are passed over."""
    found: list[Assistance] = []
    with suppress(FileNotFoundError):
        for line in read_regular(paths.assistance).splitlines():
            with suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(line, type=Assistance))
    return found
