"""The documents with a published schema that commands print with `--json`, apart from those of a record."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, UnsetType

from loom.record.documents import Document, Milliseconds
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
