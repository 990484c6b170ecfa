"""`loom workspace`: the plain path to a run's snapshot, or to what one of its jobs left."""

from __future__ import annotations

import sys

import typer

from loom.cli.options import JobOfRun, RunOrJob


def register(app: typer.Typer) -> None:
    app.command("workspace")(workspace)


def workspace(run: RunOrJob = None, job: JobOfRun = None) -> None:
    """Print the directory of a run's snapshot. With JOB, the directory with what that job left in its own place.

    A job's files are laid out there first where they are layers of an overlay, or in a volume of the engine's. While
    the job's container is kept, each call lays them out as they are now.
    """
    from loom.commands import session
    from loom.errors import RequestError
    from loom.snapshot import readable

    here = session.around()
    names = [name for name in (run, job) if name]
    try:
        found = session.find_job(here, names) if names else None
    except RequestError as error:
        if len(names) == 2 or error.code in ("RUN_UNKNOWN", "JOB_UNKNOWN", "RUN_AMBIGUOUS"):
            raise
        found = None  # a run without one job that could be meant
    if found is not None and found.job.id in names[-1:] + [found.job.name for _ in names[-1:] if found.job.name]:
        left_out: dict[str, str] = {}
        print(session.files_of(here, found, left_out))
        for path, reason in left_out.items():
            print(f"left out: {readable(path)} ({reason})", file=sys.stderr)
        return
    past = session.find_run(here, names[0] if names else None)
    if not past.workspace.is_dir():
        raise RequestError(
            f"the workspace of run {past.run_id} ({past.workspace}) is gone",
            hint=f"run it again: loom rerun {past.run_id}",
            code="WORKSPACE_GONE",
        )
    print(past.workspace)
