"""`loom bisect`."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import argument, done_by, option


@done_by("run.bisect")
def bisect(
    job: Annotated[str, argument("JOB", "The job: a name, id or glob.", "workflow-job")],
    good: Annotated[str, argument("GOOD", "A commit in which the job passes.")],
    bad: Annotated[str, argument("BAD", "A later commit in which it fails.")] = "HEAD",
    container: Annotated[bool | None, option("--container/--no-container", "As for `loom run`.")] = None,
    on: options.On = None,
    workflow: Annotated[
        str | None, option("--workflow -f PATH", "Workflow file, from the root of the checkout.")
    ] = None,
    needs: Annotated[bool | None, option("--needs/--no-needs", "Also run the jobs that it needs (default).")] = None,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    jobs: Annotated[int | None, option("--jobs -j N", "Run N commits at once (default: 1).", min=1, max=64)] = None,
    pull: Annotated[str | None, option("--pull WHEN", "always, missing or never.", "setting:pull")] = None,
    no_cache: Annotated[bool | None, option("--no-cache", "Neither restore nor save caches.")] = None,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Find the commit since which a job fails, by git's bisection. The checkout is not touched.

    A commit is skipped when its workflow can't be planned, or the job ends with exit code 125. An interrupted command goes
    on when it is given again. Exit code: 0 when the commit is found, 2 when only skipped ones are left.
    """
