"""`loom runs`: the runs of a project."""

from __future__ import annotations

import sys
import time
from itertools import islice

from loom.commands.project import open_project
from loom.commands.screen import screen_parts
from loom.record.documents import RunRow, Runs
from loom.record.event_files import last_event
from loom.record.events import timestamp
from loom.record.store import RunEntry
from loom.render.output import print_json
from loom.render.records import runs_lines


def runs(*, everywhere: bool, limit: int, as_json: bool, color: str | None) -> None:
    project = open_project({"color": color})
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
    receipt, status = entry.receipt, entry.state
    last = None if receipt else last_event(entry.paths.events)
    found = {name: getattr(receipt, name, None) for name in ("exit_code", "duration_ms", "error")}
    return RunRow(
        **found,
        run_id=entry.run_id,
        child_of=entry.child_of,
        status=status,
        started_at=receipt.started_at if receipt else timestamp(int(entry.run_id)),
        last_event_at=last.ts if last else None,
        head_sha=receipt.snapshot_head_sha if receipt else None,
        tree_sha=receipt.extent.tree_sha if receipt else None,
        extent=receipt.extent.kinds if receipt else [],
        failing_job_id=receipt.failing_job_id if receipt and status != "success" else None,
        command=(receipt and receipt.command) or entry.identity.get("command") or [],
        repo_root=entry.identity.get("repo_root"),
        workspace=entry.identity.get("workspace"),
        receipt_path=str(entry.paths.receipt) if receipt else None,
        logs_dir=str(entry.paths.logs),
    )
