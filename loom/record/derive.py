"""Derive a run's documents from its state; one pure function per document."""

from __future__ import annotations

from typing import Any, TypeVar

from loom.record import documents
from loom.record.documents import RUN_SCHEMA, SCHEMA_VERSION
from loom.record.events import PhaseCode
from loom.record.extent import extent_of, unlike_of
from loom.record.fold import RunFold, Span, duration, image_of
from loom.record.request import Request
from loom.status import ExitCode, FailingTest, Failure, Status
from loom.util import typed

T = TypeVar("T")
_EVERY_RUN = (
    PhaseCode.RUN_BOOTSTRAP,
    PhaseCode.RUN_PIPELINE_EXECUTE,
    PhaseCode.PIPELINE_EXECUTE,
    PhaseCode.RUN_FINALIZE,
)
_OF_JOBS = ("stage", "status", "exit_code", "allowed_failure", "blocked_by", "duration_ms")
_OF_JOB = (*_OF_JOBS, "error", "attempts", "started_at", "finished_at")
_EVERY_JOB = (PhaseCode.JOB_PROVIDER_PREPARE, PhaseCode.JOB_EXECUTION, PhaseCode.JOB_CLEANUP)


def job_dir(job_id: str) -> str:
    return f"jobs/{job_id}"


def step_dir(job_id: str, step: str, attempt: int, attempts: int) -> str:
    """Return the directory. Readers look for a job's last attempt first; earlier ones are moved aside."""
    if attempt == attempts:
        return f"{job_dir(job_id)}/user/{step}"
    return f"{job_dir(job_id)}/attempts/{attempt}/user/{step}"


def section_dir(job_id: str, section: str) -> str:
    return f"{job_dir(job_id)}/system/{section}"


def output_file(job_id: str, step: str | None, section: str | None) -> str:
    """Return the file with the events and the output of a section, or of a step of the last attempt."""
    folder = section_dir(job_id, section or "") if step is None else step_dir(job_id, step, 1, 1)
    return f"{folder}/events.jsonl"


def _converted(kind: type[T], shape: Any) -> T | None:
    return None if shape is None else typed.convert(shape, kind)


def job_manifest(fold: RunFold, job_id: str) -> documents.JobManifest:
    job = fold.jobs[job_id]
    section = job.outcome.get("failing_section")
    failing_step, failing_span = job.failing_step or (None, None)
    image = job.facts.get("image_resolved")
    own: dict[str, Any] = {name: getattr(job, name) for name in _OF_JOB}
    own |= {name: job.outcome.get(name) for name in ("error_code", "failing_step", "failing_section")}
    return documents.JobManifest(
        **own,
        run_id=fold.run_id,
        job_id=job.id,
        name=job.planned.get("name", job.id),
        target=job.planned.get("target", "linux"),
        provider=job.planned.get("provider", ""),
        matrix=dict(job.planned.get("matrix", {})),
        failing_step_events_path=output_file(job_id, failing_step, None) if failing_step else None,
        failing_command=failing_span.start.data.get("command") if failing_span else None,
        failing_section_events_path=output_file(job_id, None, section) if section else None,
        failing_tests=[typed.convert(test, FailingTest) for test in job.listed("failing_test")],
        test_reports=job.facts.get("test_reports"),
        findings=[typed.convert(one, Failure) for one in job.listed("finding")],
        finding_reports=job.facts.get("finding_reports"),
        image=image_of(image) if image else None,
        services=list(job.planned.get("services", ())),
        session=job.fact("session_opened"),
        phases=[
            documents.ManifestPhase(phase_code=span.start.phase_code, status=span.status, duration_ms=span.duration_ms)
            for span in job.phases
        ],
        steps=[
            documents.ManifestStep(
                step=step,
                attempt=attempt,
                command=span.start.data.get("command", ""),
                file=span.start.data.get("file"),
                line=span.start.data.get("line"),
                literal=bool(span.start.data.get("literal")),
                exit_code=span.exit_code,
                **_listed(span, step_dir(job.id, step, attempt, job.attempts)),
            )
            for (attempt, step), span in job.steps.items()
        ],
        system_sections=[
            documents.ManifestSection(section=name, error=span.error, **_listed(span, section_dir(job.id, name)))
            for name, span in job.sections.items()
        ],
        artifacts=_converted(documents.SavedArtifacts, job.facts.get("artifacts_saved")),
        uploads=job.listed("artifact"),
        caches=job.listed("cache"),
        kept=job.facts.get("session_kept"),
        warnings=[warning["text"] for warning in job.listed("warning")],
        events_path=f"{job_dir(job_id)}/events.jsonl",
    )


