"""The documents of a run together, as `loom show --json` prints them."""

from __future__ import annotations

from typing import Any

from loom.errors import LoomError
from loom.record.documents import Commit
from loom.record.reader import Reading
from loom.record.store import UNFINISHED


def commit_of(reading: Reading) -> Commit | None:
    """Return the commit of the run's snapshot; None if the repository or the commit is gone."""
    from loom.snapshot import facts_of_commit, read_manifest  # late: libgit2, which other documents do without

    if reading.foreign:
        return None
    try:
        return Commit(**facts_of_commit(read_manifest(reading.paths.root, reading.paths.snapshot)))
    except (LoomError, OSError):
        return None


def document_of(reading: Reading) -> dict[str, Any]:
    """Return the values of `loom show --json`: all documents of a run, without a receipt where it has no end."""
    pipeline = reading.pipeline_manifest()
    unfinished = reading.state in UNFINISHED
    return {
        "run_id": reading.run_id,
        "state": reading.state,
        "last_event_at": reading.last_sign() if unfinished else None,
        "commit": commit_of(reading),
        "receipt": None if unfinished else reading.receipt(),
        "pipeline": pipeline,
        "jobs": [reading.job_manifest(job["job_id"]) for job in pipeline["jobs"]],
    }
