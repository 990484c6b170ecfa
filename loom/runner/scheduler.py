"""Schedule jobs. `Frontier` knows which jobs may start or never will; `Schedule` runs them.

Each end of a job costs what it decides, not a look at the whole plan: thousands of jobs take time in proportion.
"""

from __future__ import annotations

import heapq
import queue
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, partial
from typing import TypeVar

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Job, Plan
from loom.status import JobResult, Skip, Status
from loom.util.threads import beside

_SKIPPED = JobResult(status=Status.SKIPPED)
T = TypeVar("T")

Lanes = Callable[[Job], Mapping[str, int]]
"""The lanes in which a job takes a place while it runs, each with its number of places."""


def needed(plan: Plan, job: Job) -> list[str]:
    """Return the jobs of the plan that a job with `needs` waits for."""
    return [need.job for need in job.needs or () if plan.has(need.job)]


class Frontier:
    """The undecided jobs of a plan, and what each of them waits for.

    A job with `needs` waits for these, any other for all jobs of earlier stages. `on_success` requires each of them to
    succeed (or be allowed to fail), and is skipped at the first failure; `on_failure` starts when all are over and one
    failed; `always` when all are over. Chains of skips are settled at once.
    """

    def __init__(self, plan: Plan, results: Mapping[str, JobResult]) -> None:
        self._plan = plan
        self.position = {job.id: number for number, job in enumerate(plan.jobs)}
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
        self._decided = {*results}
        self._ready: list[str] = []
        self._skips: list[Skip] = []
        for job in plan.jobs:
            self._add(job)
        self._look_at(self._gated[0] if self._gated else [])
        self._open_gates()
        self._look_at([job for job in plan.jobs if self._left.get(job.id) == 0])
        self._settle_all(self._ended_by_skips(0))
        for job_id in sorted(results, key=self.position.__getitem__):
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

    def decision(self) -> tuple[list[str], list[Skip]]:
        """Return, in plan order, the jobs that may start and those that never will, as decided since the last call."""
        start = sorted(self._ready, key=self.position.__getitem__)
        skip = sorted(self._skips, key=lambda skip: self.position[skip.job_id])
        self._ready, self._skips = [], []
        return start, skip

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
        if self._first_failed is None or self.position[job_id] < self.position[self._first_failed]:
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


