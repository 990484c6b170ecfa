"""Derive a run's documents from its state; one pure function per document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from loom.record.coverage import recorded_extent
from loom.record.documents import (
    RUN_SCHEMA,
    SCHEMA_VERSION,
    Highlights,
    Invocation,
    JobManifest,
    JobSummary,
    ManifestPhase,
    ManifestSection,
    ManifestStep,
    OutputCounts,
    Receipt,
    RunSummary,
    SavedArtifacts,
    SectionSummary,
    StepSummary,
)
from loom.record.events import PhaseCode, PhaseEvent
from loom.record.fold import JobState, RunFold, Span, duration, image_of
from loom.status import EndedBy, ExitCode, FailingTest, Failure, Status

T = TypeVar("T")
_OF_JOB = (
    *("run_id", "job_id", "name", "stage", "status", "exit_code", "allowed_failure", "error", "error_code"),
    *("blocked_by", "failing_step", "failing_section"),
)
"""The fields that the summary and the manifest of a job have in common."""
_EVERY_RUN = (
    PhaseCode.RUN_BOOTSTRAP,
    PhaseCode.RUN_PIPELINE_EXECUTE,
    PhaseCode.PIPELINE_EXECUTE,
    PhaseCode.RUN_FINALIZE,
)
_EVERY_JOB = (PhaseCode.JOB_PROVIDER_PREPARE, PhaseCode.JOB_EXECUTION, PhaseCode.JOB_CLEANUP)


def job_dir(job_id: str) -> str:
    return f"jobs/{job_id}"


def step_dir(job_id: str, step: str, attempt: int, attempts: int) -> str:
    """Readers look for a job's last attempt first; earlier ones are moved aside."""
    if attempt == attempts:
        return f"{job_dir(job_id)}/user/{step}"
    return f"{job_dir(job_id)}/attempts/{attempt}/user/{step}"


def section_dir(job_id: str, section: str) -> str:
    return f"{job_dir(job_id)}/system/{section}"


def output_file(job_id: str, step: str | None, section: str | None) -> str:
    """Return the file with the events and the output of a section, or of a step of the last attempt."""
    folder = section_dir(job_id, section or "") if step is None else step_dir(job_id, step, 1, 1)
    return f"{folder}/events.jsonl"


# -- steps and sections


def step_summary(fold: RunFold, job_id: str, attempt: int, step: str) -> StepSummary:
    job = fold.jobs[job_id]
    span = job.steps[attempt, step]
    data = span.data
    return StepSummary(
        run_id=fold.run_id,
        job_id=job_id,
        step=step,
        attempt=attempt,
        command=data.get("command", ""),
        file=data.get("file"),
        line=data.get("line"),
        exit_code=span.exit_code,
        ended_by=_as(EndedBy, data.get("ended_by")),
        **_of_span(span),
        events_path=f"{step_dir(job_id, step, attempt, job.attempts)}/events.jsonl",
    )


def section_summary(fold: RunFold, job_id: str, section: str) -> SectionSummary:
    span = fold.jobs[job_id].sections[section]
    return SectionSummary(
        run_id=fold.run_id,
        job_id=job_id,
        section=section,
        phase_code=span.start.phase_code,
        **_of_span(span),
        data={key: value for key, value in span.data.items() if key not in ("output", "highlights")},
        events_path=f"{section_dir(job_id, section)}/events.jsonl",
    )


def _of_span(span: Span) -> dict[str, Any]:
    """Return what the summaries of steps and sections have in common."""
    return {
        "status": span.status,
        "error": span.error,
        "started_at": span.start.ts,
        "finished_at": span.finished_at,
        "duration_ms": span.duration_ms,
        "output": OutputCounts(**span.data.get("output", {})),
        "highlights": _as(Highlights, span.data.get("highlights")),
    }


def _as(kind: type[T], shape: Any) -> T | None:
    return None if shape is None else msgspec.convert(shape, kind)


# -- jobs


def job_summary(fold: RunFold, job_id: str) -> JobSummary:
    job = fold.jobs[job_id]
    return JobSummary(
        run_id=fold.run_id,
        job_id=job_id,
        name=job.planned.get("name", job_id),
        stage=job.stage,
        status=job.status,
        exit_code=job.exit_code,
        allowed_failure=job.allowed_failure,
        attempts=job.attempts,
        error=job.result.error if job.result else None,
        error_code=job.outcome.get("error_code"),
        blocked_by=job.blocked_by,
        started_at=job.started_at,
        finished_at=job.result.ts if job.result else None,
        duration_ms=job.duration_ms,
        steps_total=len(job.planned.get("steps", ())),
        steps_run=sum(attempt == job.attempts for attempt, _ in job.steps),
        failing_step=job.outcome.get("failing_step"),
        failing_section=job.outcome.get("failing_section"),
        manifest_path=f"{job_dir(job_id)}/manifest.json",
    )


