"""The JSON documents of `loom clean` and `loom doctor`."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import field

from loom.record.documents import Document
from loom.status import Count

CLEAN_SCHEMA: Final = "loom.clean.v1"
DOCTOR_SCHEMA: Final = "loom.doctor.v1"


class CleanedRun(Document, frozen=True, kw_only=True):
    """A run, or a workspace without a record. `bytes` counts files on this machine, without the engine's."""

    run_id: str
    record: str | None
    workspace: str | None
    job_workspaces: list[str]
    """The workspaces of jobs that continued in one of their own."""
    in_engine: bool
    """Whether the engine may hold resources of it."""
    bytes: Count
    removed: bool
    """False in a dry run, and on failure (see `problems`)."""
    problems: list[str]


class ExpiredArtifacts(Document, frozen=True, kw_only=True):
    run_id: str
    job_id: str


class CleanedWorkspace(Document, frozen=True, kw_only=True):
    """A workspace beyond the limits; the records of its runs stay."""

    path: str
    run_ids: list[str]
    """None for a workspace of `loom snapshot`."""
    repo_root: str
    bytes: Count
    reason: str
    """The exceeded limit."""
    removed: bool
    problems: list[str]


class Clean(Document, frozen=True, kw_only=True):
    """The document of `loom clean --json`."""

    schema_version: Literal["loom.clean.v1"] = CLEAN_SCHEMA
    kind: Literal["clean"] = "clean"
    dry_run: bool
    runs: list[CleanedRun]
    expired_artifacts: list[ExpiredArtifacts] = field(default_factory=list)
    workspaces: list[CleanedWorkspace] = field(default_factory=list)
    not_ours: list[str] = field(default_factory=list)
    """With --all: directories named like workspaces that no loom with this state directory created. They are not touched."""


class Check(Document, frozen=True, kw_only=True):
    """One requirement of loom."""

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str | None
    """The remedy; one or more lines."""


class Doctor(Document, frozen=True, kw_only=True):
    """The document of `loom doctor --json`. The exit code is 3 when a check is `bad`."""

    schema_version: Literal["loom.doctor.v1"] = DOCTOR_SCHEMA
    kind: Literal["doctor"] = "doctor"
    checks: list[Check]
