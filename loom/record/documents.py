"""A run's documents: their shapes, and the pure fold that derives every one of them from the run's phase events.

`RunFold.apply` takes the events in `seq` order; at any moment its methods give the documents as they stand. Feeding the
events of a record again gives the same documents, byte for byte (`dump`), which is also how a run that was killed is read.
Paths in documents are relative to `logs/<run_id>/`, those in the receipt absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import orjson
from msgspec import Struct, field
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from loom.record.events import SCHEMA_VERSION, PhaseCode, PhaseEvent
from loom.record.facts import check_place
from loom.status import ExitCode, Status, exit_code_of, worst

RECEIPT_SCHEMA: Final = "loom.receipt.v1"
RUN_SCHEMA: Final = "loom.run.v1"
RUNS_SCHEMA: Final = "loom.runs.v1"
SHOW_SCHEMA: Final = "loom.show.v1"


def _moment(text: str) -> str:
    if not text.endswith("Z"):
        raise ValueError("no time in UTC")
    datetime.fromisoformat(text)
    return text


def _not_negative(value: Any) -> Any:
    """A clock that was set back while a phase went on."""
    return max(0.0, value) if isinstance(value, float) else value


def _inside(text: str) -> str:
    check_place(text)
    return text


Count = Annotated[int, Field(ge=0, le=1 << 53)]
Code = Annotated[int, Field(ge=-(1 << 31), le=1 << 53)]
Milliseconds = Annotated[float, Field(ge=0, le=1e15), BeforeValidator(_not_negative)]
Moment = Annotated[str, AfterValidator(_moment), Field(json_schema_extra={"format": "date-time"})]
Place = Annotated[str, AfterValidator(_inside), Field(min_length=1, json_schema_extra={"pattern": "^[^/]"})]
"""A path below `logs/<run_id>/`, or the name of a job, step or section, which is a part of one."""
Sha = Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
RunId = Annotated[str, Field(pattern="^[0-9]{1,20}$")]


class Document(BaseModel):
    # Schemas are built when first used: by then a container is starting, and nobody waits for it.
    model_config = ConfigDict(
        extra="forbid", frozen=True, defer_build=True, json_schema_serialization_defaults_required=True
    )


def build_schemas() -> None:
    """What the first use of each document would do (25 ms for all): for a moment when nobody waits."""
    for document in Document.__subclasses__():
        document.model_rebuild()


def dump(document: Document) -> bytes:
    """The file's bytes: indented JSON in field order, for people and machines alike."""
    shape = document.model_dump(mode="json", by_alias=True)
    return orjson.dumps(shape, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


class OutputCounts(Document):
    stdout_lines: Count = 0
    stderr_lines: Count = 0
    stdout_bytes: Count = 0
    stderr_bytes: Count = 0


class StepSummary(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["step-summary"] = "step-summary"
    run_id: RunId
    job_id: Place
    step: Place
    attempt: Count
    command: str
    file: str | None = None
    line: Code | None = None
    status: Status | None
    exit_code: Code | None
    error: str | None
    started_at: Moment
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    output: OutputCounts
    events_path: Place


class SectionSummary(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["section-summary"] = "section-summary"
    run_id: RunId
    job_id: Place
    section: Place
    phase_code: str
    status: Status | None
    error: str | None
    started_at: Moment
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    output: OutputCounts
    data: dict[str, Any] = Field(default_factory=dict)
    events_path: Place


class JobSummary(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["job-summary"] = "job-summary"
    run_id: RunId
    job_id: Place
    name: str
    stage: str
    status: Status | None
    exit_code: Code | None
    allowed_failure: bool
    attempts: Count
    error: str | None
    error_code: str | None = None
    blocked_by: str | None
    started_at: Moment | None
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    steps_total: Count
    steps_run: Count
    failing_step: Place | None
    failing_section: Place | None
    manifest_path: Place


class ManifestStep(Document):
    step: Place
    attempt: Count
    command: str
    file: str | None = None
    """Where the step is written; `line` is its first line."""
    line: Code | None = None
    literal: bool = False
    """Whether each further line of the command is a further line of the file."""
    status: Status | None
    exit_code: Code | None
    duration_ms: Milliseconds | None
    summary_path: Place
    events_path: Place


class ManifestSection(Document):
    section: Place
    status: Status | None
    duration_ms: Milliseconds | None
    error: str | None
    summary_path: Place
    events_path: Place


class ManifestImage(Document):
    name: str
    id: str
    digest: str


class ManifestPhase(Document):
    phase_code: str
    status: Status | None
    duration_ms: Milliseconds | None


class FailingTest(Document):
    name: str
    classname: str | None = None
    file: str | None = None
    line: Code | None = None
    message: str | None = None
    kind: Literal["failure", "error"] = "failure"
    report: str | None = None


class ManifestArtifacts(Document):
    name: str | None = None
    path: Place | None = None
    """A folder with the same files, in records of older looms."""
    archive_path: Place | None = None
    files: Count = 0
    bytes: Count = 0
    missing: list[str] = Field(default_factory=list)
    sha256: str | None = None
    skipped: list[dict[str, str]] = Field(default_factory=list)
    """The first ones of `skipped_total`."""
    skipped_total: Count = 0
    expire_in_s: Annotated[float, Field(ge=0, le=1e15)] | None = None


class JobManifest(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["job-manifest"] = "job-manifest"
    run_id: RunId
    job_id: Place
    name: str
    stage: str
    target: str
    provider: str
    matrix: dict[str, str]
    status: Status | None
    exit_code: Code | None
    allowed_failure: bool
    error: str | None
    error_code: str | None = None
    blocked_by: str | None
    failing_step: Place | None
    failing_step_events_path: Place | None
    failing_command: str | None
    failing_section: Place | None
    failing_section_events_path: Place | None
    failing_tests: list[FailingTest]
    """The first ones; `test_reports` has the totals."""
    test_reports: dict[str, Any] | None
    image: ManifestImage | None
    services: list[str]
    session: dict[str, Any]
    phases: list[ManifestPhase]
    steps: list[ManifestStep]
    system_sections: list[ManifestSection]
    artifacts: ManifestArtifacts | None
    caches: list[dict[str, Any]]
    changes: list[str]
    """The first ones of `changes_total`."""
    changes_total: Count = 0
    kept: dict[str, Any] | None
    warnings: list[str]
    summary_path: Place
    events_path: Place


class PipelineJob(Document):
    job_id: Place
    stage: str
    status: Status | None
    exit_code: Code | None
    allowed_failure: bool
    blocked_by: str | None
    duration_ms: Milliseconds | None
    summary_path: Place
    manifest_path: Place


class PipelineSummary(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["pipeline-summary"] = "pipeline-summary"
    run_id: RunId
    pipeline_id: str
    status: Status | None
    started_at: Moment | None
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    jobs_total: Count
    jobs_by_status: dict[str, Count]


class PipelineManifest(Document):
    schema_version: Literal["loom.runtime.logs.v2"] = SCHEMA_VERSION
    kind: Literal["pipeline-manifest"] = "pipeline-manifest"
    run_id: RunId
    pipeline_id: str
    status: Status | None
    stages: list[str]
    failing_job_id: Place | None
    failing_job_manifest_path: Place | None
    jobs: list[PipelineJob]
    left_out: list[dict[str, Any]]


class RunSummary(Document):
    schema_version: Literal["loom.run.v1"] = RUN_SCHEMA
    kind: Literal["run-summary"] = "run-summary"
    run_id: RunId
    pipeline_id: str
    status: Status | None
    exit_code: Code | None
    error: str | None
    error_code: str | None = None
    started_at: Moment
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    jobs_total: Count
    jobs_by_status: dict[str, Count]
    failing_job_id: Place | None
    pipeline_summary_path: Place
    pipeline_manifest_path: Place


class ReportPhase(Document):
    phase_code: str
    scope: str
    job_id: Place | None
    step: Place | None
    section: Place | None
    seq_started: Annotated[int, Field(ge=1, le=1 << 53)]
    seq_finished: Annotated[int, Field(ge=1, le=1 << 53)] | None
    status: Status | None
    duration_ms: Milliseconds | None


class PhaseReport(Document):
    """Whether the record is whole: every phase that must be there is, each one finished, and in order."""

    schema_version: Literal["loom.run.v1"] = RUN_SCHEMA
    kind: Literal["phase-report"] = "phase-report"
    run_id: RunId
    complete: bool
    missing: list[str]
    unfinished: list[str]
    out_of_order: list[str]
    phases: list[ReportPhase]


class ReceiptImage(Document):
    name: str
    id: str
    digest: str


class Receipt(Document):
    schema_version: Literal["loom.receipt.v1"] = RECEIPT_SCHEMA
    kind: Literal["loom-run-local"] = "loom-run-local"
    loom_version: str
    run_id: RunId
    command: list[str]
    repo_root: str | None
    workflow_path: str | None
    started_at: Moment
    finished_at: Moment | None
    duration_ms: Milliseconds | None
    status: Status
    exit_code: Code
    error: str | None
    error_code: str | None = None
    logs_dir: str
    events_jsonl_path: str
    phase_report_path: str
    run_summary_path: str
    pipeline_summary_path: str
    pipeline_manifest_path: str
    snapshot_path: str | None
    snapshot_head_sha: Sha | None
    snapshot_tree_sha: Sha | None
    snapshot: dict[str, Any] | None
    images: list[ReceiptImage]
    parent_run_id: str | None
    full_run: bool
    reused: list[str]


class RunRow(Document):
    """A run in the list of runs. `status` is a status, or `running`, or `interrupted` (loom was killed)."""

    run_id: RunId
    status: str
    exit_code: Code | None
    started_at: Moment
    duration_ms: Milliseconds | None
    last_event_at: Moment | None
    head_sha: Sha | None
    tree_sha: Sha | None
    failing_job_id: Place | None
    error: str | None
    command: list[str]
    repo_root: str | None
    workspace: str | None
    receipt_path: str | None
    logs_dir: str


class Runs(Document):
    """What `loom runs --json` prints, newest first."""

    schema_version: Literal["loom.runs.v1"] = RUNS_SCHEMA
    kind: Literal["runs"] = "runs"
    runs: list[RunRow]


class Commit(Document):
    """The commit that a snapshot was taken of, as the repository has it."""

    sha: Sha
    subject: str
    author: str
    time: Moment


class Show(Document):
    """What `loom show --json` prints: a run's documents in one. `receipt` is null for a run without an end."""

    schema_version: Literal["loom.show.v1"] = SHOW_SCHEMA
    kind: Literal["show"] = "show"
    run_id: RunId
    state: str
    last_event_at: Moment | None
    commit: Commit | None
    """Null where the repository, or the commit in it, is gone."""
    receipt: Receipt | None
    summary: RunSummary
    pipeline: PipelineManifest
    jobs: list[JobManifest]


_FIRST_PHASES = (PhaseCode.RUN_BOOTSTRAP, PhaseCode.RUN_PIPELINE_EXECUTE, PhaseCode.PIPELINE_EXECUTE)
_EVERY_RUN = (*_FIRST_PHASES, PhaseCode.RUN_FINALIZE)
_EVERY_JOB = (PhaseCode.JOB_PROVIDER_PREPARE, PhaseCode.JOB_EXECUTION, PhaseCode.JOB_CLEANUP)


class Span(Struct):
    """One phase that started, and its end if it came."""

    start: PhaseEvent
    end: PhaseEvent | None = None

    @property
    def status(self) -> Status | None:
        return self.end.status if self.end else None

    @property
    def duration_ms(self) -> float | None:
        return self.end.duration_ms if self.end else None

    @property
    def data(self) -> dict[str, Any]:
        return {**self.start.data, **(self.end.data if self.end else {})}


class JobState(Struct):
    id: str
    planned: dict[str, Any]
    steps: dict[tuple[int, str], Span] = field(default_factory=dict)
    sections: dict[str, Span] = field(default_factory=dict)
    phases: list[Span] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    result: PhaseEvent | None = None

    @property
    def attempts(self) -> int:
        begun = max((attempt for attempt, _ in self.steps), default=0 if self.result is None else 1)
        set_aside: int = self.facts.get("attempt_failed", {}).get("attempt", -1)
        return max(begun, set_aside + 1)

    @property
    def status(self) -> Status | None:
        return self.result.status if self.result else None

    @property
    def allowed_failure(self) -> bool:
        return bool(self.result and self.result.data.get("allowed_failure"))

    @property
    def blocked_by(self) -> str | None:
        return self.result.data.get("blocked_by") if self.result else None

    @property
    def started_at(self) -> str | None:
        return self.phases[0].start.ts if self.phases else None


def job_dir(job_id: str) -> str:
    return f"jobs/{job_id}"


def step_dir(job_id: str, step: str, attempt: int, attempts: int) -> str:
    """A job's last attempt is where readers look first; earlier ones are moved aside."""
    if attempt == attempts:
        return f"{job_dir(job_id)}/user/{step}"
    return f"{job_dir(job_id)}/attempts/{attempt}/user/{step}"


def section_dir(job_id: str, section: str) -> str:
    return f"{job_dir(job_id)}/system/{section}"


class RunFold:
    """Events in, documents out. Not thread-safe: the recorder feeds it under the journal's lock."""

    def __init__(self) -> None:
        self.run_id = ""
        self.pipeline_id = ""
        self.started: dict[str, Any] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, JobState] = {}
        self.spans: list[Span] = []
        self.images: dict[tuple[str, str], ReceiptImage] = {}
        self.first: PhaseEvent | None = None
        self.last: PhaseEvent | None = None
        self._open: dict[tuple[Any, ...], Span] = {}

    def apply(self, event: PhaseEvent) -> None:
        if self.first is None:
            self.first = event
            self.run_id, self.pipeline_id = event.run_id, event.pipeline_id
            if event.phase_code == PhaseCode.RUN_BOOTSTRAP and event.kind == "phase_started":
                self.started = dict(event.data)
        self.last = event
        match event.kind:
            case "phase_started":
                self._start(event)
            case "phase_finished":
                self._finish(event)
            case "message":
                self._fact(event)

    def job(self, job_id: str) -> JobState:
        state = self.jobs.get(job_id)
        if state is None:
            state = self.jobs[job_id] = JobState(job_id, {"id": job_id})
        return state

    def _start(self, event: PhaseEvent) -> None:
        span = Span(event)
        self.spans.append(span)
        self._open[_key(event)] = span
        if event.job_id is None:
            return
        job = self.job(event.job_id)
        if event.step is not None:
            job.steps[event.data.get("attempt", 1), event.step] = span
        elif event.section is not None:
            job.sections[event.section] = span
        else:
            job.phases.append(span)

    def _finish(self, event: PhaseEvent) -> None:
        span = self._open.pop(_key(event), None)
        if span is not None:
            span.end = event

    def _fact(self, event: PhaseEvent) -> None:
        name, data = event.message or "", dict(event.data)
        if event.job_id is None:
            if name == "plan_resolved":
                for planned in data.get("jobs", ()):
                    self.job(planned["id"]).planned = planned
            self.facts[name] = data
            return
        job = self.job(event.job_id)
        if name == "job_finished":
            job.result = event
        elif name in ("warning", "failing_test", "cache", "image_used"):
            job.lists.setdefault(name, []).append(data)
        else:
            job.facts[name] = data
        if name in ("image_resolved", "image_used") and data.get("name"):
            self.images[data["name"], data["id"]] = ReceiptImage(
                name=data["name"], id=data["id"], digest=data.get("digest", "")
            )

    # What follows reads only.

    def status(self) -> Status | None:
        """The run's status, None while it has not ended."""
        ended = self.facts.get("run_finished")
        return Status(ended["status"]) if ended else None

    def exit_code(self) -> int | None:
        ended = self.facts.get("run_finished")
        return int(ended["exit_code"]) if ended else None

    def error(self) -> str | None:
        return (self.facts.get("run_finished") or {}).get("error")

    def error_code(self) -> str | None:
        """Which of loom's errors it was; None for a step that failed, and for no error at all."""
        return (self.facts.get("run_finished") or {}).get("error_code")

    def pipeline_status(self) -> Status | None:
        span = self._span(PhaseCode.PIPELINE_EXECUTE)
        return span.status if span else None

    def failing_job(self) -> JobState | None:
        """The first job that ended badly and was not allowed to."""
        failed = [
            job
            for job in self.jobs.values()
            if job.result and job.status and not job.status.ok and not job.allowed_failure
        ]
        worth = [job for job in failed if job.status is not Status.CANCELED] or failed
        return min(worth, key=lambda job: job.result.seq if job.result else 0, default=None)

    def jobs_by_status(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            name = job.status or "unfinished"
            counts[str(name)] = counts.get(str(name), 0) + 1
        return dict(sorted(counts.items()))

    def _span(self, code: PhaseCode) -> Span | None:
        return next((span for span in self.spans if span.start.phase_code == code), None)

    def step_summary(self, job_id: str, attempt: int, step: str) -> StepSummary:
        job = self.jobs[job_id]
        span = job.steps[attempt, step]
        data = span.data
        return StepSummary(
            run_id=self.run_id,
            job_id=job_id,
            step=step,
            attempt=attempt,
            command=data.get("command", ""),
            file=data.get("file"),
            line=data.get("line"),
            status=span.status,
            exit_code=span.end.exit_code if span.end else None,
            error=span.end.error if span.end else None,
            started_at=span.start.ts,
            finished_at=span.end.ts if span.end else None,
            duration_ms=span.duration_ms,
            output=_counts(data),
            events_path=f"{step_dir(job_id, step, attempt, job.attempts)}/events.jsonl",
        )

    def section_summary(self, job_id: str, section: str) -> SectionSummary:
        span = self.jobs[job_id].sections[section]
        return SectionSummary(
            run_id=self.run_id,
            job_id=job_id,
            section=section,
            phase_code=span.start.phase_code,
            status=span.status,
            error=span.end.error if span.end else None,
            started_at=span.start.ts,
            finished_at=span.end.ts if span.end else None,
            duration_ms=span.duration_ms,
            output=_counts(span.data),
            data={key: value for key, value in span.data.items() if key != "output"},
            events_path=f"{section_dir(job_id, section)}/events.jsonl",
        )

    def failing_step(self, job: JobState) -> tuple[str, Span] | None:
        """`(step id, span)` of the step that made the job end as it did."""
        if job.result is None or job.result.data.get("failing_step") is None:
            return None
        step = job.result.data["failing_step"]
        span = job.steps.get((job.attempts, step))
        return (step, span) if span else None

    def job_summary(self, job_id: str) -> JobSummary:
        job = self.jobs[job_id]
        result = job.result
        data = dict(result.data) if result else {}
        return JobSummary(
            run_id=self.run_id,
            job_id=job_id,
            name=job.planned.get("name", job_id),
            stage=job.planned.get("stage", ""),
            status=job.status,
            exit_code=result.exit_code if result else None,
            allowed_failure=job.allowed_failure,
            attempts=job.attempts,
            error=result.error if result else None,
            error_code=data.get("error_code"),
            blocked_by=job.blocked_by,
            started_at=job.started_at,
            finished_at=result.ts if result else None,
            duration_ms=result.duration_ms if result else None,
            steps_total=len(job.planned.get("steps", ())),
            steps_run=sum(attempt == job.attempts for attempt, _ in job.steps),
            failing_step=data.get("failing_step"),
            failing_section=data.get("failing_section"),
            manifest_path=f"{job_dir(job_id)}/manifest.json",
        )

    def job_manifest(self, job_id: str) -> JobManifest:
        job = self.jobs[job_id]
        summary = self.job_summary(job_id)
        failing = self.failing_step(job)
        image = job.facts.get("image_resolved")
        artifacts = job.facts.get("artifacts_saved")
        return JobManifest(
            run_id=self.run_id,
            job_id=job_id,
            name=summary.name,
            stage=summary.stage,
            target=job.planned.get("target", "linux"),
            provider=job.planned.get("provider", ""),
            matrix=dict(job.planned.get("matrix", {})),
            status=summary.status,
            exit_code=summary.exit_code,
            allowed_failure=summary.allowed_failure,
            error=summary.error,
            error_code=summary.error_code,
            blocked_by=summary.blocked_by,
            failing_step=summary.failing_step,
            failing_step_events_path=(
                f"{step_dir(job_id, failing[0], job.attempts, job.attempts)}/events.jsonl" if failing else None
            ),
            failing_command=failing[1].start.data.get("command") if failing else None,
            failing_section=summary.failing_section,
            failing_section_events_path=(
                f"{section_dir(job_id, summary.failing_section)}/events.jsonl" if summary.failing_section else None
            ),
            failing_tests=[FailingTest(**test) for test in job.lists.get("failing_test", ())],
            test_reports=job.facts.get("test_reports"),
            image=ManifestImage(name=image["name"], id=image["id"], digest=image.get("digest", "")) if image else None,
            services=list(job.planned.get("services", ())),
            session=job.facts.get("session_opened", {}),
            phases=[
                ManifestPhase(phase_code=span.start.phase_code, status=span.status, duration_ms=span.duration_ms)
                for span in job.phases
            ],
            steps=[self._manifest_step(job, attempt, step, span) for (attempt, step), span in job.steps.items()],
            system_sections=[
                ManifestSection(
                    section=section,
                    status=span.status,
                    duration_ms=span.duration_ms,
                    error=span.end.error if span.end else None,
                    summary_path=f"{section_dir(job_id, section)}/summary.json",
                    events_path=f"{section_dir(job_id, section)}/events.jsonl",
                )
                for section, span in job.sections.items()
            ],
            artifacts=ManifestArtifacts(**artifacts) if artifacts else None,
            caches=job.lists.get("cache", []),
            changes=job.facts.get("workspace_changed", {}).get("paths", []),
            changes_total=job.facts.get("workspace_changed", {}).get("count", 0),
            kept=job.facts.get("session_kept"),
            warnings=[warning["text"] for warning in job.lists.get("warning", ())],
            summary_path=f"{job_dir(job_id)}/summary.json",
            events_path=f"{job_dir(job_id)}/events.jsonl",
        )

    def _manifest_step(self, job: JobState, attempt: int, step: str, span: Span) -> ManifestStep:
        place = step_dir(job.id, step, attempt, job.attempts)
        return ManifestStep(
            step=step,
            attempt=attempt,
            command=span.start.data.get("command", ""),
            file=span.start.data.get("file"),
            line=span.start.data.get("line"),
            literal=bool(span.start.data.get("literal")),
            status=span.status,
            exit_code=span.end.exit_code if span.end else None,
            duration_ms=span.duration_ms,
            summary_path=f"{place}/summary.json",
            events_path=f"{place}/events.jsonl",
        )

    def pipeline_summary(self) -> PipelineSummary:
        span = self._span(PhaseCode.PIPELINE_EXECUTE)
        return PipelineSummary(
            run_id=self.run_id,
            pipeline_id=self.pipeline_id,
            status=self.pipeline_status(),
            started_at=span.start.ts if span else None,
            finished_at=span.end.ts if span and span.end else None,
            duration_ms=span.duration_ms if span else None,
            jobs_total=len(self.jobs),
            jobs_by_status=self.jobs_by_status(),
        )

    def pipeline_manifest(self) -> PipelineManifest:
        plan = self.facts.get("plan_resolved", {})
        failing = self.failing_job()
        return PipelineManifest(
            run_id=self.run_id,
            pipeline_id=self.pipeline_id,
            status=self.pipeline_status(),
            stages=list(plan.get("stages", ())),
            failing_job_id=failing.id if failing else None,
            failing_job_manifest_path=f"{job_dir(failing.id)}/manifest.json" if failing else None,
            jobs=[
                PipelineJob(
                    job_id=job.id,
                    stage=job.planned.get("stage", ""),
                    status=job.status,
                    exit_code=job.result.exit_code if job.result else None,
                    allowed_failure=job.allowed_failure,
                    blocked_by=job.blocked_by,
                    duration_ms=job.result.duration_ms if job.result else None,
                    summary_path=f"{job_dir(job.id)}/summary.json",
                    manifest_path=f"{job_dir(job.id)}/manifest.json",
                )
                for job in self.jobs.values()
            ],
            left_out=list(plan.get("left_out", ())),
        )

    def run_summary(self) -> RunSummary:
        failing = self.failing_job()
        first, last = self.first, self.last
        assert first is not None
        assert last is not None
        ended = self.facts.get("run_finished")
        return RunSummary(
            run_id=self.run_id,
            pipeline_id=self.pipeline_id,
            status=self.status(),
            exit_code=self.exit_code(),
            error=self.error(),
            error_code=self.error_code(),
            started_at=first.ts,
            finished_at=last.ts if ended else None,
            duration_ms=ended.get("duration_ms") if ended else None,
            jobs_total=len(self.jobs),
            jobs_by_status=self.jobs_by_status(),
            failing_job_id=failing.id if failing else None,
            pipeline_summary_path="pipeline/summary.json",
            pipeline_manifest_path="pipeline/manifest.json",
        )

    def phase_report(self) -> PhaseReport:
        present = {span.start.phase_code for span in self.spans if span.start.job_id is None}
        missing = [code.value for code in _EVERY_RUN if code not in present]
        out_of_order = []
        for job in self.jobs.values():
            codes = [span.start.phase_code for span in job.phases]
            missing += [f"{job.id}: {code.value}" for code in _EVERY_JOB if code not in codes]
            first_seen = [codes.index(code) for code in _EVERY_JOB if code in codes]
            if first_seen != sorted(first_seen):
                out_of_order.append(job.id)
        run_order = [span.start.phase_code for span in self.spans if span.start.job_id is None]
        expected = [code.value for code in _EVERY_RUN if code in present]
        if [code for code in run_order if code in expected] != expected:
            out_of_order.append("run")
        unfinished = [_name(span.start) for span in self.spans if span.end is None]
        return PhaseReport(
            run_id=self.run_id,
            complete=not (missing or unfinished or out_of_order),
            missing=missing,
            unfinished=unfinished,
            out_of_order=out_of_order,
            phases=[
                ReportPhase(
                    phase_code=span.start.phase_code,
                    scope=span.start.scope,
                    job_id=span.start.job_id,
                    step=span.start.step,
                    section=span.start.section,
                    seq_started=span.start.seq,
                    seq_finished=span.end.seq if span.end else None,
                    status=span.status,
                    duration_ms=span.duration_ms,
                )
                for span in self.spans
            ],
        )

    def receipt(self) -> Receipt:
        assert self.first is not None
        assert self.last is not None
        logs = str(self.started.get("logs_dir", ""))
        snapshot = self.facts.get("snapshot_taken")
        ended = self.facts.get("run_finished", {})
        return Receipt(
            loom_version=self.started.get("loom_version", ""),
            run_id=self.run_id,
            command=list(self.started.get("command", ())),
            repo_root=self.started.get("repo_root"),
            workflow_path=self.started.get("workflow_path"),
            started_at=self.first.ts,
            finished_at=self.last.ts if ended else None,
            duration_ms=ended.get("duration_ms"),
            status=self.status() or Status.ERROR,
            exit_code=int(ended.get("exit_code", ExitCode.BUG)),
            error=self.error(),
            error_code=self.error_code(),
            logs_dir=logs,
            events_jsonl_path=f"{logs}/events.jsonl",
            phase_report_path=f"{logs}/phase-report.json",
            run_summary_path=f"{logs}/summary.json",
            pipeline_summary_path=f"{logs}/pipeline/summary.json",
            pipeline_manifest_path=f"{logs}/pipeline/manifest.json",
            snapshot_path=snapshot.get("path") if snapshot else None,
            snapshot_head_sha=snapshot.get("head_sha") if snapshot else None,
            snapshot_tree_sha=snapshot.get("tree_sha") if snapshot else None,
            snapshot=snapshot,
            images=[self.images[key] for key in sorted(self.images)],
            parent_run_id=self.started.get("parent_run_id"),
            full_run=bool(self.started.get("full_run", True)),
            reused=list(self.started.get("reused", ())),
        )


def _key(event: PhaseEvent) -> tuple[Any, ...]:
    return (event.phase_code, event.job_id, event.step, event.section)


def _name(event: PhaseEvent) -> str:
    return " ".join(part for part in (event.job_id, event.step or event.section, event.phase_code) if part)


def _counts(data: Mapping[str, Any]) -> OutputCounts:
    return OutputCounts(**data.get("output", {}))


def run_status(jobs: Mapping[str, tuple[Status, bool]]) -> Status:
    """The pipeline's status from each job's `(status, allowed to fail)`; a failure that is allowed counts as none."""
    if not jobs:
        return Status.SUCCESS
    status = worst(Status.SUCCESS if allowed else status for status, allowed in jobs.values())
    return Status.SUCCESS if status is Status.SKIPPED else status


def run_exit_code(status: Status, interrupted: ExitCode | None) -> ExitCode:
    return interrupted if interrupted is not None else exit_code_of(status)