def job_manifest(fold: RunFold, job_id: str) -> JobManifest:
    job = fold.jobs[job_id]
    summary = job_summary(fold, job_id)
    section = summary.failing_section
    failing_step, failing_span = job.failing_step or (None, None)
    image = job.facts.get("image_resolved")
    return JobManifest(
        **{name: getattr(summary, name) for name in _OF_JOB},
        target=job.planned.get("target", "linux"),
        provider=job.planned.get("provider", ""),
        matrix=dict(job.planned.get("matrix", {})),
        failing_step_events_path=(
            f"{step_dir(job_id, failing_step, job.attempts, job.attempts)}/events.jsonl" if failing_step else None
        ),
        failing_command=failing_span.start.data.get("command") if failing_span else None,
        failing_section_events_path=f"{section_dir(job_id, section)}/events.jsonl" if section else None,
        failing_tests=[msgspec.convert(test, FailingTest) for test in job.lists.get("failing_test", ())],
        test_reports=job.facts.get("test_reports"),
        findings=[msgspec.convert(one, Failure) for one in job.lists.get("finding", ())],
        finding_reports=job.facts.get("finding_reports"),
        image=image_of(image) if image else None,
        services=list(job.planned.get("services", ())),
        session=job.facts.get("session_opened", {}),
        phases=[
            ManifestPhase(phase_code=span.start.phase_code, status=span.status, duration_ms=span.duration_ms)
            for span in job.phases
        ],
        steps=list(_manifest_steps(job)),
        system_sections=list(_manifest_sections(job)),
        artifacts=_as(SavedArtifacts, job.facts.get("artifacts_saved")),
        uploads=job.lists.get("artifact", []),
        caches=job.lists.get("cache", []),
        kept=job.facts.get("session_kept"),
        warnings=[warning["text"] for warning in job.lists.get("warning", ())],
        summary_path=f"{job_dir(job_id)}/summary.json",
        events_path=f"{job_dir(job_id)}/events.jsonl",
    )


def _manifest_steps(job: JobState) -> Iterator[ManifestStep]:
    for (attempt, step), span in job.steps.items():
        place = step_dir(job.id, step, attempt, job.attempts)
        data = span.start.data
        yield ManifestStep(
            step=step,
            attempt=attempt,
            command=data.get("command", ""),
            file=data.get("file"),
            line=data.get("line"),
            literal=bool(data.get("literal")),
            status=span.status,
            exit_code=span.exit_code,
            duration_ms=span.duration_ms,
            summary_path=f"{place}/summary.json",
            events_path=f"{place}/events.jsonl",
        )


def _manifest_sections(job: JobState) -> Iterator[ManifestSection]:
    for section, span in job.sections.items():
        place = section_dir(job.id, section)
        yield ManifestSection(
            section=section,
            status=span.status,
            duration_ms=span.duration_ms,
            error=span.error,
            summary_path=f"{place}/summary.json",
            events_path=f"{place}/events.jsonl",
        )


# -- pipeline and run


def pipeline_summary(fold: RunFold) -> dict[str, Any]:
    span = fold.pipeline
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "pipeline-summary",
        "run_id": fold.run_id,
        "pipeline_id": fold.pipeline_id,
        "status": span.status if span else None,
        "started_at": span.start.ts if span else None,
        "finished_at": span.finished_at if span else None,
        "duration_ms": span.duration_ms if span else None,
        "jobs_total": len(fold.jobs),
        "jobs_by_status": fold.jobs_by_status(),
    }


def pipeline_manifest(fold: RunFold) -> dict[str, Any]:
    plan = fold.facts.get("plan_resolved", {})
    failing = fold.failing_job()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "pipeline-manifest",
        "run_id": fold.run_id,
        "pipeline_id": fold.pipeline_id,
        "status": fold.pipeline.status if fold.pipeline else None,
        "stages": list(plan.get("stages", ())),
        "failing_job_id": failing.id if failing else None,
        "failing_job_manifest_path": f"{job_dir(failing.id)}/manifest.json" if failing else None,
        "jobs": [_pipeline_job(job) for job in fold.jobs.values()],
        "left_out": list(plan.get("left_out", ())),
    }


