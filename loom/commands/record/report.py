"""`loom report`: a run as one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path

from loom.analysis.html_report.page import page
from loom.commands.project import here, is_bundle
from loom.errors import RequestError
from loom.util import atomic


def report(run: str, output: Path | None) -> None:
    """`loom report`."""
    record = here().find(run)
    text = page(record)
    if output is not None and str(output) == "-":
        sys.stdout.write(text)
        return
    if output is None and is_bundle(run):
        output = Path(run).with_suffix(".html")
    path = output or record.paths.root / "report.html"  # never the checkout, where the next snapshot would take it
    try:
        atomic.write(path, text.encode())
    except OSError as error:
        raise RequestError(
            f"the report can't be written to {path}: {error.strerror or error}",
            hint="name another file with --output FILE",
        ) from error
    print(f"report: {path.absolute()}")
