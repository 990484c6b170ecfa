"""Wait, once a job's needs are met, for a time, or for other jobs of its group on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import RequestError
from loom.plan.model import Job
from loom.record.events import RUN, PhaseCode
from loom.record.journal import Journal
from loom.status import Skip
from loom.util import locks
from loom.util.units import duration_text

_LOOK_EVERY_S = 0.2


def waits(job: Job) -> bool:
    return job.when == "manual" or job.delay_s is not None or job.resource_group is not None


class Waits(Struct, kw_only=True, eq=False):
    """The waits of one run's jobs. Thread-safe, one call at a time for each job."""

    journal: Journal
    cancel: Cancel
    lock_of: Callable[[str], Path]
    """Return the lock file of a group."""
    command: str
    """Names the run to others that wait for it."""
    _held: dict[str, ExitStack] = {}

    def wait_until_free(self, job: Job) -> Skip | None:
        """Return when the job may start, or why it does not; its group is then held, until `release`."""
        if job.when == "manual":
            return Skip(job_id=job.id, reason="manual: name it to run it")
        if job.delay_s:
            self._tell(f"{job.id} starts in {duration_text(job.delay_s)}; at once with --no-delay")
            self.cancel.wait(job.delay_s)
        if job.resource_group is not None:
            self._take(job, job.resource_group)
        return None

    def release(self, job: Job) -> None:
        if (held := self._held.pop(job.id, None)) is not None:
            held.close()

    def _take(self, job: Job, group: str) -> None:
        told = False
        while not self.cancel.requested:
            stack = ExitStack()
            try:
                lock = locks.held(self.lock_of(group), f"resource group {group}", self.command, alone=True)
                stack.enter_context(lock)
                self._held[job.id] = stack
                return
            except RequestError as error:
                if not told:
                    self._tell(f"{job.id} waits: {error.message}")
                told = True
            self.cancel.wait(_LOOK_EVERY_S)

    def _tell(self, text: str) -> None:
        self.journal.fact(RUN, PhaseCode.PIPELINE_EXECUTE, "notice", {"text": text})
