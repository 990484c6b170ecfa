"""From the names on a command line to runs and jobs."""

from __future__ import annotations

from contextlib import suppress

from loom.commands.project import Here
from loom.errors import LoomError, RequestError
from loom.record.reader import Reading
from loom.util.bounded import listed
from loom.util.globs import match_name


def run_or_job(project: Here, run: str, job: str | None, step: str | None) -> tuple[Reading, str | None, str | None]:
    """Find the run; a name that is a job of the last run (or a glob) selects that job, as in `loom logs test`."""
    last: Reading | None = None
    if run not in ("last", "last-failed") and step is None:
        with suppress(LoomError):
            last = project.find("last")
            if _named(last, run):
                return last, run, job
    try:
        return project.find(run), job, step
    except RequestError as error:
        if error.code != "RUN_UNKNOWN" or last is None:
            raise
        raise RequestError(
            f"{run!r} is neither a run nor a job of the last run",
            hint=f"its jobs: {', '.join(listed(last.fold.jobs, 20))}\n`loom runs` lists the runs",
            code="RUN_UNKNOWN",
        ) from None


def jobs_of(reading: Reading, job: str | None) -> list[str]:
    """Return the ids of the jobs that match a name or glob, all of them without one; RequestError for no match."""
    if job is None:
        return list(reading.fold.jobs)
    if not (found := _named(reading, job)):
        has = ", ".join(reading.fold.jobs) or "none"
        raise RequestError(f"run {reading.run_id} has no job {job!r}; it has {has}", code="JOB_UNKNOWN")
    return found


def _named(reading: Reading, job: str) -> list[str]:
    """Return the ids of the jobs whose id or name matches."""
    return [
        state.id for state in reading.fold.jobs.values() if match_name(job, state.id, state.planned.get("name", ""))
    ]
