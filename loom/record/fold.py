"""Fold phase events in `seq` order to a run's state; the same events always give the same documents (`derive`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from loom.record.documents import UsedImage
from loom.record.events import PhaseCode, PhaseEvent
from loom.status import Status, worst

_LISTED = frozenset(
    ("warning", "failing_test", "finding", "cache", "artifact", "image_used", "step_state", "handed_on", "annotation")
)
"""The facts of a job of which there are several."""


class _WithEnd:
    """The facts of an end, None before it."""

    __slots__ = ()
    end: PhaseEvent | None

    @property
    def status(self) -> Status | None:
        return self.end.status if self.end else None

    @property
    def exit_code(self) -> int | None:
        return self.end.exit_code if self.end else None

    @property
    def error(self) -> str | None:
        return self.end.error if self.end else None

    @property
    def finished_at(self) -> str | None:
        return self.end.ts if self.end else None

    @property
    def duration_ms(self) -> float | None:
        return duration(self.end.duration_ms if self.end else None)


class _WithFacts:
    __slots__ = ()
    facts: dict[str, dict[str, Any]]

    def fact(self, name: str) -> dict[str, Any]:
        """Return the data of the last event with that name, or an empty mapping."""
        return self.facts.get(name, {})


class Span(Struct, _WithEnd):
    """One started phase, and its end if it has one."""

    start: PhaseEvent
    end: PhaseEvent | None = None

    @property
    def data(self) -> dict[str, Any]:
        return {**self.start.data, **(self.end.data if self.end else {})}


class JobState(Struct, _WithEnd, _WithFacts):
    id: str
    planned: dict[str, Any]
    steps: dict[tuple[int, str], Span] = {}
    """The spans of steps, by attempt and step."""
    sections: dict[str, Span] = {}
    phases: list[Span] = []
    facts: dict[str, dict[str, Any]] = {}
    lists: dict[str, list[Any]] = {}
    end: PhaseEvent | None = None

    def listed(self, name: str) -> list[Any]:
        """Return the data of all events with that name."""
        return self.lists.get(name, [])

    @property
    def attempts(self) -> int:
        # The last step is of the last attempt.
        begun = next(reversed(self.steps))[0] if self.steps else (0 if self.end is None else 1)
        set_aside: int = self.fact("attempt_failed").get("attempt", -1)
        return max(begun, set_aside + 1)

    @property
    def stage(self) -> str:
        return str(self.planned.get("stage", ""))

    @property
    def outcome(self) -> dict[str, Any]:
        """The data of the job's end; empty while it runs."""
        return dict(self.end.data) if self.end else {}

    @property
    def allowed_failure(self) -> bool:
        return bool(self.outcome.get("allowed_failure"))

    @property
    def blocked_by(self) -> str | None:
        return self.outcome.get("blocked_by")

    @property
    def started_at(self) -> str | None:
        return self.phases[0].start.ts if self.phases else None

    @property
    def attempt_started_at(self) -> str | None:
        """Return the time at which its last attempt began."""
        number = max(1, self.attempts)
        return next((span.start.ts for span in self.phases if span.start.data.get("attempt") == number), None)

    @property
    def failing_step(self) -> tuple[str, Span] | None:
        """`(step id, span)` of the step that decided the job's result."""
        step = self.outcome.get("failing_step")
        span = self.steps.get((self.attempts, step)) if step is not None else None
        return (step, span) if step is not None and span else None


