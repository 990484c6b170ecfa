"""`loom runs`, `show`, `diff` and `report`: the runs of a project; one as it was on the screen or as a page; two compared."""

from __future__ import annotations

import shlex
import sys
import time
from itertools import islice
from pathlib import Path

from msgspec.structs import replace

from loom.analysis.printed import document_of
from loom.commands.project import Here, here, is_bundle
from loom.commands.project.bundle_file import record_files
from loom.commands.record.outgoing import check, masker_for
from loom.commands.screen import screen_parts
from loom.errors import RequestError
from loom.record.documents import RunRow, Runs
from loom.record.event_files import last_event
from loom.record.events import timestamp
from loom.record.reader import Reading, replay
from loom.record.run import load_run
from loom.record.store import UNFINISHED, RunEntry
from loom.render.output import print_json, print_kind
from loom.render.records import diff_lines, runs_lines, unfinished_lines
from loom.render.screen import Screen, closing_lines, diagnosis_lines
from loom.util import atomic
from loom.util.untrusted_files import open_regular


def runs(*, everywhere: bool, limit: int, as_json: bool, color: str | None) -> None:
    project = here({"color": color})
    families = project.store.families(None if everywhere else project.root)
    rows = [_row_of(entry) for family in islice(families, limit) for entry in family]
    if as_json:
        print_json(Runs(runs=rows))
        return
    look, write = screen_parts(project.config.color)
    write(*runs_lines(rows, look, now_ns=time.time_ns(), with_checkout=everywhere))
    if not rows:
        what = "no run yet" if everywhere else f"no run of {project.root} yet; --all lists those of every checkout"
        print(what, file=sys.stderr)


def _row_of(entry: RunEntry) -> RunRow:
    receipt = entry.receipt or {}
    extent = receipt.get("extent") or {}
    status = entry.state
    last = None if entry.receipt else last_event(entry.paths.events)
    return RunRow(
        run_id=entry.run_id,
        child_of=entry.child_of,
        status=status,
        exit_code=receipt.get("exit_code"),
        started_at=receipt.get("started_at") or timestamp(int(entry.run_id)),
        duration_ms=receipt.get("duration_ms"),
        last_event_at=last.ts if last else None,
        head_sha=receipt.get("snapshot_head_sha"),
        tree_sha=extent.get("tree_sha") if extent else receipt.get("snapshot_tree_sha"),
        extent=list(extent.get("kinds", ())),
        failing_job_id=receipt.get("failing_job_id") if status != "success" else None,
        error=receipt.get("error"),
        command=list(receipt.get("command") or entry.identity.get("command") or ()),
        repo_root=entry.identity.get("repo_root"),
        workspace=entry.identity.get("workspace"),
        receipt_path=str(entry.paths.receipt) if entry.receipt else None,
        logs_dir=str(entry.paths.logs),
    )


def show(run: str, *, stream: bool, quiet: bool, verbose: bool, as_json: bool, color: str | None) -> None:
    project = here({"color": color})
    reading = project.find(run)
    if as_json:
        print_kind("show", document_of(reading))
        return
    from loom.analysis.evidence import recorded_diagnosis  # `loom runs` does not need it

    look, write = screen_parts(project.config.color, quiet=quiet, verbose=verbose, stream=stream)
    replay(reading, Screen(look, write), every_line=stream)
    if reading.state in UNFINISHED:
        command = reading.receipt()["command"]
        write(*unfinished_lines(reading.state, command, reading.last_sign(), reading.running_units(), look))
    elif is_bundle(run):  # its files are there for this command alone
        found = recorded_diagnosis(reading)
        write(*diagnosis_lines(found and replace(found, reproduce=f"loom replay {shlex.quote(run)}"), look))
    else:
        fold = reading.fold
        write(*closing_lines(reading.state, reading.paths.receipt, recorded_diagnosis(reading), fold.kept, look))


def diff(run_a: str, run_b: str, *, as_json: bool, color: str | None) -> None:
    from loom.analysis.diff import diff_of  # as in `show`

    project = here({"color": color})
    found = diff_of(project.find(run_a), project.find(run_b))
    if as_json:
        print_json(found)
        return
    look, write = screen_parts(project.config.color)
    write(*diff_lines(found, look))


def _check(project: Here, record: Reading) -> None:
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
    from loom.analysis.html_report.page import page  # as in `show`

    project = here()
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
