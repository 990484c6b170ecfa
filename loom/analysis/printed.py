"""The documents with a published schema that commands print with `--json`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from loom.errors import LoomError
from loom.record.documents import Commit, Document, Milliseconds
from loom.record.reader import Reading
from loom.record.store import UNFINISHED
from loom.status import Code


class LeftOutJob(Document, frozen=True, kw_only=True):
    id: str
    reason: str


class PlanDocument(Document, frozen=True, kw_only=True):
    """The document of `loom compile --json`. `jobs` has every key of a job, as the reference of the workflow describes it."""

    schema_version: Literal["loom.plan.v1"] = "loom.plan.v1"
    kind: Literal["loom-plan"] = "loom-plan"
    loom_version: str
    workflow_path: str
    stages: list[str]
    jobs: list[dict[str, Any]]
    left_out: list[LeftOutJob]


class Executed(Document, frozen=True, kw_only=True):
    """The document of `loom exec --json`. `stdout_b64` and `stderr_b64` are there for output that is not UTF-8."""

    schema_version: Literal["loom.exec.v1"] = "loom.exec.v1"
    kind: Literal["exec"] = "exec"
    run_id: str
    job_id: str
    step: str
    command: list[str]
    exit_code: Code
    ended: str
    fresh: bool
    container_name: str | None
    duration_ms: Milliseconds
    stdout: str
    stdout_b64: str | UnsetType = UNSET
    stderr: str
    stderr_b64: str | UnsetType = UNSET


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
        "summary": reading.run_summary(),
        "pipeline": pipeline,
        "jobs": [reading.job_manifest(job["job_id"]) for job in pipeline["jobs"]],
    }
