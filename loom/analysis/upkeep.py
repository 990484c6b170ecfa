"""What `loom clean` and `loom doctor` print for machines."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import field

from loom.record.documents import Document
from loom.status import Count

CLEAN_SCHEMA: Final = "loom.clean.v1"
DOCTOR_SCHEMA: Final = "loom.doctor.v1"


class CleanedRun(Document, frozen=True, kw_only=True):
    """A run, or a workspace that no record knows. `bytes` counts files on this machine, not what the engine had."""

    run_id: str
    record: str | None
    workspace: str | None
    job_workspaces: list[str]
    """Of jobs that went on in one of their own."""
    in_engine: bool
    """Whether there could be something of it in the engine."""
    bytes: Count
    removed: bool
    """False in a dry run, and where `problems` says why."""
    problems: list[str]


class ExpiredArtifacts(Document, frozen=True, kw_only=True):
    run_id: str
    job_id: str


class CleanedWorkspace(Document, frozen=True, kw_only=True):
    """A workspace beyond the limits; the records of its runs stay."""

    path: str
    run_ids: list[str]
    """None for one that `loom snapshot` made."""
    repo_root: str
    bytes: Count
    reason: str
    """Which limit it is beyond."""
    removed: bool
    problems: list[str]


class Clean(Document, frozen=True, kw_only=True):
    """What `loom clean --json` prints."""

    schema_version: Literal["loom.clean.v1"] = CLEAN_SCHEMA
    kind: Literal["clean"] = "clean"
    dry_run: bool
    runs: list[CleanedRun]
    expired_artifacts: list[ExpiredArtifacts] = field(default_factory=list)
    workspaces: list[CleanedWorkspace] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)
    """With --all: what is named like a workspace, and was not made by a loom with this state directory. It is left alone."""


class Check(Document, frozen=True, kw_only=True):
    """One thing that loom needs of the machine."""

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str | None
    """What to do about it; one or more lines."""


class Doctor(Document, frozen=True, kw_only=True):
    """What `loom doctor --json` prints. The exit code is 3 when a check is `bad`."""

    schema_version: Literal["loom.doctor.v1"] = DOCTOR_SCHEMA
    kind: Literal["doctor"] = "doctor"
    checks: list[Check]
