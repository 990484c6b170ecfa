"""The structures of documents. Their paths are relative to `logs/<run_id>/`, those of the receipt absolute."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from loom.record.request import Request
from loom.status import Code, Count, FailingTest, Failure, Status
from loom.values import Immutable

SCHEMA_VERSION: Final = "loom.runtime.logs.v2"
RECEIPT_SCHEMA: Final = "loom.receipt.v1"
RUN_SCHEMA: Final = "loom.run.v1"
DIAGNOSIS_SCHEMA: Final = "loom.diagnosis.v1"
UNREADABLE: Final = (
    "another loom made it (its run.json and receipt name the version and the time), or it was edited;"
    " `loom clean RUN` removes it"
)
"""The hint about a record that can't be read."""
KNOWN_SCHEMAS = (SCHEMA_VERSION, RUN_SCHEMA, RECEIPT_SCHEMA, DIAGNOSIS_SCHEMA)

Positive = Annotated[int, Meta(ge=1, le=1 << 53)]
Milliseconds = Annotated[float, Meta(ge=0, le=1e15)]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
"""A time in UTC, RFC 3339. Names of such fields, and no others, end in `at` or `time`."""
RelativePath = Annotated[str, Meta(max_length=1000, pattern=r"^(?!/)(?!([^\0]*/)?\.\.(/|$))[^\0]+$")]
"""A path below `logs/<run_id>/`, or the name of a job, step or section, which is a part of one."""
Sha = Annotated[str, Meta(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
RunId = Annotated[str, Meta(pattern="^[0-9]{1,20}$")]


class Document(Immutable, forbid_unknown_fields=True):
    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name.rpartition("_")[2] in ("at", "time") and (text := getattr(self, name)) is not None:
                check_moment(text)


def check_moment(text: str) -> None:
    """Raise ValueError for text that is not a time in UTC."""
    if not text.endswith("Z"):
        raise ValueError(f"{text!r} is not a time in UTC")
    datetime.fromisoformat(text)


def plain(document: Struct) -> dict[str, Any]:
    """Convert the document to plain JSON types."""
    shape: dict[str, Any] = msgspec.to_builtins(document, enc_hook=str)
    return shape


class OutputCounts(Document):
    stdout_lines: Count = 0
    stderr_lines: Count = 0
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0


Why = Literal["error", "test", "location", "context"]
"""An error, a failing test, a position in a file; or what belongs to such a line."""


class Highlight(Document):
    """A line of output that tells why a step failed."""

    seq: Positive
    line: Positive
    """The number of its line in the events file."""
    offset: Count
    """The position of that line in the events file, in bytes."""
    text: str
    """Without control sequences; of a long line, its beginning and its end."""
    why: Why


class Highlights(Document):
    """The first and the last lines that tell, in order; at most 16 KB of text."""

    lines: list[Highlight] = []
    found: Count = 0
    """The number of telling lines, with those that are not kept."""
    complete: bool = True
    """Whether every line with a telling word was looked at, and none was left out because of the size limit."""


class ManifestPhase(Document):
    phase_code: str
    status: Status | None
    duration_ms: Milliseconds | None


class _ManifestUnit(Document):
    """The last event of its events file, with the end of the phase, says more."""

    status: Status | None
    duration_ms: Milliseconds | None
    events_path: RelativePath


class ManifestStep(_ManifestUnit):
    step: RelativePath
    attempt: Count
    command: str
    file: str | None = None
    """The step's position in the workflow; `line` is its first line."""
    line: Code | None = None
    literal: bool = False
    """Whether command lines and workflow lines correspond one to one."""
    exit_code: Code | None


class ManifestSection(_ManifestUnit):
    section: RelativePath
    error: str | None


class UsedImage(Document):
    name: str
    id: str
    digest: str = ""


class SavedArtifacts(Document):
    name: str | None = None
    archive_path: RelativePath | None = None
    files: Count
    bytes: Count
    missing: list[str] = []
    sha256: str | None = None
    skipped: list[dict[str, str]] = []
    skipped_total: Count = 0
    expire_in_s: Annotated[float, Meta(ge=0, le=1e15)] | None = None


class JobManifest(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["job-manifest"] = "job-manifest"
    run_id: RunId
    job_id: RelativePath
    name: str
    stage: str
    status: Status | None
    exit_code: Code | None
    allowed_failure: bool
    error: str | None
    error_code: str | None = None
    blocked_by: str | None
    attempts: Count
    started_at: Moment | None
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    failing_step: RelativePath | None
    failing_section: RelativePath | None
    target: str
    provider: str
    matrix: dict[str, str]
    failing_step_events_path: RelativePath | None
    failing_command: str | None
    failing_section_events_path: RelativePath | None
    failing_tests: list[FailingTest]
    """The first ones; `test_reports` has the totals."""
    test_reports: dict[str, Any] | None
    findings: list[Failure] = []
    """The first findings in reports of linters and scanners; `finding_reports` has the total."""
    finding_reports: dict[str, Any] | None = None
    image: UsedImage | None
    services: list[str]
    session: dict[str, Any]
    phases: list[ManifestPhase]
    steps: list[ManifestStep]
    system_sections: list[ManifestSection]
    artifacts: SavedArtifacts | None
    uploads: list[dict[str, Any]] = []
    caches: list[dict[str, Any]]
    kept: dict[str, Any] | None
    warnings: list[str]
    events_path: RelativePath


class Reused(Document):
    """The results of one job of its parent that a run took over."""

    job_id: RelativePath
    steps: Count
    saved_ms: Milliseconds
    """The time that these steps took when they ran."""
    from_step: RelativePath | None
    """The step at which the job resumed; null: its result was taken over, and it did not run."""


class Assistance(Document):
    """Work on the files or the container of a job that no step did."""

    at: Moment | None = None
    how: Literal["shell", "exec", "edit", "sync"]
    job_id: RelativePath | None = None
    """Null: each resumed job."""
    command: str | None = None
    changes: list[str] = []
    """The paths of `edit` and `sync`. What a shell or a command changed in a kept container is an `edit`."""
    changes_total: Count = 0


Kind = Literal["whole", "partial", "resumed", "assisted", "behind", "other_images"]


class HeldJob(Document):
    """A job that CI would run, and this run left out. `kind`: what such jobs are, such as `Windows`."""

    job_id: str
    kind: str


class Extent(Document):
    """The extent of a run. Only a whole run that nobody assisted, and that is not behind, is a proof of its tree's result."""

    kinds: list[Kind]
    """`whole`: each job that CI would run ran, from its first step. Else `partial` or `resumed`, or both.

    `assisted`, `behind` and `other_images` come after these.
    """
    proof: bool
    parent_run_id: RunId | None
    ran: list[RelativePath]
    not_selected: list[RelativePath]
    held: list[HeldJob] = []
    reused: list[Reused]
    reused_steps: Count
    saved_ms: Milliseconds
    assisted: list[Assistance]
    tree_sha: Sha | None
    """The tree that ran: the snapshot's. Null where somebody may have changed files by hand."""
    behind: str | UnsetType = UNSET
    """Why CI would run another commit for the event."""
    replaced_images: dict[str, str] | UnsetType = UNSET
    """The images that ran, by the names of those that the workflow has instead."""


class Receipt(Document):
    schema_version: Literal["loom.receipt.v1"] = RECEIPT_SCHEMA
    kind: Literal["loom-run-local"] = "loom-run-local"
    loom_version: str
    run_id: RunId
    command: list[str]
    invocation: Request = field(default_factory=Request)
    origin: str | None = None
    """The address of the job on a CI server that this run reproduces."""
    repo_root: str | None
    workflow_path: str | None
    started_at: Moment
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    status: Status
    exit_code: Code
    error: str | None
    error_code: str | None = None
    failing_job_id: RelativePath | None
    jobs_by_status: dict[str, Count]
    logs_dir: str
    events_jsonl_path: str
    phase_report_path: str
    pipeline_manifest_path: str
    diagnosis_path: str | None = None
    resume_command: str | None = None
    """The command that goes on with a paused run (exit code 77)."""
    snapshot_path: str | None
    snapshot_head_sha: Sha | None
    snapshot_tree_sha: Sha | None
    snapshot: dict[str, Any] | None
    images: list[UsedImage]
    extent: Extent
    unlike_ci: dict[RelativePath, list[str]] = {}
    """By job, what made its run unlike CI's, in the words of the setting `gate_accept`."""


class RunRow(Document):
    """A row of the list of runs; `status` may also be `running`, `detached`, `interrupted` or `unreadable`."""

    run_id: RunId
    child_of: RunId | None = None
    """The run that started it as a child pipeline, whose row stands before it."""
    status: str
    exit_code: Code | None
    started_at: Moment
    duration_ms: Milliseconds | None
    last_event_at: Moment | None
    head_sha: Sha | None
    tree_sha: Sha | None
    extent: list[Kind]
    """Empty for a run without an end."""
    failing_job_id: RelativePath | None
    error: str | None
    command: list[str]
    repo_root: str | None
    workspace: str | None
    receipt_path: str | None
    logs_dir: str


class Runs(Document):
    """The document of `loom runs --json`, newest first."""

    schema_version: Literal["loom.runs.v1"] = "loom.runs.v1"
    kind: Literal["runs"] = "runs"
    runs: list[RunRow]


class Commit(Document):
    """The commit of a snapshot, from its repository."""

    sha: Sha
    subject: str
    author: str
    time: Moment
