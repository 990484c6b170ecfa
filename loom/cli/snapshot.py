"""`loom snapshot`, `verify`, `workspace`, `pull`: the jobs' files before and after."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import argument, done_by, option


@done_by("keep.snapshot")
def snapshot(
    paths: Annotated[
        list[str] | None, argument("PATH...", "With --explain: the paths to explain.", show_default=False)
    ] = None,
    explain: Annotated[
        bool, option("--explain", "Show whether CI would see each PATH, and which rule decides.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make the isolated workspace that jobs would get, without a run.

    Prints its path, its content, and excluded files with reasons. `loom snapshot --explain PATH...` keeps no snapshot;
    it shows whether CI would see the file.
    """


@done_by("keep.snapshot")
def verify(
    what: Annotated[str, argument("RUN|WORKSPACE", "A run, or a workspace's path.", "run")] = "last",
    job: options.JobOfRun = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare a workspace with its snapshot byte by byte. Lists each changed file; with JOB, in that job's files.

    Exit code: 0 without changes, 1 otherwise.
    """


@done_by("inside.pull")
def workspace(run: options.RunOrJob = None, job: options.JobOfRun = None, as_json: options.AsJson = False) -> None:
    """Print the directory of a run's snapshot. With JOB, the directory of that job's own files.

    Files that are layers of an overlay or in a volume of the engine are first laid out in that directory. While the job's
    container is kept, each call lays them out as they are now.
    """


@done_by("inside.pull")
def pull(
    run: options.RunOrJob = None,
    job: options.JobOfRun = None,
    apply: Annotated[bool, option("--apply", "Change the checkout instead of printing the patch.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Bring a job's changes to its files into the checkout. Prints a patch; --apply applies it.

    Files that git ignores are left out, and files that the jobs declare as artifacts or caches. Files that you edited in
    the checkout since the run are never overwritten: --apply names them, and applies all other changes.
    """
