"""The documents that commands print with `--json`, apart from those of a record.

Each has a `schema_version` and a `kind`, and its schema in `analysis.schemas`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, field

from loom.record.documents import Document, Milliseconds, Moment, Sha
from loom.status import Code, Count

Printed = TypeVar("Printed", bound=Document)


def made(kind: type[Printed], values: dict[str, Any]) -> Printed:
    """Make a document of JSON values; an error for any that its schema does not have."""
    return msgspec.convert(values, kind)


class Cleaned(Document, frozen=True, kw_only=True):
    """One thing that `loom clean` removes, or a kept container that stays."""

    kind: Literal["run", "workspace", "container", "artifacts"]
    """A run goes with its record and workspaces; of the other kinds the record stays."""
    name: str
    """The run's id, the path of the workspace, the container's name, or the job whose artifacts have expired."""
    run_ids: list[str] = field(default_factory=list)
    """The runs that used it, the newest one last; empty for workspaces of `loom snapshot`."""
    job_id: str | None = None
    workspaces: list[str] = field(default_factory=list)
    """The directories that go with a run."""
    bytes: Count = 0
    """On this machine, or of a container without the job's files."""
    until: str | None = None
    used_by: str = ""
    """Who is in a container; empty when nobody is."""
    reason: str | None = None
    """Why a workspace or a container goes; null for a container that stays."""
    removed: bool = False
    """False in a dry run, and on failure (see `problems`)."""
    problems: list[str] = field(default_factory=list)


class Clean(Document, frozen=True, kw_only=True):
    """The document of `loom clean --json`."""

    schema_version: Literal["loom.clean.v1"] = "loom.clean.v1"
    kind: Literal["clean"] = "clean"
    dry_run: bool
    items: list[Cleaned]
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

    schema_version: Literal["loom.doctor.v1"] = "loom.doctor.v1"
    kind: Literal["doctor"] = "doctor"
    checks: list[Check]


# -- artifacts and caches


class ListedArtifact(Document, frozen=True, kw_only=True):
    """`path_b64` and `target_b64` are there for names that are not UTF-8."""

    path: str
    path_b64: str | UnsetType = UNSET
    kind: str
    size: Count
    target: str | UnsetType = UNSET
    """Of a link."""
    target_b64: str | UnsetType = UNSET


class JobArtifacts(Document, frozen=True, kw_only=True):
    job_id: str
    archive_path: str
    fetched_to: str | None
    files: list[ListedArtifact]


class ArtifactList(Document, frozen=True, kw_only=True):
    """The document of `loom artifacts --json`."""

    schema_version: Literal["loom.artifacts.v1"] = "loom.artifacts.v1"
    kind: Literal["artifacts"] = "artifacts"
    run_id: str
    jobs: list[JobArtifacts]


class CacheEntry(Document, frozen=True, kw_only=True):
    id: str
    project: str
    key: str
    paths: list[str]
    blob: str
    files: Count
    bytes: Count
    packed_bytes: Count
    created_at: Moment
    used_at: Moment
    protected: bool
    by_key: bool
    """Whether the key alone names it, as in GitLab; else key and paths do."""


class CacheList(Document, frozen=True, kw_only=True):
    """The document of `loom cache ls --json`."""

    schema_version: Literal["loom.cache-list.v1"] = "loom.cache-list.v1"
    kind: Literal["cache-list"] = "cache-list"
    entries: list[CacheEntry]


class CacheRemoval(Document, frozen=True, kw_only=True):
    """The document of `loom cache rm --json` and `loom cache prune --json`."""

    schema_version: Literal["loom.cache-removal.v1"] = "loom.cache-removal.v1"
    kind: Literal["cache-removal"] = "cache-removal"
    removed: list[CacheEntry]
    freed_bytes: Count


class CacheDamage(Document, frozen=True, kw_only=True):
    what: str
    path: str
    key: str | None


class CacheVerification(Document, frozen=True, kw_only=True):
    """The document of `loom cache verify --json`."""

    schema_version: Literal["loom.cache-verification.v1"] = "loom.cache-verification.v1"
    kind: Literal["cache-verification"] = "cache-verification"
    entries: Count
    damaged: list[CacheDamage]
    removed: bool


# -- images


class ListedImage(Document, frozen=True, kw_only=True):
    """An image of the workflow, and its state on this engine."""

    name: str
    kind: str
    platform: str
    used_by: list[str]
    present: bool | None
    """Null for a build: only a run knows whether it is current."""
    locked: bool
    digest: str | None
    image_id: str | None
    size: Count | None
    created: str | None
    problem: str | None


