"""From the names on a command line to runs and jobs."""

from __future__ import annotations

from loom.commands.project import Here
from loom.errors import LoomError, RequestError
from loom.record.reader import Reading
from loom.util.bounded import listed
from loom.util.globs import match_name


def run_or_job(place: Here, run: str, job: str | None, step: str | None) -> tuple[Reading, str | None, str | None]:
    """Find the run; a name that is no run but a job of the last run selects that job, as in `loom logs test`."""
    try:
        return place.find(run), job, step
    except RequestError as error:
        if error.code != "RUN_UNKNOWN" or run in ("last", "last-failed") or step is not None:
            raise
        try:
            last = place.find("last")
        except LoomError:
            raise error from None
        if not match_name(run, *last.fold.jobs):
            jobs = ", ".join(listed(last.fold.jobs, 20))
            raise RequestError(
                f"{run!r} is neither a run nor a job of the last run",
                hint=f"its jobs: {jobs}\n`loom runs` lists the runs",
                code="RUN_UNKNOWN",
            ) from None
        return last, run, job


def jobs_of(reading: Reading, job: str | None) -> list[str]:
    """Return the ids of the jobs that match a name or glob, all of them without one; RequestError for no match."""
    known = list(reading.fold.jobs)
    found = [name for name in known if job is None or match_name(job, name)]
    if not found and job is not None:
        raise RequestError(
            f"run {reading.run_id} has no job {job!r}; it has {', '.join(known) or 'none'}", code="JOB_UNKNOWN"
        )
    return found
