"""`loom resume` and `loom rerun`: an earlier run's jobs again, from where they failed or from the start."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from typer.core import TyperCommand

from loom.cli import options
from loom.cli.command import done_by, option


class ResumeCommand(TyperCommand):
    """Takes `--sync` with a value or without."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--sync=ask" if word == "--sync" else word for word in args])


CLASSES = {"resume": ResumeCommand}


@done_by("inside.resume")
def resume(
    run: options.RunName = None,
    from_step: Annotated[
        str | None, option("--from JOB[:STEP]", "The job and step to continue from (default: where it failed).", "job")
    ] = None,
    sync: Annotated[
        Literal["ask", "theirs", "ours"] | None,
        option(
            "--sync [=theirs|ours]",
            "First bring what changed in the checkout since the last sync into the job's files. Of a file that the job"
            " changed as well, take the checkout's (theirs) or keep the job's (ours); else nothing is changed.",
        ),
    ] = None,
    var: options.Variables = None,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    jobs: options.AtOnce = None,
    keep: options.Keep = None,
    stop_at: options.StopAt = None,
    trust: options.Trust = False,
) -> None:
    """Continue a failed run from the steps that failed. Then run the jobs that depend on these.

    A job continues in its kept container. The differences between its files and the snapshot are saved in the record first.
    """


@done_by("run.attach")
def attach(
    run: options.RunName = None,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    jobs: options.AtOnce = None,
    trust: options.Trust = False,
) -> None:
    """Follow a detached run to its end. Completes its record: the output of its jobs comes from their pods.

    Jobs that have not started begin now. ^C cancels the run; closing the terminal leaves it as it is.

    Exit code: the run's, as for `loom run`.
    """


@done_by("inside.resume")
def rerun(
    run: options.RunName = None,
    failed: Annotated[
        bool, option("--failed", "Only the jobs that failed or were skipped, and what depends on them.")
    ] = False,
    fresh: Annotated[bool, option("--fresh", "Use a new snapshot of the checkout and its present workflow.")] = False,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    keep: options.Keep = None,
    trust: options.Trust = False,
) -> None:
    """Run a run's jobs again from the start, on the same snapshot."""
