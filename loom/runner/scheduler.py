"""Schedule jobs. `Frontier` knows which jobs may start or never will; `Schedule` runs them.

Each end of a job costs what it decides, not a look at the whole plan: thousands of jobs take time in proportion.
"""

from __future__ import annotations

import heapq
import queue
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal, TypeVar

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.plan.model import Job, Plan
from loom.status import JobResult, Skip, Status
from loom.util.within import start_thread

_SKIPPED = JobResult(status=Status.SKIPPED)
T = TypeVar("T")

Lanes = Callable[[Job], Mapping[str, int]]
"""The lanes that a job takes while it runs, each with the number of jobs that fit in it."""


_Mark = Literal["failed", "skipped", "holds up"]
_News = tuple[str, Mapping[_Mark, str], bool]
"""A job or a gate, the marks that it and jobs before it have got, and whether it is over."""


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
        self._after: defaultdict[str, list[str]] = defaultdict(list)
        """The jobs and gates that wait for a job or a gate. The gate of a stage waits for all jobs of the stages before."""
        self._left: defaultdict[str, int] = defaultdict(int)
        """The number of unfinished jobs and gates that a job or a gate waits for."""
        self._before: defaultdict[str, dict[_Mark, str]] = defaultdict(dict)
        """The first of those that failed, was skipped, or holds up what waits for it."""
        self._decided = {*results}
        self._ready: list[str] = []
        self._skips: list[Skip] = []
        gates = [f"/{stage}" for stage in plan.stages]  # no job has such an id
        next_gate = dict(zip(plan.stages, gates[1:], strict=False))
        for above, gate in pairwise(gates):
            self._wait(gate, above)
        for job in plan.jobs:
            for other in [f"/{job.stage}"] if job.needs is None else dict.fromkeys(needed(plan, job)):
                self._wait(job.id, other)
            if job.stage in next_gate:
                self._wait(next_gate[job.stage], job.id)
        news: deque[_News] = deque((gate, {}, True) for gate in gates[:1])
        for job in plan.jobs:
            if self._left[job.id] == 0:
                self._look_at(job.id, news)
        self._pass_on(news)
        for job_id in sorted(results, key=self.position.__getitem__):
            self.end(job_id, results[job_id])

    def _wait(self, after: str, before: str) -> None:
        self._after[before].append(after)
        self._left[after] += 1

    def decision(self) -> tuple[list[str], list[Skip]]:
        """Return, in plan order, the jobs that may start and those that never will, as decided since the last call."""
        start = sorted(self._ready, key=self.position.__getitem__)
        skip = sorted(self._skips, key=lambda skip: self.position[skip.job_id])
        self._ready, self._skips = [], []
        return start, skip

    def end(self, job_id: str, result: JobResult) -> None:
        """Settle the end of a job, and the skips that follow from it."""
        marks: dict[_Mark, str] = {"skipped": job_id} if result.status is Status.SKIPPED else {}
        if _failed(result):
            marks["failed"] = job_id
        if result.holds_up:
            marks["holds up"] = job_id
        self._pass_on(deque([(job_id, marks, True)]))

    def _pass_on(self, news: deque[_News]) -> None:
        """Pass on what is new of jobs and gates to those that wait for them."""
        while news:
            before, marks, is_over = news.popleft()
            for after in self._after[before]:
                self._left[after] -= is_over
                known, is_gate = self._before[after], after.startswith("/")
                new: dict[_Mark, str] = {
                    mark: job_id
                    for mark, job_id in marks.items()
                    if mark not in known and not (is_gate and mark == "skipped")
                }
                known |= new
                opens = is_over and self._left[after] == 0
                if not is_gate:
                    self._look_at(after, news)
                elif new or opens:
                    news.append((after, new, opens))

    def _look_at(self, job_id: str, news: deque[_News]) -> None:
        if job_id in self._decided:
            return
        verdict = self._verdict(self._plan.job(job_id))
        if verdict is not False:
            self._decided.add(job_id)
        if isinstance(verdict, Skip):
            self._skips.append(verdict)
            news.append((job_id, {"skipped": job_id}, True))
        elif verdict:
            self._ready.append(job_id)

    def _verdict(self, job: Job) -> Skip | bool:
        before, all_over = self._before[job.id], self._left[job.id] == 0
        if job.needs is None and (holding := before.get("holds up")):
            return Skip(job_id=job.id, reason=f"it waits for the manual job {holding}", blocked_by=holding)
        if job.when == "always":
            return all_over
        failed, skipped = before.get("failed"), before.get("skipped")
        if job.when == "on_failure":
            if failed:
                return all_over
            return Skip(job_id=job.id, reason="nothing before it failed") if all_over else False
        if failed:
            return Skip(job_id=job.id, reason=f"{failed} did not succeed", blocked_by=failed)
        if skipped:
            return Skip(job_id=job.id, reason=f"{skipped} was skipped", blocked_by=skipped)
        return all_over


