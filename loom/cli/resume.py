"""`loom resume` and `loom rerun`: an earlier run's jobs again, from where they failed or from the start."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli.options import Keep, Quiet, Stream, Trust
from loom.cli.record import complete_job, complete_run


def register(app: typer.Typer) -> None:
    app.command("resume")(resume)
    app.command("rerun")(rerun)


RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="The last run if not given.", autocompletion=complete_run)
]


def resume(
    run: RunName = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="JOB[:STEP]",
            help="The job, and where in it; where it failed if not given.",
            autocompletion=complete_job,
        ),
    ] = None,
    sync: Annotated[
        bool, typer.Option("--sync", help="First bring the checkout's present changes into the workspace.")
    ] = False,
    stream: Stream = None,
    quiet: Quiet = False,
    keep: Keep = None,
    trust: Trust = False,
) -> None:
    """Go on with a failed run, from the steps that failed. Then come the jobs that depend on these.

    A job goes on in its kept container, else in one restored from the checkpoint that was made when it failed.
    """
    from loom.commands import resume as resuming

    raise SystemExit(resuming.resume(run, from_=from_, sync=sync, stream=stream, quiet=quiet, keep=keep, trust=trust))


def rerun(
    run: RunName = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only the jobs that failed or were skipped, and what depends on them.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="On a new snapshot of the checkout, by its present workflow.")
    ] = False,
    stream: Stream = None,
    quiet: Quiet = False,
    keep: Keep = None,
    trust: Trust = False,
) -> None:
    """Run a run's jobs again from the start, on the same snapshot."""
    from loom.commands import resume as resuming

    raise SystemExit(
        resuming.rerun(run, failed=failed, fresh=fresh, stream=stream, quiet=quiet, keep=keep, trust=trust)
    )
