"""`loom runs`, `show`, `logs`, `diagnose`, `diff`, `report`, `artifacts`: read the record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import completion, done_by
from loom.render.diagnosis import DiagnosisForm


@done_by("record.runs")
def runs(
    everywhere: Annotated[bool, typer.Option("--all", "-a", help="The runs of every checkout.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most N runs.")] = 20,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """List the runs of this repository, newest first. Prints status, tree, duration and failed job."""


@done_by("record.runs")
def show(
    run: options.Run = "last",
    stream: Annotated[bool, typer.Option("--stream", help="All output, as `loom run --stream` shows it.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Print a run as its screen showed it."""


@done_by("record.logs")
def logs(
    run: options.Run = "last",
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="One job (or a glob).", autocompletion=completion("job"))
    ] = None,
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="STEP",
            help="One step (`2`, `script/02`) or section (`provider`).",
            autocompletion=completion("step"),
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the run ends.")] = False,
    grep: Annotated[
        str | None, typer.Option("--grep", metavar="RE", help="Only lines that match this regular expression.")
    ] = None,
    tail: Annotated[int | None, typer.Option("--tail", "-n", min=0, metavar="N", help="Only the last N lines.")] = None,
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Print the time of each line.")] = False,
    system: Annotated[bool, typer.Option("--system", help="Include loom's own work for the job.")] = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Print the output of a run's steps, also while it runs.

    `loom logs JOB` selects a job of the last run.
    """


@done_by("record.diagnose")
def diagnose(
    run: options.Run = "last",
    job: Annotated[
        str | None,
        typer.Argument(metavar="JOB", help="A job (default: the first that failed).", autocompletion=completion("job")),
    ] = None,
    form: Annotated[DiagnosisForm, typer.Option("--format", help="Output format.")] = DiagnosisForm.TEXT,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Show what failed, the likely cause, and what to do next.

    `--format agent` is plain text of at most 2 KB; `github` prints annotations, `gitlab` a Code Quality report.
    """


@done_by("record.diff")
def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN", help=options.RUN_HELP, autocompletion=completion("run"))],
    run_b: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="The other run (default: the last one).",
            show_default=False,
            autocompletion=completion("run"),
        ),
    ] = "last",
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Compare two runs. Covers trees, files, images, variables, results, durations, and the first differing line of output.

    Times, ids, temporary paths and similar values are ignored.
    """


@done_by("record.report")
def report(
    run: options.Run = "last",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write (default: report.html in the run's record); - is standard output.",
        ),
    ] = None,
) -> None:
    """Write a run as one HTML page. It is self-contained, with graph, timeline and searchable logs."""


@done_by("record.artifacts")
def artifacts(
    run: options.RunOrJob = None,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="A job of the run (a name or glob; default: all).", autocompletion=completion("job")
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Unpack the files into this directory, which must be new or empty."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the artifacts of a run's jobs, or unpack them.

    `--to DIR` unpacks one named job's files into DIR, or several jobs' files into a directory per job.
    """
