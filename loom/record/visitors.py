"""Who entered the places of a run's jobs, and with which command: one line for each, also after the end of the run."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct

from loom.record.run_paths import RunPaths
from loom.util import jsons
from loom.util.untrusted_files import read_regular


class Visit(Struct, frozen=True, kw_only=True):
    at: float
    """Seconds since the epoch."""
    job_id: str
    how: Literal["shell", "exec"]
    command: str | None = None
    """Masked."""


def note(paths: RunPaths, visit: Visit) -> None:
    """Add a visit. OSError when the record can't be written."""
    line = jsons.encode_line(msgspec.to_builtins(visit))
    file = os.open(paths.visits, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, line if line.endswith(b"\n") else line + b"\n")
    finally:
        os.close(file)


def visits(paths: RunPaths, *, after: float = 0.0) -> list[Visit]:
    """The visits after a moment; a line that is no visit is passed over."""
    found: list[Visit] = []
    with suppress(FileNotFoundError):
        for line in read_regular(paths.visits).splitlines():
            with suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(line, type=Visit))
    return [visit for visit in found if visit.at > after]
