"""`loom clean`, `loom doctor`: this machine, tidied and examined. And `loom version`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import completion, done_by


@done_by("clean")
def clean(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help=options.RUN_HELP, autocompletion=completion("run")),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(
            "--keep-last", min=0, metavar="N", help="Keep the newest N (default: `keep_runs` of the configuration)."
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only what is older: `12h`, `7d`.")
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--all", "-a", help="The runs of every checkout, and workspaces without a record.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print what would go, and delete nothing.")] = False,
    as_json: options.AsJson = False,
    in_background: Annotated[bool, typer.Option("--in-background", hidden=True)] = False,
) -> None:
    """Delete old runs. Records, isolated workspaces, and what they still have in the engine.

    Without arguments: the workspaces beyond `keep_workspaces` and `workspaces_max_size`, the records beyond `keep_runs`,
    and artifacts whose `expire_in` is over. Each run does the same in the background when it ends.

    Never deletes what is in use.
    """


@done_by("doctor")
def doctor(as_json: options.AsJson = False) -> None:
    """Check what loom needs on this machine. Git, engine, default image, disk space, directories; says what to do.

    Starts a container as a job's would be, of an image that is here, and removes it.

    Ends with 0 when nothing is wrong, with 3 otherwise.
    """
