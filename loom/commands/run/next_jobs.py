"""Which jobs a watched checkout's next run has: what failed, then what waits for it, then the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from loom.plan.model import Plan
from loom.runner.scheduler import dependents
from loom.status import JobResult, Status


class DueJobs:
    """The jobs that are still to pass. `everything`: each change starts all of them again, in the plan's order."""

    def __init__(self, *, everything: bool) -> None:
        self._everything = everything
        self._due: set[str] | None = None
        """None: every job."""
        self._failed: set[str] = set()
        self._advanced = False
        """Whether the last run took a job off those that are due."""

    def changed(self, concerned: Collection[str] | None) -> None:
        """These jobs (None: all of them) have to pass again, on what changed."""
        if concerned is None or self._everything:
            self._due = None
        elif self._due is not None:
            self._due |= set(concerned)

    def choose(self, plan: Plan) -> list[str] | None:
        """Return the ids of the jobs to run now; None for the whole plan."""
        ids = [job.id for job in plan.jobs]
        due = set(ids) if self._due is None else self._due & set(ids)
        failed = set() if self._everything else self._failed & due
        chosen = dependents(plan, failed) & due if failed else due
        return None if chosen == set(ids) else [job_id for job_id in ids if job_id in chosen]

    def forecast(self, plan: Plan) -> list[str] | None:
        """Return what `choose` gives most likely after the next change."""
        failed = set() if self._everything else self._failed & {job.id for job in plan.jobs}
        chosen = dependents(plan, failed)
        return [job.id for job in plan.jobs if job.id in chosen] if failed else None

    @property
    def failed(self) -> list[str]:
        return sorted(self._failed)

    def ended(self, plan_ids: Collection[str], results: Mapping[str, JobResult]) -> None:
        """Take in how jobs ended. `plan_ids`: all jobs that could be due."""
        due = set(plan_ids) if self._due is None else self._due
        self._advanced = any(result.lets_go_on for result in results.values())
        for job_id, result in results.items():
            if result.lets_go_on:
                due.discard(job_id)
                self._failed.discard(job_id)
            else:
                due.add(job_id)
                if result.status not in (Status.SKIPPED, Status.CANCELED):
                    self._failed.add(job_id)
        self._due = due

    @property
    def goes_on(self) -> bool:
        """Return whether jobs that are due wait only for their turn: the failed ones passed.

        Not after a run that brought nothing forward, such as one that ended before its jobs: the next would end as it did.
        """
        return bool(self._due) and not self._failed and self._advanced