def _failed(result: JobResult) -> bool:
    return not result.lets_go_on and result.status is not Status.SKIPPED


class Schedule(Struct, kw_only=True, eq=False, dict=True):
    """Run the jobs of a plan once, each in a thread."""

    plan: Plan
    run_job: Callable[[Job], JobResult]
    on_skip: Callable[[Job, Skip], None]
    at_most: int | Lanes
    """The number of jobs that run at once, or the lanes that limit them."""
    cancel: Cancel
    fail_fast: bool = False
    stop: Callable[[], None] = lambda: None
    """Called when `fail_fast` ends the rest."""
    on_stuck: Callable[[Job], JobResult] = lambda job: JobResult(status=Status.CANCELED)
    waits: Callable[[Job], bool] = lambda job: False
    wait_until_free: Callable[[Job], Skip | None] = lambda job: None
    """Called for a job that `waits`, before it takes its lanes: returns when it may start, or why it does not."""
    done: Mapping[str, JobResult] = {}
    """Results of an earlier run."""
    _results: dict[str, JobResult] = {}
    _running: set[str] = set()
    _waiting: set[str] = set()
    _taken: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    _ready: dict[tuple[tuple[str, int], ...], list[tuple[int, str]]] = {}
    """The jobs that may start, by their lanes; a heap in plan order."""
    _over: queue.SimpleQueue[Callable[[], None]] = field(default_factory=queue.SimpleQueue)
    """Functions that settle the end of a job or of a wait."""
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
        """Start what may start, in plan order, as far as its lanes have room; skip what never will."""
        start, skips = self._frontier.decision()
        for skip in skips:
            self._results[skip.job_id] = _SKIPPED
            self.on_skip(self.plan.job(skip.job_id), skip)
        for job in map(self.plan.job, start):
            if self.waits(job):
                self._waiting.add(job.id)
                self._start_thread(f"wait {job.id}", job, self.wait_until_free, self._settle_wait)
            else:
                self._let_start(job)
        while (found := self._next()) is not None:
            job = self.plan.job(found)
            for lane in self._lanes(job):
                self._taken[lane] += 1
            self._running.add(found)
            self._start_thread(f"job {found}", job, self.run_job, self._settle)
        if not (self._running or self._waiting or skips or len(self._results) == len(self.plan.jobs)):
            raise AssertionError("no job can start: the plan has a cycle")

    def _lanes(self, job: Job) -> Mapping[str, int]:
        return self.at_most(job) if callable(self.at_most) else {"": self.at_most}

    def _let_start(self, job: Job) -> None:
        lanes = tuple(sorted(self._lanes(job).items()))
        heapq.heappush(self._ready.setdefault(lanes, []), (self._frontier.position[job.id], job.id))

    def _next(self) -> str | None:
        """Take the first job in plan order whose lanes all have room."""
        free = [
            lanes
            for lanes, waiting in self._ready.items()
            if waiting and all(self._taken[lane] < most for lane, most in lanes)
        ]
        return heapq.heappop(self._ready[min(free, key=lambda lanes: self._ready[lanes][0])])[1] if free else None

    def _start_thread(
        self, name: str, job: Job, do: Callable[[Job], T], settle: Callable[[Job, T | BaseException], None]
    ) -> None:
        def work() -> None:
            try:
                outcome: T | BaseException = do(job)
            except BaseException as error:  # noqa: BLE001  carried to the loop, which raises it
                outcome = error
            self._over.put(partial(settle, job, outcome))

        start_thread(work, name=name)

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
        """Start no further job; keep `error` if it is the first one."""
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