def _listed(span: Span, folder: str) -> dict[str, Any]:
    """Return the common fields of steps and sections in a manifest."""
    return {"status": span.status, "duration_ms": span.duration_ms, "events_path": f"{folder}/events.jsonl"}


def pipeline_manifest(fold: RunFold) -> dict[str, Any]:
    plan, span = fold.fact("plan_resolved"), fold.pipeline
    failing = fold.failing_job()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "pipeline-manifest",
        "run_id": fold.run_id,
        "pipeline_id": fold.run_id,
        "status": span.status if span else None,
        "started_at": span.start.ts if span else None,
        "finished_at": span.finished_at if span else None,
        "duration_ms": span.duration_ms if span else None,
        "stages": list(plan.get("stages", ())),
        "failing_job_id": failing.id if failing else None,
        "failing_job_manifest_path": f"{job_dir(failing.id)}/manifest.json" if failing else None,
        "jobs": [
            {
                "job_id": job.id,
                **{name: getattr(job, name) for name in _OF_JOBS},
                "manifest_path": f"{job_dir(job.id)}/manifest.json",
            }
            for job in fold.jobs.values()
        ],
        "left_out": list(plan.get("left_out", ())),
    }


def phase_report(fold: RunFold) -> dict[str, Any]:
    """State whether the record is complete: all required phases, finished and in order."""
    of_run = [span for span in fold.spans if span.start.job_id is None]
    of_jobs = [(job.id, f"{job.id}: ", _EVERY_JOB, job.phases) for job in fold.jobs.values()]
    missing, out_of_order = list[str](), list[str]()
    for name, prefix, required, spans in (("run", "", _EVERY_RUN, of_run), *of_jobs):
        codes = [span.start.phase_code for span in spans]
        missing += [f"{prefix}{code}" for code in required if code not in codes]
        first_seen = [codes.index(code) for code in required if code in codes]
        if first_seen != sorted(first_seen):
            out_of_order.append(name)
    open_ = [span.start for span in fold.spans if span.end is None]
    names = [(start.job_id, start.step or start.section, start.phase_code) for start in open_]
    unfinished = [" ".join(filter(None, name)) for name in names]
    return {
        "schema_version": RUN_SCHEMA,
        "kind": "phase-report",
        "run_id": fold.run_id,
        "complete": not (missing or unfinished or out_of_order),
        "missing": missing,
        "unfinished": unfinished,
        "out_of_order": out_of_order,
        "phases": [
            {
                **{key: getattr(span.start, key) for key in ("phase_code", "scope", "job_id", "step", "section")},
                "seq_started": span.start.seq,
                "seq_finished": span.end.seq if span.end else None,
                "status": span.status,
                "duration_ms": span.duration_ms,
            }
            for span in fold.spans
        ],
    }


def receipt(fold: RunFold) -> documents.Receipt:
    started, ended = fold.started, fold.end
    logs = str(started.get("logs_dir", ""))
    snapshot, failing = fold.facts.get("snapshot_taken"), fold.failing_job()
    assert fold.first is not None
    assert fold.last is not None
    return documents.Receipt(
        run_id=fold.run_id,
        error=ended.get("error"),
        error_code=ended.get("error_code"),
        failing_job_id=failing.id if failing else None,
        jobs_by_status=fold.jobs_by_status(),
        started_at=fold.first.ts,
        finished_at=fold.last.ts if ended else None,
        duration_ms=duration(ended.get("duration_ms")),
        loom_version=started.get("loom_version", ""),
        command=list(started.get("command", ())),
        invocation=typed.convert(started.get("invocation", {}), Request),
        origin=started.get("origin"),
        repo_root=started.get("repo_root"),
        workflow_path=started.get("workflow_path"),
        status=fold.status or Status.ERROR,
        exit_code=int(ended.get("exit_code", ExitCode.BUG)),
        resume_command=f"loom resume {fold.run_id}" if ended.get("exit_code") == ExitCode.PAUSED else None,
        logs_dir=logs,
        events_jsonl_path=f"{logs}/events.jsonl",
        phase_report_path=f"{logs}/phase-report.json",
        pipeline_manifest_path=f"{logs}/pipeline/manifest.json",
        snapshot_path=snapshot.get("path") if snapshot else None,
        snapshot_head_sha=snapshot.get("head_sha") if snapshot else None,
        snapshot_tree_sha=snapshot.get("tree_sha") if snapshot else None,
        snapshot=snapshot,
        images=[fold.images[key] for key in sorted(fold.images)],
        extent=_converted(documents.Extent, ended.get("extent")) or extent_of(fold),
        unlike_ci={job_id: list(words) for job_id, words in unlike_of(fold).items()},
    )