class ImageList(Document, frozen=True, kw_only=True):
    """The document of `loom images ls --json`."""

    schema_version: Literal["loom.image-list.v1"] = "loom.image-list.v1"
    kind: Literal["image-list"] = "image-list"
    images: list[ListedImage]


class AvailableImage(Document, frozen=True, kw_only=True):
    name: str
    digest: str | None
    image_id: str
    platform: str
    size: Count
    built: bool


class ImageSet(Document, frozen=True, kw_only=True):
    """The document of `loom images pull` and `build` with `--json`."""

    schema_version: Literal["loom.images.v1"] = "loom.images.v1"
    kind: Literal["images"] = "images"
    images: list[AvailableImage]


class LockChange(Document, frozen=True, kw_only=True):
    name: str
    platform: str
    before: str | None
    after: str | None


class LockProblem(Document, frozen=True, kw_only=True):
    name: str
    platform: str
    problem: str


class ImageLocking(Document, frozen=True, kw_only=True):
    """The document of `loom images lock --json`."""

    schema_version: Literal["loom.image-locking.v1"] = "loom.image-locking.v1"
    kind: Literal["image-locking"] = "image-locking"
    path: str
    changes: list[LockChange]
    problems: list[LockProblem]


class VerifiedImage(Document, frozen=True, kw_only=True):
    name: str
    platform: str
    verdict: str
    reason: str
    local_digest: str | None
    image_id: str | None
    served_digest: str | None
    locked_digest: str | None
    locked_image_id: str | None


class ImageVerification(Document, frozen=True, kw_only=True):
    """The document of `loom images verify --json`."""

    schema_version: Literal["loom.image-verification.v1"] = "loom.image-verification.v1"
    kind: Literal["image-verification"] = "image-verification"
    images: list[VerifiedImage]


class RemovedImage(Document, frozen=True, kw_only=True):
    name: str
    image_id: str
    size: Count


class ImageRemoval(Document, frozen=True, kw_only=True):
    """The document of `loom images prune --json`."""

    schema_version: Literal["loom.image-removal.v1"] = "loom.image-removal.v1"
    kind: Literal["image-removal"] = "image-removal"
    removed: list[RemovedImage]


# -- workflow, configuration, trust


class ProblemReport(Document, frozen=True, kw_only=True):
    code: str
    severity: str
    file: str
    line: Count
    column: Count
    length: Count
    pointer: str
    message: str
    source: str | None


class Checked(Document, frozen=True, kw_only=True):
    """The document of `loom check --json`."""

    schema_version: Literal["loom.check.v1"] = "loom.check.v1"
    kind: Literal["loom-check"] = "loom-check"
    loom_version: str
    workflow_path: str
    files: list[str]
    jobs: Count
    stages: list[str]
    places: dict[str, list[str]]
    """The ids of the jobs by where they would run: a pool with its provider, or a provider."""
    errors: Count
    warnings: Count
    problems: list[ProblemReport]


class PlannedValue(Document, frozen=True, kw_only=True):
    key: str
    value: Any
    by: str
    place: str


class ExplainedJob(Document, frozen=True, kw_only=True):
    id: str
    values: list[PlannedValue]


class PlanExplanation(Document, frozen=True, kw_only=True):
    """The document of `loom compile --explain JOB --json`."""

    schema_version: Literal["loom.plan-explanation.v1"] = "loom.plan-explanation.v1"
    kind: Literal["plan-explanation"] = "plan-explanation"
    jobs: list[ExplainedJob]


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


class Setting(Document, frozen=True, kw_only=True):
    value: str
    origin: str
    place: str
    about: str
    not_counted: str | UnsetType = UNSET
    """Why the project's value is ignored."""


class SettingsList(Document, frozen=True, kw_only=True):
    """The document of `loom config show --json`."""

    schema_version: Literal["loom.settings.v1"] = "loom.settings.v1"
    kind: Literal["settings"] = "settings"
    settings: dict[str, Setting]


class TrustRequest(Document, frozen=True, kw_only=True):
    id: str
    kind: str
    job: str | None
    subject: str
    gives: str
    place: str
    allowed: bool


class TrustList(Document, frozen=True, kw_only=True):
    """The document of `loom trust --json`."""

    schema_version: Literal["loom.trust-list.v1"] = "loom.trust-list.v1"
    kind: Literal["loom-trust"] = "loom-trust"
    root: str
    origin: str | None
    requests: list[TrustRequest]


# -- snapshots and places


class ChangedPath(Document, frozen=True, kw_only=True):
    path: str
    path_b64: str | UnsetType = UNSET
    kind: str
    mode: str
    sha: str


class LeftOutPath(Document, frozen=True, kw_only=True):
    path: str
    path_b64: str | UnsetType = UNSET
    reason: str