class Schedule(Struct, kw_only=True, eq=False, dict=True):
    """One course of a plan's jobs, each in a thread."""

    plan: Plan
    run_job: Callable[[Job], JobResult]
    on_skip: Callable[[Job, Skip], None]
    at_most: int | Lanes
    """How many jobs run at once, or the lanes that limit them."""
    cancel: Cancel
    fail_fast: bool = False
    stop: Callable[[], None] = lambda: None
    """Called when `fail_fast` ends the rest."""
    on_stuck: Callable[[Job], JobResult] = lambda job: JobResult(status=Status.CANCELED)
    waits: Callable[[Job], bool] = lambda job: False
    until_free: Callable[[Job], Skip | None] = lambda job: None
    """Called for a job that `waits`, before it takes a place of its lanes: returns when it may start, or why it does not."""
    done: Mapping[str, JobResult] = {}
    """Results of an earlier run."""
    _results: dict[str, JobResult] = field(default_factory=dict)
    _running: set[str] = field(default_factory=set)
    _waiting: set[str] = field(default_factory=set)
    _taken: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _ready: dict[tuple[tuple[str, int], ...], list[tuple[int, str]]] = field(default_factory=dict)
    """The jobs that may start, by their lanes; a heap in plan order."""
    _over: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    """What settles the end of a job or of a wait."""
    _ending: str | None = None
    """Why no more jobs start."""
    _broken: BaseException | None = None

    @cached_property
    def _frontier(self) -> Frontier:
        return Frontier(self.plan, self.done)

    def run(self) -> dict[str, JobResult]:
        """Run the jobs; return their results in plan order.

        After a cancel nothing new starts: waiting jobs are skipped. A job that still runs `cancel.AT_ONCE_S` after the second
        request is abandoned with the result of `on_stuck`. An exception from any of the functions (a bug, an unwritable
        record) ends the run as `fail_fast` does, without further calls of `on_skip`, and is raised after the running jobs end.
        """
        self._results |= self.done
        unregister = self.cancel.on_request(lambda: self._over.put(lambda: None))
        while len(self._results) < len(self.plan.jobs):
            try:
                self._go_on()
            except BaseException as error:  # noqa: BLE001  raised below, once no job runs any more
                self._break_off(error)
        unregister()
        if self._broken is not None:
            raise self._broken
        return {job.id: self._results[job.id] for job in self.plan.jobs}

    def _go_on(self) -> None:
        """Start or skip what can be decided, then settle what ends next."""
        if self._ending is None and self.cancel.requested:
            self._ending = "the run was interrupted"
        if self._ending is None:
            self._start()
        else:
            self._skip_the_rest()
        if not self._running and not self._waiting:
            return
        try:
            # No limit before the second request: jobs have their own, and a request wakes the queue.
            settle = self._over.get(timeout=self.cancel.at_once_s)
        except queue.Empty:
            self._leave_behind()
        else:
            settle()

    def _start(self) -> None:
        """Start what may start, in plan order, as far as its lanes have places; skip what never will."""
        start, skips = self._frontier.decision()
        for skip in skips:
            self._results[skip.job_id] = _SKIPPED
            self.on_skip(self.plan.job(skip.job_id), skip)
        for job in map(self.plan.job, start):
            if self.waits(job):
                self._waiting.add(job.id)
                self._beside(f"wait {job.id}", job, self.until_free, self._settle_wait)
            else:
                self._let_start(job)
        while (found := self._next()) is not None:
            job = self.plan.job(found)
            for lane in self._lanes(job):
                self._taken[lane] += 1
            self._running.add(found)
            self._beside(f"job {found}", job, self.run_job, self._settle)
        if not (self._running or self._waiting or skips or len(self._results) == len(self.plan.jobs)):
            raise AssertionError("no job can start: the plan has a cycle")

    def _lanes(self, job: Job) -> Mapping[str, int]:
        return self.at_most(job) if callable(self.at_most) else {"": self.at_most}

    def _let_start(self, job: Job) -> None:
        lanes = tuple(sorted(self._lanes(job).items()))
        heapq.heappush(self._ready.setdefault(lanes, []), (self._frontier.position[job.id], job.id))

    def _next(self) -> str | None:
        """Take the first job in plan order whose lanes all have a place."""
        free = [
            lanes
            for lanes, waiting in self._ready.items()
            if waiting and all(self._taken[lane] < places for lane, places in lanes)
        ]
        return heapq.heappop(self._ready[min(free, key=lambda lanes: self._ready[lanes][0])])[1] if free else None

    def _beside(
        self, name: str, job: Job, do: Callable[[Job], T], settle: Callable[[Job, T | BaseException], None]
    ) -> None:
        def work() -> None:
            try:
                outcome: T | BaseException = do(job)
            except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
                outcome = error
            self._over.put(partial(settle, job, outcome))

        beside(work, name=name)

    def _settle_wait(self, job: Job, outcome: Skip | BaseException | None) -> None:
        """Let a job start that waited, or skip it."""
        if job.id not in self._waiting:  # the run ends, and it is skipped with the rest
            return
        self._waiting.discard(job.id)
        if outcome is None:
            self._let_start(job)
        elif isinstance(outcome, Skip):
            result = JobResult(status=Status.SKIPPED, holds_up=not job.allow_failure.always)
            self._results[job.id] = result
            self.on_skip(job, outcome)
            self._frontier.end(job.id, result)
        else:
            self._break_off(outcome)

    def _settle(self, job: Job, outcome: JobResult | BaseException) -> None:
        """Record the end of a job."""
        self._running.discard(job.id)
        for lane in self._lanes(job):
            self._taken[lane] -= 1
        if isinstance(outcome, BaseException):
            self._results[job.id] = JobResult(status=Status.ERROR)
            self._break_off(outcome)
            return
        self._results[job.id] = outcome
        self._frontier.end(job.id, outcome)
        if self.fail_fast and self._ending is None and _failed(outcome):
            self._ending = f"{job.id} did not succeed, which ends the run"
            self.stop()

    def _break_off(self, error: BaseException) -> None:
        """Let nothing start any more; the first error counts."""
        self._broken, self._ending = self._broken or error, self._ending or "the run broke"
        self.stop()

    def _leave_behind(self) -> None:
        stuck, self._running = sorted(self._running), set()
        self._results.update(dict.fromkeys(stuck, JobResult(status=Status.ERROR)))
        for job_id in stuck:
            self._results[job_id] = self.on_stuck(self.plan.job(job_id))

    def _skip_the_rest(self) -> None:
        self._waiting.clear()
        for job in self.plan.jobs:
            if job.id not in self._results and job.id not in self._running:
                self._results[job.id] = _SKIPPED
                if self._broken is None:
                    self.on_skip(job, Skip(job_id=job.id, reason=self._ending or ""))


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