class RunFold(Struct, _WithFacts):
    """Fold events to a state. Not thread-safe: the recorder calls it under the journal's lock."""

    run_id: str = ""
    started: dict[str, Any] = {}
    facts: dict[str, dict[str, Any]] = {}
    assisted: list[dict[str, Any]] = []
    jobs: dict[str, JobState] = {}
    spans: list[Span] = []
    images: dict[tuple[str, str], UsedImage] = {}
    first: PhaseEvent | None = None
    last: PhaseEvent | None = None
    _open: dict[tuple[str, str | None, str | None, str | None], Span] = {}

    def apply(self, event: PhaseEvent) -> None:
        if self.first is None:
            self.first = event
            self.run_id = event.run_id
            if event.phase_code == PhaseCode.RUN_BOOTSTRAP and event.kind == "phase_started":
                self.started = dict(event.data)
        self.last = event
        match event.kind:
            case "phase_started":
                self._start(event)
            case "phase_finished":
                span = self._open.pop(_key(event), None)
                if span is not None:
                    span.end = event
            case "message" if event.job_id is None:
                self._run_fact(event.message or "", dict(event.data))
            case "message":
                self._job_fact(self._job(event.job_id or ""), event, dict(event.data))

    def _job(self, job_id: str) -> JobState:
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
        job = self._job(event.job_id)
        if event.step is not None:
            job.steps[event.data.get("attempt", 1), event.step] = span
        elif event.section is not None:
            job.sections[event.section] = span
        else:
            job.phases.append(span)

    def _run_fact(self, name: str, data: dict[str, Any]) -> None:
        if name == "plan_resolved":  # again when a job has become several
            ids = {planned["id"] for planned in data.get("jobs", ())}
            self.jobs = {
                job_id: job for job_id, job in self.jobs.items() if job_id in ids or job.phases or job.end or job.facts
            }
            for planned in data.get("jobs", ()):
                self._job(planned["id"]).planned = planned
        if name == "assisted":
            self.assisted.append(data)
        self.facts[name] = data

    def _job_fact(self, job: JobState, event: PhaseEvent, data: dict[str, Any]) -> None:
        name = event.message or ""
        if name == "job_finished":
            job.end = event
        elif name in _LISTED:
            job.lists.setdefault(name, []).append(data)
        else:
            job.facts[name] = data
        if name in ("image_resolved", "image_used") and data.get("name"):
            self.images[data["name"], data["id"]] = image_of(data)

    # Read-only from here on.

    @property
    def end(self) -> dict[str, Any]:
        """The run's result: `status`, `exit_code`, `duration_ms`, `error`, `error_code`. Empty while it runs."""
        return self.fact("run_finished")

    @property
    def status(self) -> Status | None:
        """The run's status, None while it runs."""
        return Status(self.end["status"]) if self.end else None

    @property
    def pipeline(self) -> Span | None:
        return next((span for span in self.spans if span.start.phase_code == PhaseCode.PIPELINE_EXECUTE), None)

    @property
    def kept(self) -> Mapping[str, Mapping[str, Any]]:
        """Return, by job, the facts of its kept container or workspace."""
        return {job.id: job.facts["session_kept"] for job in self.jobs.values() if "session_kept" in job.facts}

    @property
    def paused(self) -> bool:
        """Return whether a job waits at its failing step to be resumed."""
        return any(fact.get("paused") for fact in self.kept.values())

    @property
    def newest_phase(self) -> str:
        """The phase that began last, of those that have not ended."""
        return next((span.start.phase_code for span in reversed([*self._open.values()])), "")

    @property
    def all_passed(self) -> bool:
        return all(job.status is Status.SUCCESS or job.allowed_failure for job in self.jobs.values())

    def failing_job(self) -> JobState | None:
        """Return the first failed job that was not allowed to fail."""
        return next(iter(self.failed_jobs()), None)

    def failed_jobs(self) -> list[JobState]:
        """Return the failed jobs, canceled ones if no other failed; first those that decide the exit code, by their ends."""
        failed = [
            job
            for job in self.jobs.values()
            if job.end and job.status and not job.status.ok and not job.allowed_failure
        ]
        worth = [job for job in failed if job.status is not Status.CANCELED] or failed
        decisive = worst(job.status for job in worth if job.status)
        return sorted(worth, key=lambda job: (job.status is not decisive, job.end.seq if job.end else 0))

    @property
    def failed_earlier(self) -> dict[str, str]:
        """The jobs that failed in an earlier run and did not run again in this one: job -> that run."""
        reused: dict[str, dict[str, Any]] = self.fact("results_reused").get("jobs", {})
        return {
            job_id: job.get("run_id") or str(self.started.get("parent_run_id"))
            for job_id, job in reused.items()
            if not Status(job["status"]).ok and not job["allowed_failure"]
        }

    def jobs_by_status(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for job in self.jobs.values():
            name = str(job.status or "unfinished")
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))


def duration(milliseconds: float | None) -> float | None:
    """Return the duration; never negative, even if a clock was set back."""
    return None if milliseconds is None else max(0.0, milliseconds)


def image_of(fact: dict[str, Any]) -> UsedImage:
    return UsedImage(name=fact["name"], id=fact["id"], digest=fact.get("digest", ""))


def _key(event: PhaseEvent) -> tuple[str, str | None, str | None, str | None]:
    return (event.phase_code, event.job_id, event.step, event.section)
