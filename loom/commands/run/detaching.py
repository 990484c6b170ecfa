"""Leave a run whose jobs go on in their sessions (`loom run --detach`)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from loom.errors import RequestError
from loom.plan.model import Plan
from loom.runner import JobTools
from loom.status import ExitCode


def check(plan: Plan, tools: JobTools) -> None:
    """RequestError for a plan with jobs that can't go on without this process."""
    for job in plan.jobs:
        if job.trigger is not None:
            why, way = f"job {job.id} starts a child pipeline, which this machine runs", "leave the job out"
        elif job.late is not None:
            why, way = f"loom decides about the steps of job {job.id} when they start", "leave the job out"
        elif not tools.providers[job.provider].capabilities.detachable:
            why = f"job {job.id} runs on this machine, and would end with loom"
            way = "run all jobs in a cluster (--on kubernetes)"
        else:
            continue
        raise RequestError(f"--detach: {why}", hint=f"{way}, or leave out --detach", code="DETACH_UNSUPPORTED")


class Leaving:
    """Implements `runner.session.Leave`: this process ends at once, as if it were killed; the record stays as it is."""

    def __init__(self, run_id: str, close: Callable[[], None], write: Callable[[str], None], *, follow: bool) -> None:
        """`close`: what shows the run. `follow`: leave only when there is no other way."""
        self._run_id = run_id
        self._close = close
        self._write = write
        self._follow = follow
        self._once = threading.Lock()

    def __call__(self, *, lost: str = "") -> None:
        if lost:
            self._leave(ExitCode.INFRASTRUCTURE, lost)
        elif not self._follow:
            self._leave(ExitCode.OK)

    def hung_up(self, exit_code: ExitCode | None) -> None:
        """Leave when the terminal was closed."""
        if exit_code is ExitCode.HANGUP:
            self._leave(ExitCode.HANGUP)

    def _leave(self, code: ExitCode, why: str = "") -> None:
        self._once.acquire()  # no limit: nobody releases it; another thread that comes here waits for the end
        with suppress(OSError, ValueError):
            self._close()
            if why:
                self._write(why)
            self._write(f"detached: jobs of run {self._run_id} go on in the cluster; those that have not started wait")
            self._write(f"follow them, and run the rest: loom attach {self._run_id}")
            sys.stdout.flush()
        os._exit(code)
