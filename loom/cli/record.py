"""`loom runs`, `show`, `logs`, `diagnose`, `diff`, `report`, `artifacts`: read the record."""

from __future__ import annotations

from pathlib import Path

from loom.cli import options
from loom.cli.command import argument, done_by, option
from loom.render.diagnosis import DiagnosisForm


@done_by("record.runs", takes=(options.PrintOptions,))
def runs(
    everywhere: bool = option("--all -a", "The runs of every checkout."),
    limit: int = option("--limit -n N", "At most N runs.", min=1, default=20),
) -> None:
    """List the runs of this repository, newest first.

    Prints status, extent (whole, or what was not as in CI), tree, duration and failed job.
    """


@done_by("record.show", takes=(options.PrintOptions,))
def show(
    run: str = options.RUN,
    stream: bool = option("--stream", "All output, as `loom run --stream` shows it."),
    quiet: bool = options.QUIET,
    verbose: bool = options.VERBOSE,
) -> None:
    """Print a run as its screen showed it."""


@done_by("record.logs", takes=(options.PrintOptions,))
def logs(
    run: str = options.RUN,
    job: str | None = argument("JOB", "One job (or a glob).", "job"),
    step: str | None = argument(
        "STEP", "One step (`2`, `script/02`), or what loom did around them (`provider`).", "step"
    ),
    follow: bool = option("--follow -f", "Continue until the run ends."),
    grep: str | None = option("--grep RE", "Only lines that match this regular expression."),
    tail: int | None = option("--tail -n N", "Only the last N lines.", min=0),
    timestamps: bool = option("--timestamps -t", "Print the time of each line."),
    system: bool = option("--system", "Include loom's own work for the job."),
) -> None:
    """Print the output of a run's steps, also while it runs.

    `loom logs JOB` selects a job of the last run.
    """


@done_by("record.diagnose", takes=(options.PrintOptions,))
def diagnose(
    run: str = argument(
        "RUN|LOG",
        f"{options.RUN_HELP} Or a CI server's log: a file, - or the address of a job.",
        "run",
        show_default=False,
        default="last",
    ),
    job: str | None = argument("JOB", "A job (default: the first that failed).", "job"),
    form: DiagnosisForm = option("--format FORM", "text, agent, json, github or gitlab.", default=DiagnosisForm.TEXT),
) -> None:
    """Show what failed, what ended it, the lines that tell and what they mean.

    Of a run, or of the log of a job on GitLab or GitHub, without a run here.

    `--format agent` is plain text of at most 2 KB; `github` prints annotations, `gitlab` a Code Quality report.
    """


@done_by("record.show", takes=(options.PrintOptions,))
def diff(
    run_a: str = argument("RUN", options.RUN_HELP, "run", default=...),
    run_b: str = argument("RUN", "The other run (default: the last one).", "run", show_default=False, default="last"),
) -> None:
    """Compare two runs. Covers trees, files, images, variables, results, durations, and the first differing line of output.

    Times, ids, temporary paths and similar values are ignored.
    """


@done_by("record.report")
def report(
    run: str = options.RUN,
    output: Path | None = option(
        "--output -o FILE", "The file to write (default: report.html in the run's record); - is standard output."
    ),
) -> None:
    """Write a run as one HTML page. It is self-contained, with stages, timeline and searchable logs."""


@done_by("record.artifacts")
def artifacts(
    run: str | None = options.RUN_OR_JOB,
    job: str | None = argument("JOB", "A job of the run (a name or glob; default: all).", "job"),
    to: Path | None = option("--to DIR", "Unpack the files into this directory, which must be new or empty."),
    as_json: bool = options.AS_JSON,
) -> None:
    """List the artifacts of a run's jobs, or unpack them.

    `--to DIR` unpacks one named job's files into DIR, or several jobs' files into a directory per job.
    """
