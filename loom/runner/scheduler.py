"""Which job next. `decide` is pure: plan and states in, what to start and what to skip out; `run_jobs` loops over it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Job, Plan
from loom.status import JobResult, Skip, Status


class Decision(Struct, frozen=True, kw_only=True):
    start: tuple[str, ...] = ()
    skip: tuple[Skip, ...] = field(default=())


def decide(plan: Plan, results: Mapping[str, JobResult], running: frozenset[str]) -> Decision:
    """What may start now, in plan order, and what will never start.

    A job with `needs` waits for these alone, any other for all jobs of the stages before. `on_success` needs each of
    them to have succeeded (or been allowed to fail), and is skipped as soon as one did not; `on_failure` starts when
    all are over and one failed; `always` when all are over. Plan order is topological, so one pass settles whole
    chains of skips.
    """
    start: list[str] = []
    skip: list[Skip] = []
    known = dict(results)
    for job in plan.jobs:
        if job.id in known or job.id in running:
            continue
        verdict = _verdict(job, waits_for(plan, job), known)
        if isinstance(verdict, Skip):
            skip.append(verdict)
            known[job.id] = JobResult(status=Status.SKIPPED)
        elif verdict:
            start.append(job.id)
    return Decision(start=tuple(start), skip=tuple(skip))


def waits_for(plan: Plan, job: Job) -> list[str]:
    """The jobs that must be over before this one can start."""
    if job.needs is not None:
        present = {other.id for other in plan.jobs}
        return [need.job for need in job.needs if need.job in present]
    before = plan.stages[: plan.stages.index(job.stage)]
    return [other.id for other in plan.jobs if other.stage in before]


def _verdict(job: Job, waits_for: list[str], results: Mapping[str, JobResult]) -> Skip | bool:
    over = {job_id: results[job_id] for job_id in waits_for if job_id in results}
    all_over = len(over) == len(waits_for)
    failed = [
        job_id for job_id, result in over.items() if not result.lets_go_on and result.status is not Status.SKIPPED
    ]
    if job.when == "always":
        return all_over
    if job.when == "on_failure":
        if failed:
            return all_over
        return Skip(job_id=job.id, reason="nothing before it failed") if all_over else False
    if failed:
        return Skip(job_id=job.id, reason=f"{failed[0]} did not succeed", blocked_by=failed[0])
    skipped = [job_id for job_id, result in over.items() if result.status is Status.SKIPPED]
    if skipped and job.needs is not None:
        return Skip(job_id=job.id, reason=f"{skipped[0]} was skipped", blocked_by=skipped[0])
    return all_over


def run_jobs(
    plan: Plan,
    *,
    run_job: Callable[[Job], JobResult],
    on_skip: Callable[[Job, Skip], None],
    at_most: int,
    cancel: Cancel,
    fail_fast: bool = False,
    stop: Callable[[], None] | None = None,
    on_stuck: Callable[[Job], JobResult] = lambda job: JobResult(status=Status.CANCELED),
    done: Mapping[str, JobResult] | None = None,
) -> dict[str, JobResult]:
    """Run the plan's jobs in threads, at most `at_most` at once; results in plan order.

    `done` are jobs that ran in an earlier run, and do not run again. `stop` is called when `fail_fast` ends the rest.
    After a cancel nothing new starts: what waits is skipped. A job that has not ended `cancel.AT_ONCE_S` after the second
    request is left behind with the result that `on_stuck` gives it. An exception out of `run_job` (a bug, a record that can't be
    written) is raised here once the running jobs are over.
    """
    results: dict[str, JobResult] = dict(done or {})
    running: set[str] = set()
    over: queue.SimpleQueue[tuple[str, JobResult | BaseException] | None] = queue.SimpleQueue()
    broken: BaseException | None = None
    stopping: str | None = None

    def work(job: Job) -> None:
        try:
            over.put((job.id, run_job(job)))
        except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
            over.put((job.id, error))

    unregister = cancel.on_request(lambda: over.put(None))
    while len(results) < len(plan.jobs):
        if stopping is None and cancel.requested:
            stopping = "the run was interrupted"
        if stopping is not None or broken is not None:
            reason = stopping or "the run broke"
            for job in plan.jobs:
                if job.id not in results and job.id not in running:
                    results[job.id] = JobResult(status=Status.SKIPPED)
                    if broken is None:
                        on_skip(job, Skip(job_id=job.id, reason=reason))
        else:
            decision = decide(plan, results, frozenset(running))
            for skip in decision.skip:
                results[skip.job_id] = JobResult(status=Status.SKIPPED)
                on_skip(plan.job(skip.job_id), skip)
            for job_id in decision.start[: max(0, at_most - len(running))]:
                running.add(job_id)
                threading.Thread(target=work, args=(plan.job(job_id),), name=f"job {job_id}", daemon=True).start()
        if not running:
            if len(results) < len(plan.jobs) and stopping is None and broken is None:
                decision = decide(plan, results, frozenset())
                if not decision.start and not decision.skip:
                    raise AssertionError("no job can start: the plan has a cycle")
            continue
        try:
            # No limit before the second request: each job has its own, and a request puts something in.
            ended = over.get(timeout=cancel.at_once_s)
        except queue.Empty:
            for job_id in sorted(running):
                results[job_id] = on_stuck(plan.job(job_id))
            running.clear()
            continue
        if ended is None:
            continue
        job_id, outcome = ended
        running.discard(job_id)
        if isinstance(outcome, BaseException):
            broken = broken or outcome
            results[job_id] = JobResult(status=Status.ERROR)
            if stop is not None:
                stop()
        else:
            results[job_id] = outcome
            if fail_fast and stopping is None and not (outcome.lets_go_on or outcome.status is Status.SKIPPED):
                stopping = f"{job_id} did not succeed, and --fail-fast ends the run"
                if stop is not None:
                    stop()
    unregister()
    if broken is not None:
        raise broken
    return {job.id: results[job.id] for job in plan.jobs}
