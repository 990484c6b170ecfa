"""Schedule jobs. `decide` is pure: it maps plan and states to jobs to start and to skip; `run_jobs` loops over it."""

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
    """Return jobs that may start now, in plan order, and jobs that never will.

    A job with `needs` waits for these, any other for all jobs of earlier stages. `on_success` requires each of them to
    succeed (or be allowed to fail), and is skipped at the first failure; `on_failure` starts when all are over and one
    failed; `always` when all are over. Plan order is topological, so one pass settles whole chains of skips.
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
    """Return the jobs that must end before this one starts."""
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
    """Run the plan's jobs in threads, at most `at_most` at once; return results in plan order.

    `done` are results of an earlier run. `stop` is called when `fail_fast` ends the rest. After a cancel nothing new
    starts: waiting jobs are skipped. A job that still runs `cancel.AT_ONCE_S` after the second request is abandoned
    with the result of `on_stuck`. An exception from `run_job` (a bug, an unwritable record) is raised after the running
    jobs end.
    """
    schedule = _Schedule(plan, run_job, on_skip, dict(done or {}))
    unregister = cancel.on_request(schedule.wake)
    while not schedule.complete:
        if schedule.ending is None and cancel.requested:
            schedule.ending = "the run was interrupted"
        if schedule.ending is None:
            schedule.start(at_most)
        else:
            schedule.skip_the_rest()
        if not schedule.running:
            continue
        try:
            # No limit before the second request: jobs have their own, and a request wakes the queue.
            ended = schedule.over.get(timeout=cancel.at_once_s)
        except queue.Empty:
            for job_id in sorted(schedule.running):
                schedule.results[job_id] = on_stuck(plan.job(job_id))
            schedule.running.clear()
            continue
        if ended is not None and schedule.settle(*ended, fail_fast=fail_fast) and stop is not None:
            stop()
    unregister()
    if schedule.broken is not None:
        raise schedule.broken
    return {job.id: schedule.results[job.id] for job in plan.jobs}


class _Schedule:
    """The states of a plan's jobs. `ending`: why no more jobs start."""

    def __init__(
        self,
        plan: Plan,
        run_job: Callable[[Job], JobResult],
        on_skip: Callable[[Job, Skip], None],
        results: dict[str, JobResult],
    ) -> None:
        self._plan = plan
        self._run_job = run_job
        self._on_skip = on_skip
        self.results = results
        self.running: set[str] = set()
        self.over: queue.SimpleQueue[tuple[str, JobResult | BaseException] | None] = queue.SimpleQueue()
        self.ending: str | None = None
        self.broken: BaseException | None = None

    @property
    def complete(self) -> bool:
        return len(self.results) >= len(self._plan.jobs)

    def wake(self) -> None:
        self.over.put(None)

    def start(self, at_most: int) -> None:
        decision = decide(self._plan, self.results, frozenset(self.running))
        for skip in decision.skip:
            self.results[skip.job_id] = JobResult(status=Status.SKIPPED)
            self._on_skip(self._plan.job(skip.job_id), skip)
        for job_id in decision.start[: max(0, at_most - len(self.running))]:
            self.running.add(job_id)
            job = self._plan.job(job_id)
            threading.Thread(target=self._work, args=(job,), name=f"job {job_id}", daemon=True).start()
        if not self.running and not decision.skip and not self.complete:
            raise AssertionError("no job can start: the plan has a cycle")

    def _work(self, job: Job) -> None:
        try:
            self.over.put((job.id, self._run_job(job)))
        except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
            self.over.put((job.id, error))

    def skip_the_rest(self) -> None:
        for job in self._plan.jobs:
            if job.id not in self.results and job.id not in self.running:
                self.results[job.id] = JobResult(status=Status.SKIPPED)
                if self.broken is None:
                    self._on_skip(job, Skip(job_id=job.id, reason=self.ending or ""))

    def settle(self, job_id: str, outcome: JobResult | BaseException, *, fail_fast: bool) -> bool:
        """Record the end of a job; return whether other jobs must stop."""
        self.running.discard(job_id)
        if isinstance(outcome, BaseException):
            self.broken = self.broken or outcome
            self.ending = self.ending or "the run broke"
            self.results[job_id] = JobResult(status=Status.ERROR)
            return True
        self.results[job_id] = outcome
        if not fail_fast or self.ending is not None or outcome.lets_go_on or outcome.status is Status.SKIPPED:
            return False
        self.ending = f"{job_id} did not succeed, and --fail-fast ends the run"
        return True
