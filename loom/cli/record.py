"""`loom runs`, `show`, `logs`, `diagnose`, `diff`: reading the record."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

RUN_HELP = "A run: its id, a unique part of its beginning or end, a path, `last` or `last-failed`."
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


class DiagnoseFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    AGENT = "agent"


def complete_run(incomplete: str) -> list[tuple[str, str]]:
    from loom.commands import records

    return records.known_runs(incomplete)


def complete_job(context: typer.Context, incomplete: str) -> list[str]:
    from loom.commands import records

    return records.known_jobs(context.params.get("run"), incomplete)


def complete_step(context: typer.Context, incomplete: str) -> list[str]:
    from loom.commands import records

    return records.known_steps(context.params.get("run"), context.params.get("job"), incomplete)


def complete_workflow_job(incomplete: str) -> list[str]:
    from loom.commands import records

    return records.workflow_jobs(incomplete)


def complete_stage(incomplete: str) -> list[str]:
    from loom.commands import records

    return records.workflow_stages(incomplete)


def complete_matrix(incomplete: str) -> list[str]:
    from loom.commands import records

    return records.workflow_matrix(incomplete)


def complete_setting(incomplete: str) -> list[str]:
    from loom import config

    return [key for key in config.KEYS if key.startswith(incomplete)]


def complete_document(incomplete: str) -> list[str]:
    from loom.analysis import schemas

    return [name for name in ("list", *schemas.NAMES) if name.startswith(incomplete)]


def values_of(setting: str) -> Callable[[str], list[str]]:
    """Completion of a flag that takes the values of a setting."""

    def complete(incomplete: str) -> list[str]:
        from loom import config

        return [value for value in config.choices(setting) if value.startswith(incomplete)]

    return complete


ColorOption = Annotated[
    str | None,
    typer.Option("--color", metavar="WHEN", help="auto, always or never.", autocompletion=values_of("color")),
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=complete_run)
]


def register(app: typer.Typer) -> None:
    app.command("runs")(runs)
    app.command("show")(show)
    app.command("logs")(logs)
    app.command("diagnose")(diagnose)
    app.command("diff")(diff)


def runs(
    all_: Annotated[bool, typer.Option("--all", "-a", help="The runs of every checkout.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most N runs.")] = 20,
    as_json: JsonOption = False,
    color: ColorOption = None,
) -> None:
    """List this repository's runs, newest first. Each with its end, its tree, how long it took, what failed."""
    from loom.commands import records

    records.runs(everywhere=all_, limit=limit, as_json=as_json, color=color)


def show(
    run: RunArgument = "last",
    stream: Annotated[bool, typer.Option("--stream", help="All output, as `loom run --stream` shows it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The receipt's path and the status only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what the run was made of.")] = False,
    as_json: JsonOption = False,
    color: ColorOption = None,
) -> None:
    """Show a run as it was on the screen."""
    from loom.commands import records

    records.show(run, stream=stream, quiet=quiet, verbose=verbose, as_json=as_json, color=color)


def logs(
    run: RunArgument = "last",
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="One job (or a glob).", autocompletion=complete_job)
    ] = None,
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="STEP", help="One step (`2`, `script/02`) or section (`provider`).", autocompletion=complete_step
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as long as the run does.")] = False,
    grep: Annotated[str | None, typer.Option("--grep", metavar="RE", help="Only lines in which RE is found.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="The time in front of each line.")] = False,
    system: Annotated[bool, typer.Option("--system", help="What loom itself did for the job, too.")] = False,
    as_json: JsonOption = False,
    color: ColorOption = None,
) -> None:
    """Print what a run's steps printed, also while it runs.

    `loom logs JOB` is the last run's job of that name.
    """
    from loom.commands import records

    records.logs(
        run,
        job,
        step,
        records.LogOptions(
            follow=follow, grep=grep, tail=tail, timestamps=timestamps, system=system, as_json=as_json, color=color
        ),
    )


def diagnose(
    run: RunArgument = "last",
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB", help="This job instead of the first that failed.", autocompletion=complete_job),
    ] = None,
    output: Annotated[DiagnoseFormat, typer.Option("--format", help="How it is said.")] = DiagnoseFormat.TEXT,
    as_json: JsonOption = False,
    color: ColorOption = None,
) -> None:
    """Say what failed, why it may be, and what to do next.

    `--format agent` is plain text of at most 2 KB.
    """
    from loom.commands import records

    records.diagnose(run, job, "json" if as_json else output.value, color=color)


def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, autocompletion=complete_run)],
    run_b: Annotated[
        str, typer.Argument(metavar="RUN", help="The other; the last run.", autocompletion=complete_run)
    ] = "last",
    as_json: JsonOption = False,
    color: ColorOption = None,
) -> None:
    """Say what differs between two runs. Tree, files, images, variables, outcomes, durations, the first line of output.

    Times, ids, temporary paths and the like count as the same.
    """
    from loom.commands import records

    records.diff(run_a, run_b, as_json=as_json, color=color)