def _pipeline_job(job: JobState) -> dict[str, Any]:
    same = ("stage", "status", "exit_code", "allowed_failure", "blocked_by", "duration_ms")
    paths = {f"{name}_path": f"{job_dir(job.id)}/{name}.json" for name in ("summary", "manifest")}
    return {"job_id": job.id, **{name: getattr(job, name) for name in same}, **paths}


def run_summary(fold: RunFold) -> RunSummary:
    failing = fold.failing_job()
    first, last = _ends(fold)
    return RunSummary(
        run_id=fold.run_id,
        pipeline_id=fold.pipeline_id,
        status=fold.status,
        exit_code=fold.end.get("exit_code"),
        error=fold.end.get("error"),
        error_code=fold.end.get("error_code"),
        started_at=first.ts,
        finished_at=last.ts if fold.end else None,
        duration_ms=duration(fold.end.get("duration_ms")),
        jobs_total=len(fold.jobs),
        jobs_by_status=fold.jobs_by_status(),
        failing_job_id=failing.id if failing else None,
        pipeline_summary_path="pipeline/summary.json",
        pipeline_manifest_path="pipeline/manifest.json",
    )


def phase_report(fold: RunFold) -> dict[str, Any]:
    """Return whether the record is complete: all required phases, finished and in order."""
    order = [span.start.phase_code for span in fold.spans if span.start.job_id is None]
    missing = [code.value for code in _EVERY_RUN if code not in order]
    out_of_order = []
    for job in fold.jobs.values():
        codes = [span.start.phase_code for span in job.phases]
        missing += [f"{job.id}: {code.value}" for code in _EVERY_JOB if code not in codes]
        first_seen = [codes.index(code) for code in _EVERY_JOB if code in codes]
        if first_seen != sorted(first_seen):
            out_of_order.append(job.id)
    expected = [code.value for code in _EVERY_RUN if code in order]
    if [code for code in order if code in expected] != expected:
        out_of_order.append("run")
    unfinished = [_phase_name(span.start) for span in fold.spans if span.end is None]
    return {
        "schema_version": RUN_SCHEMA,
        "kind": "phase-report",
        "run_id": fold.run_id,
        "complete": not (missing or unfinished or out_of_order),
        "missing": missing,
        "unfinished": unfinished,
        "out_of_order": out_of_order,
        "phases": [_report_phase(span) for span in fold.spans],
    }


def _report_phase(span: Span) -> dict[str, Any]:
    place = {key: getattr(span.start, key) for key in ("phase_code", "scope", "job_id", "step", "section")}
    seq = {"seq_started": span.start.seq, "seq_finished": span.end.seq if span.end else None}
    return {**place, **seq, "status": span.status, "duration_ms": span.duration_ms}


def receipt(fold: RunFold) -> Receipt:
    first, last = _ends(fold)
    started, ended = fold.started, fold.end
    logs = str(started.get("logs_dir", ""))
    snapshot = fold.facts.get("snapshot_taken")
    return Receipt(
        loom_version=started.get("loom_version", ""),
        run_id=fold.run_id,
        command=list(started.get("command", ())),
        invocation=msgspec.convert(started.get("invocation", {}), Invocation),
        origin=started.get("origin"),
        repo_root=started.get("repo_root"),
        workflow_path=started.get("workflow_path"),
        started_at=first.ts,
        finished_at=last.ts if ended else None,
        duration_ms=duration(ended.get("duration_ms")),
        status=fold.status or Status.ERROR,
        exit_code=int(ended.get("exit_code", ExitCode.BUG)),
        error=ended.get("error"),
        error_code=ended.get("error_code"),
        resume_command=f"loom resume {fold.run_id}" if ended.get("exit_code") == ExitCode.PAUSED else None,
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
        images=[fold.images[key] for key in sorted(fold.images)],
        extent=recorded_extent(fold),
    )


def _ends(fold: RunFold) -> tuple[PhaseEvent, PhaseEvent]:
    assert fold.first is not None
    assert fold.last is not None
    return fold.first, fold.last


def _phase_name(event: PhaseEvent) -> str:
    return " ".join(part for part in (event.job_id, event.step or event.section, event.phase_code) if part)
