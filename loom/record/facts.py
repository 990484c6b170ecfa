"""The types of phase event `data`: readers rely on them, as each event of a record, which may be damaged, is checked first."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, defstruct

from loom.plan.clone import Clone
from loom.record.documents import Assistance, Extent, Highlights, OutputCounts, RelativePath, SavedArtifacts
from loom.record.request import Request
from loom.status import Code, Count, EndedBy, FailingTest, Failure, Status
from loom.util import typed

Milliseconds = Annotated[float, Meta(ge=-1e15, le=1e15)]


def _data(_required: str = "", **types: Any) -> type[Struct]:
    """Return the shape of data with these keys, of which the `_required` ones must be there."""
    needed = _required.split()
    fields = [(key, kind) if key in needed else (key, kind, UNSET) for key, kind in types.items()]
    return defstruct("Data", fields, kw_only=True)


_TEXTS = dict[str, str]
_STEP = _data("id", id=str, command=str)
_REPORTED = _data(variables=_TEXTS, exact_b64=dict[str, bytes], lost=list[str])
_PLANNED = _data(
    "id",
    id=RelativePath,
    name=str,
    stage=str,
    target=str,
    provider=str,
    image=str | None,
    needs=list[str] | None,
    matrix=_TEXTS,
    services=list[str],
    steps=list[_STEP],  # type: ignore[valid-type]
    commands=bool,
    debug=bool,
    title=str,
    clone=Clone,
    mapped=bool,
)
_LEFT_OUT_JOB = _data("id reason", id=str, reason=str, held=str)
_LEFT_OUT_PATH = _data("path reason", path=str, reason=str)
_REUSED_JOB = _data(
    "status allowed_failure exit_code archive",
    status=Status,
    allowed_failure=bool,
    exit_code=Code | None,
    outputs=_TEXTS,
    archive=str,
    run_id=str,
)
_REUSED_STEPS = _data(
    "job_id from_step steps", job_id=RelativePath, from_step=RelativePath | None, steps=dict[RelativePath, Milliseconds]
)
_IMAGE = _data("name id", name=str | None, id=str, digest=str)
_TEXT = _data("text", text=str)

_BEGUN = _data(
    origin=str,
    loom_version=str,
    command=list[str],
    invocation=Request,
    repo_root=str,
    workflow_path=str | None,
    workspace=str,
    logs_dir=str,
    parent_run_id=str | None,
)
"""The data of `run.bootstrap`."""
_PHASE = _data(
    command=str,
    name=str,
    file=str | None,
    line=Code | None,
    literal=bool,
    attempt=Count,
    output=OutputCounts,
    highlights=Highlights,
    ended_by=EndedBy,
)
"""The data of all other phases, at their start or end."""
_FACTS: Mapping[str, type[Struct]] = {
    "plan_resolved": _data(
        "jobs",
        jobs=list[_PLANNED],  # type: ignore[valid-type]
        stages=list[str],
        left_out=list[_LEFT_OUT_JOB],  # type: ignore[valid-type]
        behind=str,
        undecided=list[str],
        replaced_images=dict[str, str],
    ),
    "snapshot_taken": _data(
        "path head_sha tree_sha files bytes changed left_out",
        path=str,
        head_sha=str,
        tree_sha=str,
        source_root=str,
        branch=str | None,
        files=Count,
        bytes=Count,
        changed=Count,
        left_out=list[_LEFT_OUT_PATH],  # type: ignore[valid-type]
        own_rules=bool,
        submodules=list[_data(changed=Count)],  # type: ignore[misc]
    ),
    "files_copied": _data("files of", files=Count, of=Count),
    "engine_answered": _data("engine", engine=str),
    "results_reused": _data("jobs", jobs=dict[str, _REUSED_JOB]),  # type: ignore[valid-type]
    "steps_reused": _data("resumed jobs", resumed=bool, jobs=list[_REUSED_STEPS]),  # type: ignore[valid-type]
    "assisted": Assistance,
    "run_finished": _data(
        "status exit_code duration_ms",
        extent=Extent,
        status=Status,
        exit_code=Code,
        duration_ms=Milliseconds | None,
        error=str | None,
        error_code=str | None,
    ),
    "job_finished": _data(
        allowed_failure=bool,
        blocked_by=str | None,
        held=str,
        failing_step=RelativePath | None,
        failing_section=RelativePath | None,
        outputs=_TEXTS,
        error_code=str | None,
    ),
    "session_opened": _data(
        mount_mode=Literal["bind_mount", "overlay", "ephemeral_volume", "none"],
        workspace=str | None,
        view_of=str | None,
        input_tree=str,
    ),
    "interrupted": _data("by at_once grace_s", by=str, at_once=bool, grace_s=float, during=str),
    "cache_keys": _data("keys", keys=list[str]),
    "image_resolved": _IMAGE,
    "image_used": _IMAGE,
    "warning": _TEXT,
    "notice": _TEXT,
    "attempt_failed": _data("attempt", attempt=Count),
    "handed_over": _data("after_ms", after_ms=Milliseconds),
    "failing_test": FailingTest,
    "cache": _data("action", action=str, name=str | None, key=str, wanted=str, hit=str),
    "artifact": _data("name archive files bytes", name=str, archive=str, files=Count, bytes=Count, sha256=str),
    "artifacts_saved": SavedArtifacts,
    "test_reports": _data(tests=Count, failures=Count, errors=Count, flaky=Count),
    "finding": Failure,
    "finding_reports": _data(reports=Count, findings=Count, problems=list[str], problems_total=Count),
    "session_kept": _data(
        "expires_at",
        expires_at=datetime,
        kept_at=datetime,
        step=str | None,
        container_id=str,
        container_name=str,
        bytes=Count,
    ),
    "handed_on": _data(step=str | None, attempt=Count, variables=_TEXTS, exact_b64=dict[str, bytes], lost=list[str]),
    "step_state": _data(
        "step outcome conclusion",
        step=RelativePath,
        attempt=Count,
        name=str,
        outcome=str,
        conclusion=str,
        outputs=_REPORTED,
        env=_REPORTED,
        saved=_REPORTED,
        path=list[str],
        summary=str,
    ),
    "annotation": _data(
        "step level message",
        step=RelativePath,
        level=Literal["error", "warning", "notice"],
        message=str,
        title=str | None,
        file=str | None,
        line=Code | None,
        column=Code | None,
    ),
}


NOT_KEPT = "not kept: "
"""The beginning of the warning about a container that can't be kept."""
COMMAND_USER = "command_user"
"""The detail of a session whose entrypoint may have changed the user: which one commands beside the steps run as."""


def check(kind: str, phase_code: str, message: str | None, data: Mapping[str, Any]) -> None:
    """Raise ValueError when the data of an event has an invalid type."""
    if kind == "message":
        shape = _FACTS.get(message or "")
    else:
        shape = _BEGUN if phase_code == "run.bootstrap" and kind == "phase_started" else _PHASE
    if shape is None:
        return
    try:
        typed.convert(data, shape)
    except msgspec.ValidationError as error:
        raise ValueError(f"{message or phase_code}: {error}") from error
    if kind != "message" and data.get("file") is not None and not isinstance(data.get("line"), int):
        raise ValueError(f"{phase_code}: a file without a line")
