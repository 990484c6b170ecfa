"""The types of phase event `data`, on which readers of a record rely.

Records may be damaged or foreign. `check` validates each event before anything reads it, so that readers need no
checks. Unknown keys are allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

import msgspec
from msgspec import Meta

from loom.record.documents import (
    Assistance,
    CommandPackage,
    Extent,
    Highlights,
    Invocation,
    OutputCounts,
    Place,
    SavedArtifacts,
)
from loom.status import Code, Count, EndedBy, FailingTest, Failure, Status

Milliseconds = Annotated[float, Meta(ge=-1e15, le=1e15)]


class _Begun(TypedDict, total=False):
    """Of `run.bootstrap`."""

    loom_version: str
    command: list[str]
    invocation: Invocation
    repo_root: str
    workflow_path: str | None
    workspace: str
    logs_dir: str
    parent_run_id: str | None


class _Phase(TypedDict, total=False):
    """For all other phases, at their start or end."""

    command: str
    file: str | None
    line: Code | None
    literal: bool
    attempt: Count
    output: OutputCounts
    highlights: Highlights
    ended_by: EndedBy


class _Step(TypedDict, total=False):
    id: Required[str]
    command: str


class _Planned(TypedDict, total=False):
    id: Required[Place]
    name: str
    stage: str
    target: str
    provider: str
    image: str | None
    needs: list[str] | None
    matrix: dict[str, str]
    services: list[str]
    steps: list[_Step]


class _LeftOutOfPlan(TypedDict):
    id: str
    reason: str


class _Plan(TypedDict, total=False):
    jobs: Required[list[_Planned]]
    stages: list[str]
    left_out: list[_LeftOutOfPlan]


class _LeftOut(TypedDict):
    path: str
    reason: str


class _Submodule(TypedDict, total=False):
    changed: Count


class _Snapshot(TypedDict, total=False):
    path: Required[str]
    head_sha: Required[str]
    tree_sha: Required[str]
    source_root: str
    branch: str | None
    files: Required[Count]
    bytes: Required[Count]
    changed: Required[Count]
    left_out: Required[list[_LeftOut]]
    submodules: list[_Submodule]


class _Engine(TypedDict):
    engine: str


class _Reports(TypedDict, total=False):
    tests: Count
    failures: Count
    errors: Count


class _FindingReports(TypedDict, total=False):
    reports: Count
    findings: Count
    problems: list[str]
    problems_total: Count


class _Reused(TypedDict):
    status: Status
    allowed_failure: bool
    exit_code: Code | None
    archive: str
    run_id: NotRequired[str]


class _ReusedJobs(TypedDict):
    jobs: dict[str, _Reused]


class _StepsOfJob(TypedDict):
    job_id: Place
    from_step: Place | None
    steps: dict[Place, Milliseconds]


class _StepsReused(TypedDict):
    resumed: bool
    jobs: list[_StepsOfJob]


class _RunFinished(TypedDict, total=False):
    extent: Extent
    status: Required[Status]
    exit_code: Required[Code]
    duration_ms: Required[Milliseconds | None]
    error: str | None
    error_code: str | None


class _JobFinished(TypedDict, total=False):
    allowed_failure: bool
    blocked_by: str | None
    failing_step: Place | None
    failing_section: Place | None
    error_code: str | None


class _Image(TypedDict, total=False):
    name: Required[str | None]
    id: Required[str]
    digest: str


class _Session(TypedDict, total=False):
    mount_mode: Literal["bind_mount", "overlay", "ephemeral_volume", "none"]
    workspace: str | None
    view_of: str | None


class _Interrupted(TypedDict, total=False):
    by: Required[str]
    at_once: Required[bool]
    grace_s: Required[float]


class _CacheKeys(TypedDict):
    keys: list[str]


class _Warning(TypedDict):
    text: str


class _Attempt(TypedDict):
    attempt: Count


class _Changed(TypedDict, total=False):
    paths: list[str]
    count: Count


class _Cache(TypedDict, total=False):
    action: Required[str]
    name: str | None
    key: str
    wanted: str
    hit: str


class _Kept(TypedDict, total=False):
    expires_at: Required[datetime]
    kept_at: datetime
    step: str | None
    container_id: str
    container_name: str
    bytes: Count


class _HandedOn(TypedDict, total=False):
    step: str | None
    attempt: Count
    variables: dict[str, str]
    exact_b64: dict[str, bytes]
    lost: list[str]


_FACTS: Mapping[str, Any] = {
    "plan_resolved": _Plan,
    "snapshot_taken": _Snapshot,
    "engine_answered": _Engine,
    "results_reused": _ReusedJobs,
    "steps_reused": _StepsReused,
    "assisted": Assistance,
    "run_finished": _RunFinished,
    "job_finished": _JobFinished,
    "session_opened": _Session,
    "interrupted": _Interrupted,
    "cache_keys": _CacheKeys,
    "image_resolved": _Image,
    "image_used": _Image,
    "warning": _Warning,
    "notice": _Warning,
    "attempt_failed": _Attempt,
    "workspace_changed": _Changed,
    "after_script_ran": _Changed,
    "missing_command": CommandPackage,
    "failing_test": FailingTest,
    "cache": _Cache,
    "artifacts_saved": SavedArtifacts,
    "test_reports": _Reports,
    "finding": Failure,
    "finding_reports": _FindingReports,
    "session_kept": _Kept,
    "handed_on": _HandedOn,
}


def check(kind: str, phase_code: str, message: str | None, data: Mapping[str, Any]) -> None:
    """ValueError when the data of an event has an invalid type."""
    if kind == "message":
        shape = _FACTS.get(message or "")
    else:
        shape = _Begun if phase_code == "run.bootstrap" and kind == "phase_started" else _Phase
    if shape is None:
        return
    try:
        msgspec.convert(data, shape)
    except msgspec.ValidationError as error:
        raise ValueError(f"{message or phase_code}: {error}") from error
    if kind != "message" and data.get("file") is not None and not isinstance(data.get("line"), int):
        raise ValueError(f"{phase_code}: a file without a line")
