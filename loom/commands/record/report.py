"""`loom report`: a run as a page."""

from __future__ import annotations

import sys
from pathlib import Path

from loom.analysis.html_report.page import page
from loom.commands.project import Project, is_bundle, open_project
from loom.commands.project.bundle_file import record_files
from loom.commands.record.outgoing import check, masker_for
from loom.errors import RequestError
from loom.record.reader import Reading
from loom.record.run import load_run
from loom.util import atomic
from loom.util.untrusted_files import open_regular


def _check(project: Project, record: Reading) -> None:
    """Search what a page is made of for the values of secrets. RequestError for one that is there."""
    if not record.paths.plan.exists():
        return  # it ended before its plan, and so before it saw a value
    root = Path(record.entry.identity.get("repo_root") or project.root)
    masker, unknown = masker_for(project, root, record.entry, load_run(record.paths.plan).plan)
    for path in record_files(record.paths.root) if masker.active else ():
        with open_regular(path) as file:
            check(masker, str(path), file.read)
    if unknown:
        print(f"loom: the report is not searched for the values of {', '.join(unknown)}", file=sys.stderr)


def report(run: str, output: Path | None) -> None:
    project = open_project()
    record = project.find(run)
    text = page(record)
    if not is_bundle(run):
        _check(project, record)
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