class SpecialPath(Document, frozen=True, kw_only=True):
    path: str
    path_b64: str | UnsetType = UNSET
    kind: str


class SubmoduleReport(Document, frozen=True, kw_only=True):
    path: str
    path_b64: str | UnsetType = UNSET
    head_sha: Sha
    tree_sha: Sha
    changed: Count


class SnapshotReport(Document, frozen=True, kw_only=True):
    """The document of `loom snapshot --json`."""

    schema_version: Literal["loom.snapshot.v1"] = "loom.snapshot.v1"
    kind: Literal["loom-snapshot"] = "loom-snapshot"
    path: str
    path_b64: str | UnsetType = UNSET
    source_root: str
    source_root_b64: str | UnsetType = UNSET
    head_sha: Sha
    tree_sha: Sha
    branch: str | None
    files: Count
    bytes: Count
    changed: Count
    changes: list[ChangedPath]
    left_out: list[LeftOutPath]
    submodules: list[SubmoduleReport]
    borrowed_object_stores: list[str]
    duration_ms: Milliseconds


class RuleReport(Document, frozen=True, kw_only=True):
    file: str
    line: Count
    pattern: str


class ExplainedPath(Document, frozen=True, kw_only=True):
    path: str
    path_b64: str | UnsetType = UNSET
    included: bool
    reason: str
    rule: RuleReport | None


class SnapshotExplanation(Document, frozen=True, kw_only=True):
    """The document of `loom snapshot --explain PATH --json`."""

    schema_version: Literal["loom.snapshot-explanation.v1"] = "loom.snapshot-explanation.v1"
    kind: Literal["loom-snapshot-explain"] = "loom-snapshot-explain"
    paths: list[ExplainedPath]


class VerificationReport(Document, frozen=True, kw_only=True):
    """The document of `loom verify --json`."""

    schema_version: Literal["loom.verification.v1"] = "loom.verification.v1"
    kind: Literal["loom-verify"] = "loom-verify"
    workspace: str
    workspace_b64: str | UnsetType = UNSET
    believed: bool
    same: bool
    head_sha: Sha
    snapshot_tree_sha: Sha
    tree_sha: Sha
    changes: list[ChangedPath]
    special: list[SpecialPath]
    unreadable: list[LeftOutPath]


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


class PathReason(Document, frozen=True, kw_only=True):
    path: str
    reason: str


class WorkspacePath(Document, frozen=True, kw_only=True):
    """The document of `loom workspace --json`."""

    schema_version: Literal["loom.workspace.v1"] = "loom.workspace.v1"
    kind: Literal["workspace"] = "workspace"
    run_id: str
    job_id: str | None
    """None for the run's snapshot."""
    path: str
    left_out: list[PathReason]


class PulledChange(Document, frozen=True, kw_only=True):
    path: str
    kind: str


class Pulled(Document, frozen=True, kw_only=True):
    """The document of `loom pull --json`. `patch_b64` is there for a patch that is not UTF-8."""

    schema_version: Literal["loom.pull.v1"] = "loom.pull.v1"
    kind: Literal["pull"] = "pull"
    run_id: str
    changes: list[PulledChange]
    """What the patch does, or did (`applied`)."""
    patch: str
    patch_b64: str | UnsetType = UNSET
    applied: bool
    left_out: list[PathReason]
    """Made by the job, or not a file that a patch can have."""
    conflicts: list[PathReason]
    """Changed in the checkout too, or not applicable: in neither the patch nor the checkout."""


class Version(Document, frozen=True, kw_only=True):
    """The document of `loom version --json`."""

    schema_version: Literal["loom.version.v1"] = "loom.version.v1"
    kind: Literal["version"] = "version"
    loom: str
    python: str


BY_NAME: dict[str, type[Document]] = {
    "artifacts": ArtifactList,
    "cache-list": CacheList,
    "cache-removal": CacheRemoval,
    "cache-verification": CacheVerification,
    "check": Checked,
    "clean": Clean,
    "doctor": Doctor,
    "exec": Executed,
    "pull": Pulled,
    "version": Version,
    "workspace": WorkspacePath,
    "image-list": ImageList,
    "image-locking": ImageLocking,
    "image-removal": ImageRemoval,
    "image-verification": ImageVerification,
    "images": ImageSet,
    "plan": PlanDocument,
    "plan-explanation": PlanExplanation,
    "settings": SettingsList,
    "snapshot": SnapshotReport,
    "snapshot-explanation": SnapshotExplanation,
    "trust": TrustList,
    "verification": VerificationReport,
}
"""Documents by the names of their schemas."""
