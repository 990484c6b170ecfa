"""Schedule jobs. `Frontier` knows which jobs may start or never will; `run_jobs` loops over it.

Each end of a job costs what it decides, not a look at the whole plan: thousands of jobs take time in proportion.
"""

from __future__ import annotations

import heapq
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Job, Plan
from loom.status import JobResult, Skip, Status
from loom.util.threads import beside

_SKIPPED = JobResult(status=Status.SKIPPED)

Lanes = Callable[[Job], Mapping[str, int]]
"""The lanes in which a job takes a place while it runs, each with its number of places."""


class Decision(Struct, frozen=True, kw_only=True):
    start: tuple[str, ...] = ()
    skip: tuple[Skip, ...] = field(default=())


def decide(plan: Plan, results: Mapping[str, JobResult], running: frozenset[str]) -> Decision:
    """Return jobs that may start now, in plan order, and jobs that never will.

    A job with `needs` waits for these, any other for all jobs of earlier stages. `on_success` requires each of them to
    succeed (or be allowed to fail), and is skipped at the first failure; `on_failure` starts when all are over and one
    failed; `always` when all are over. Chains of skips are settled at once.
    """
    return Frontier(plan, results, running).decision()


def needed(plan: Plan, job: Job) -> list[str]:
    """Return the jobs of the plan that a job with `needs` waits for."""
    return [need.job for need in job.needs or () if plan.has(need.job)]


