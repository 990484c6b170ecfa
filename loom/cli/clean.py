"""`loom clean` and `loom doctor`: the user's own machine, tidied and looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli.record import RUN_HELP, complete_run


def register(app: typer.Typer) -> None:
    app.command("clean")(clean)
    app.command("doctor")(doctor)


def clean(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(
            "--keep-last",
            min=0,
            metavar="N",
            help="Keep the newest N; `keep_runs` of the configuration, if nothing else is said.",
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Only what is older: `12h`, `7d`.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="The runs of every checkout, and workspaces that no record knows.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would go, and delete nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    in_background: Annotated[bool, typer.Option("--in-background", hidden=True)] = False,
) -> None:
    """Delete old runs. Records, isolated workspaces, and what they still have in the engine.

    Without arguments: the workspaces beyond `keep_workspaces` and `workspaces_max_size`, the records beyond `keep_runs`,
    and artifacts whose `expire_in` is over. The end of each run does the same in the background.

    Never what is in use.
    """
    from loom.commands import clean as cleaning

    raise SystemExit(
        cleaning.clean(
            tuple(runs or ()),
            keep_last=keep_last,
            older_than=older_than,
            everywhere=all_,
            dry_run=dry_run,
            as_json=as_json,
            in_background=in_background,
        )
    )


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Look at what loom needs on this machine, and say what to do. Git, engine, default image, disk space, directories.

    Starts a container as a job's would be, of an image that is here, and removes it.

    Ends with 0 when nothing is wrong, with 3 otherwise.
    """
    from loom.commands import clean as cleaning

    raise SystemExit(cleaning.doctor(as_json=as_json))
