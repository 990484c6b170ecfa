"""`loom report`: a run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loom.cli.record import RunArgument


def register(app: typer.Typer) -> None:
    app.command("report")(report)


def report(
    run: RunArgument = "last",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to (default: report.html in the record of the run); - is standard output.",
        ),
    ] = None,
) -> None:
    """Write a run as one HTML page. Self-contained: graph, timeline, logs with search."""
    import sys

    from loom.analysis.html_report import page
    from loom.commands import records
    from loom.errors import RequestError
    from loom.util import atomic

    record = records.here().find(run)
    text = page(record)
    if output is not None and str(output) == "-":
        sys.stdout.write(text)
        return
    path = output or record.paths.root / "report.html"  # never the checkout, where the next snapshot would take it
    try:
        atomic.write(path, text.encode())
    except OSError as error:
        raise RequestError(
            f"the report can't be written to {path}: {error.strerror or error}", hint="name a place with --output FILE"
        ) from error
    print(f"report: {path.absolute()}")