class Frontier:
    """The undecided jobs of a plan, and what each of them waits for. See `decide`."""

    def __init__(self, plan: Plan, results: Mapping[str, JobResult], running: frozenset[str] = frozenset()) -> None:
        self._plan = plan
        self._position = {job.id: number for number, job in enumerate(plan.jobs)}
        self._stage = {stage: number for number, stage in enumerate(plan.stages)}
        self._unfinished = [0] * len(plan.stages)
        self._gated: list[list[Job]] = [[] for _ in plan.stages]
        self._open = 0
        """The first stage with unfinished jobs: the gates up to this one are open."""
        self._condemned = len(plan.stages)
        """A job of an earlier stage than each of these has failed."""
        self._first_failed: str | None = None
        self._held_up = len(plan.stages), ""
        """The earliest stage with a job that holds up later ones, and that job."""
        self._left: dict[str, int] = {}
        self._after: defaultdict[str, list[Job]] = defaultdict(list)
        self._results: dict[str, JobResult] = {}
        self._decided = {*results, *running}
        self._ready: list[str] = []
        self._skips: list[Skip] = []
        for job in plan.jobs:
            self._add(job)
        self._look_at(self._gated[0] if self._gated else [])
        self._open_gates()
        self._look_at([job for job in plan.jobs if self._left.get(job.id) == 0])
        self._settle_all(self._ended_by_skips(0))
        for job_id in sorted(results, key=self._position.__getitem__):
            self.end(job_id, results[job_id])

    def _add(self, job: Job) -> None:
        self._unfinished[self._stage[job.stage]] += 1
        if job.needs is None:
            self._gated[self._stage[job.stage]].append(job)
            return
        present = dict.fromkeys(needed(self._plan, job))
        self._left[job.id] = len(present)
        for need in present:
            self._after[need].append(job)

    def decision(self) -> Decision:
        """Return what was decided since the last call."""
        start = tuple(sorted(self._ready, key=self._position.__getitem__))
        skip = tuple(sorted(self._skips, key=lambda skip: self._position[skip.job_id]))
        self._ready, self._skips = [], []
        return Decision(start=start, skip=skip)

    def end(self, job_id: str, result: JobResult) -> None:
        """Settle the end of a job, and the skips that follow from it."""
        self._settle_all([(job_id, result)])

    def _settle_all(self, ended: Iterable[tuple[str, JobResult]]) -> None:
        waiting = deque(ended)
        while waiting:
            before = len(self._skips)
            self._settle(*waiting.popleft())
            waiting.extend(self._ended_by_skips(before))

    def _ended_by_skips(self, since: int) -> list[tuple[str, JobResult]]:
        return [(skip.job_id, _SKIPPED) for skip in self._skips[since:]]

    def _settle(self, job_id: str, result: JobResult) -> None:
        self._results[job_id] = result
        stage = self._stage[self._plan.job(job_id).stage]
        if _failed(result):
            self._condemn(job_id, stage)
        if result.holds_up and stage < self._held_up[0]:
            self._held_up = stage, job_id
            for later in range(stage + 1, len(self._gated)):
                self._look_at(self._gated[later])
        self._unfinished[stage] -= 1
        self._open_gates()
        blocks = _failed(result) or result.status is Status.SKIPPED
        for job in self._after[job_id]:
            self._left[job.id] -= 1
            if self._left[job.id] == 0 or blocks:
                self._look_at([job])

    def _open_gates(self) -> None:
        while self._open < len(self._unfinished) and self._unfinished[self._open] == 0:
            self._open += 1
            self._look_at(self._gated[self._open] if self._open < len(self._gated) else [])

    def _condemn(self, job_id: str, stage: int) -> None:
        """Look at the jobs of later stages, which a first failure decides."""
        if self._first_failed is None or self._position[job_id] < self._position[self._first_failed]:
            self._first_failed = job_id
        before, self._condemned = self._condemned, min(self._condemned, stage + 1)
        for later in range(stage + 1, before):
            self._look_at(self._gated[later])

    def _look_at(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.id in self._decided:
                continue
            verdict = self._verdict(job)
            if verdict is not False:
                self._decided.add(job.id)
            if isinstance(verdict, Skip):
                self._skips.append(verdict)
            elif verdict:
                self._ready.append(job.id)

    def _verdict(self, job: Job) -> Skip | bool:
        if job.needs is None:
            stage = self._stage[job.stage]
            if self._held_up[0] < stage:
                by = self._held_up[1]
                return Skip(job_id=job.id, reason=f"it waits for the manual job {by}", blocked_by=by)
            return _verdict(job, self._open >= stage, self._first_failed if self._condemned <= stage else None, None)
        over = {need: self._results[need] for need in needed(self._plan, job) if need in self._results}
        failed = next((need for need, result in over.items() if _failed(result)), None)
        skipped = next((need for need, result in over.items() if result.status is Status.SKIPPED), None)
        return _verdict(job, self._left[job.id] == 0, failed, skipped)


def _failed(result: JobResult) -> bool:
    return not result.lets_go_on and result.status is not Status.SKIPPED


def _verdict(job: Job, all_over: bool, failed: str | None, skipped: str | None) -> Skip | bool:
    """Decide by what the job waits for: whether `all` is over, the first that failed, the first that was skipped."""
    if job.when == "always" or job.late is not None:  # which decides itself
        return all_over
    if job.when == "on_failure":
        if failed:
            return all_over
        return Skip(job_id=job.id, reason="nothing before it failed") if all_over else False
    if failed:
        return Skip(job_id=job.id, reason=f"{failed} did not succeed", blocked_by=failed)
    if skipped:
        return Skip(job_id=job.id, reason=f"{skipped} was skipped", blocked_by=skipped)
    return all_over


def run_jobs(
    plan: Plan,
    *,
    run_job: Callable[[Job], JobResult],
    on_skip: Callable[[Job, Skip], None],
    at_most: int | Lanes,
    cancel: Cancel,
    fail_fast: bool = False,
    stop: Callable[[], None] | None = None,
    on_stuck: Callable[[Job], JobResult] = lambda job: JobResult(status=Status.CANCELED),
    waits: Callable[[Job], bool] = lambda job: False,
    until_free: Callable[[Job], Skip | None] = lambda job: None,
    done: Mapping[str, JobResult] | None = None,
) -> dict[str, JobResult]:
    """Run the plan's jobs in threads, at most `at_most` at once, or as many as their lanes allow; return results in plan
    order.

    A job that `waits` is first given to `until_free`, in a thread and before it takes a place of its lanes; that
    returns when the job may start, or why it does not. `done` are results of an earlier run. `stop` is called when
    `fail_fast` ends the rest. After a cancel nothing new starts: waiting jobs are skipped. A job that still runs
    `cancel.AT_ONCE_S` after the second request is abandoned with the result of `on_stuck`. An exception from any of
    these functions (a bug, an unwritable record) ends the run as `fail_fast` does, without further calls of `on_skip`,
    and is raised after the running jobs end.
    """
    lanes = at_most if callable(at_most) else lambda _: {"": at_most}
    schedule = _Schedule(plan, run_job, on_skip, dict(done or {}), lanes, _Waiting(waits, until_free))
    unregister = cancel.on_request(schedule.wake)
    while not schedule.complete:
        try:
            stops = _go_on(schedule, cancel, on_stuck, fail_fast=fail_fast)
        except BaseException as error:  # noqa: BLE001  raised below, once no job runs any more
            schedule.break_off(error)
            stops = True
        if stops and stop is not None:
            stop()
    unregister()
    if schedule.broken is not None:
        raise schedule.broken
    return {job.id: schedule.results[job.id] for job in plan.jobs}


def _go_on(schedule: _Schedule, cancel: Cancel, on_stuck: Callable[[Job], JobResult], *, fail_fast: bool) -> bool:
    """Start or skip what can be decided, then settle what ends next; return whether running jobs must stop."""
    if schedule.ending is None and cancel.requested:
        schedule.ending = "the run was interrupted"
    if schedule.ending is None:
        schedule.start()
    else:
        schedule.skip_the_rest()
    if not schedule.running and not schedule.waiting:
        return False
    try:
        # No limit before the second request: jobs have their own, and a request wakes the queue.
        ended = schedule.over.get(timeout=cancel.at_once_s)
    except queue.Empty:
        schedule.leave_behind(on_stuck)
        return False
    if isinstance(ended, _Free):
        return schedule.settle_wait(ended)
    return ended is not None and schedule.settle(*ended, fail_fast=fail_fast)


class _Waiting(Struct, frozen=True):
    waits: Callable[[Job], bool]
    until_free: Callable[[Job], Skip | None]


class _Free(Struct, frozen=True):
    """The end of a job's wait: it may start, or it is skipped."""

    job_id: str
    outcome: Skip | BaseException | None


class _Schedule:
    """The states of a plan's jobs. `ending`: why no more jobs start."""

    def __init__(
        self,
        plan: Plan,
        run_job: Callable[[Job], JobResult],
        on_skip: Callable[[Job, Skip], None],
        results: dict[str, JobResult],
        lanes: Lanes,
        waiting: _Waiting,
    ) -> None:
        self._plan = plan
        self._waiting = waiting
        self.waiting: set[str] = set()
        self._run_job = run_job
        self._on_skip = on_skip
        self.results = results
        self.running: set[str] = set()
        self._frontier = Frontier(plan, results)
        self._lanes = lanes
        self._taken: defaultdict[str, int] = defaultdict(int)
        self._ready: dict[tuple[tuple[str, int], ...], list[tuple[int, str]]] = {}
        """The jobs that may start, by their lanes; a heap in plan order."""
        self._order = {job.id: number for number, job in enumerate(plan.jobs)}
        self.over: queue.SimpleQueue[tuple[str, JobResult | BaseException] | _Free | None] = queue.SimpleQueue()
        self.ending: str | None = None
        self.broken: BaseException | None = None

    @property
    def complete(self) -> bool:
        return len(self.results) >= len(self._plan.jobs)

    def wake(self) -> None:
        self.over.put(None)

    def start(self) -> None:
        """Start what may start, in plan order, as far as its lanes have places; skip what never will."""
        decision = self._frontier.decision()
        for skip in decision.skip:
            self.results[skip.job_id] = _SKIPPED
            self._on_skip(self._plan.job(skip.job_id), skip)
        for job_id in decision.start:
            job = self._plan.job(job_id)
            if self._waiting.waits(job):
                self.waiting.add(job_id)
                threading.Thread(target=self._wait, args=(job,), name=f"wait {job_id}", daemon=True).start()
            else:
                self._let_start(job_id)
        while (found := self._next()) is not None:
            self._start(found)
        if not (self.running or self.waiting or decision.skip or self.complete):
            raise AssertionError("no job can start: the plan has a cycle")

    def _let_start(self, job_id: str) -> None:
        lanes = tuple(sorted(self._lanes(self._plan.job(job_id)).items()))
        heapq.heappush(self._ready.setdefault(lanes, []), (self._order[job_id], job_id))

    def _wait(self, job: Job) -> None:
        try:
            self.over.put(_Free(job.id, self._waiting.until_free(job)))
        except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
            self.over.put(_Free(job.id, error))

    def settle_wait(self, free: _Free) -> bool:
        """Let a job start that waited, or skip it; return whether running jobs must stop."""
        if free.job_id not in self.waiting:  # the run ends, and it is skipped with the rest
            return False
        self.waiting.discard(free.job_id)
        if free.outcome is None:
            self._let_start(free.job_id)
        elif isinstance(free.outcome, Skip):
            job = self._plan.job(free.job_id)
            result = JobResult(status=Status.SKIPPED, holds_up=not job.allow_failure.always)
            self.results[job.id] = result
            self._on_skip(job, free.outcome)
            self._frontier.end(job.id, result)
        else:
            self.break_off(free.outcome)
        return self.broken is not None

    def break_off(self, error: BaseException) -> None:
        """Let nothing start any more; the first error counts."""
        self.broken, self.ending = self.broken or error, self.ending or "the run broke"

    def leave_behind(self, on_stuck: Callable[[Job], JobResult]) -> None:
        stuck, self.running = sorted(self.running), set()
        self.results.update(dict.fromkeys(stuck, JobResult(status=Status.ERROR)))
        for job_id in stuck:
            self.results[job_id] = on_stuck(self._plan.job(job_id))

    def _next(self) -> str | None:
        """Take the first job in plan order whose lanes all have a place."""
        free = [
            lanes
            for lanes, waiting in self._ready.items()
            if waiting and all(self._taken[lane] < places for lane, places in lanes)
        ]
        return heapq.heappop(self._ready[min(free, key=lambda lanes: self._ready[lanes][0])])[1] if free else None

    def _start(self, job_id: str) -> None:
        job = self._plan.job(job_id)
        for lane in self._lanes(job):
            self._taken[lane] += 1
        beside(partial(self._work, job), name=f"job {job_id}")
        self.running.add(job_id)

    def _work(self, job: Job) -> None:
        try:
            self.over.put((job.id, self._run_job(job)))
        except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
            self.over.put((job.id, error))

    def skip_the_rest(self) -> None:
        self.waiting.clear()
        for job in self._plan.jobs:
            if job.id not in self.results and job.id not in self.running:
                self.results[job.id] = _SKIPPED
                if self.broken is None:
                    self._on_skip(job, Skip(job_id=job.id, reason=self.ending or ""))

    def settle(self, job_id: str, outcome: JobResult | BaseException, *, fail_fast: bool) -> bool:
        """Record the end of a job; return whether other jobs must stop."""
        self.running.discard(job_id)
        for lane in self._lanes(self._plan.job(job_id)):
            self._taken[lane] -= 1
        if isinstance(outcome, BaseException):
            self.break_off(outcome)
            self.results[job_id] = JobResult(status=Status.ERROR)
            return True
        self.results[job_id] = outcome
        self._frontier.end(job_id, outcome)
        if not fail_fast or self.ending is not None or outcome.lets_go_on or outcome.status is Status.SKIPPED:
            return False
        self.ending = f"{job_id} did not succeed, which ends the run"
        return True


def dependents(plan: Plan, job_ids: Collection[str]) -> set[str]:
    """Return these jobs and all that wait for them, directly or not."""
    again = set(job_ids)
    position = {stage: number for number, stage in enumerate(plan.stages)}
    first = min((position[job.stage] for job in plan.jobs if job.id in again), default=len(position))
    for job in plan.jobs:  # in topological order
        if first < position[job.stage] if job.needs is None else any(need.job in again for need in job.needs):
            again.add(job.id)
            first = min(first, position[job.stage])
    return again
