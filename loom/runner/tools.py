"""What a run needs besides its value, and what it returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cancel import Cancel
from loom.plan.clone import Clone, refs_of_head
from loom.plan.model import Job, MountMode, Plan
from loom.record.run import Run
from loom.record.store import Store
from loom.runner.session import JobTools, SessionOpener
from loom.snapshot import as_cloned, copy_inputs, reduction
from loom.values import Immutable

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.record.documents import Receipt
    from loom.record.journal import Sink
    from loom.snapshot import Source
    from loom.storage.cache import Cache


JOBS_ELSEWHERE = 100
"""The number of jobs that run at once on other machines. Each one costs this machine a thread and connections."""


class RunTools(JobTools):
    """What it takes to run a `Run`: no data of the run itself."""

    source: Source
    store: Store
    clock_ns: Callable[[], int]
    cancel: Cancel
    sinks: Sequence[Sink] = ()
    cache: Callable[[Mapping[str, Any]], Cache] | None
    """Return the caches of a run from the recorded snapshot facts (empty for an earlier run's snapshot).

    None: caches are neither restored nor saved.
    """

    def cloned(self, run: Run, clone: Clone | None) -> Source:
        """Return the source as a clone of this run has it."""
        return as_cloned(self.source, clone, refs_of_head(run.variables))

    def opener(self, run: Run, workspace: Path) -> SessionOpener:
        """Return the opener of the run's sessions."""

        def reduced(clone: Clone) -> str:
            # A clone like the run's needs no look at the history.
            return reduction(self.cloned(run, clone), workspace, run.clone) if clone != run.clone else ""

        def copied(target: Path, inputs: Sequence[str], cancel: Cancel) -> str:
            return copy_inputs(workspace, target, inputs, environ=self.source.environment, cancel=cancel)

        return SessionOpener(run, workspace, self, self.cancel, reduced, copied)

    @property
    def jobs_at_once(self) -> int:
        """Return the number of jobs at once on this machine, its engine included."""
        return self.config.jobs or os.cpu_count() or 2

    def lanes(self, job: Job) -> Mapping[str, int]:
        """Return the job's lanes (`scheduler.Lanes`): its pool, its provider or this machine, and its matrix."""
        return {**self._lane(job), **job.lanes}

    def _lane(self, job: Job) -> Mapping[str, int]:
        if job.pool is not None and job.pool.jobs is not None:
            return {f"pool {job.pool.name}": job.pool.jobs}
        if MountMode.BIND not in self.providers[job.provider].capabilities.mounts:
            return {job.provider: self.config.jobs or JOBS_ELSEWHERE}
        return {"": self.jobs_at_once}


class RunResult(Immutable):
    """A finished run. `receipt_path` exists."""

    receipt: Receipt
    receipt_path: Path
    diagnosis: Diagnosis | None = None
    kept: Mapping[str, Mapping[str, Any]] = {}
    """The facts of kept sessions, by job. Jobs that can be entered or resumed."""


def first_jobs(plan: Plan, at_most: int, done: Collection[str] = ()) -> Iterable[Job]:
    """Return the jobs that start right after the snapshot."""
    open_jobs = [job for job in plan.jobs if job.id not in done]
    first_stage = next((stage for stage in plan.stages if any(job.stage == stage for job in open_jobs)), None)
    ready = [
        job
        for job in open_jobs
        if job.when in ("on_success", "always")
        and not job.refused
        and job.trigger is None
        and job.delay_s is None
        and job.is_certain
        and (
            (job.needs is None and job.stage == first_stage)
            or (job.needs is not None and all(need.job in done for need in job.needs))
        )
    ]
    return ready[:at_most]
