"""List runs: the rows of `loom runs`, from a few small files of each record."""

from __future__ import annotations

from contextlib import suppress

from loom.errors import RecordError
from loom.record.documents import RunRow, RunSummary
from loom.record.event_files import last_event
from loom.record.events import timestamp
from loom.record.store import UNFINISHED, RunEntry, read_document


def row_of(entry: RunEntry) -> RunRow:
    receipt = entry.receipt or {}
    extent = receipt.get("extent") or {}
    status = entry.state
    failing = None
    if status not in ("success", *UNFINISHED):
        with suppress(RecordError):  # a record without this file still has a row
            failing = (read_document(entry.paths.logs / "summary.json", RunSummary) or {}).get("failing_job_id")
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
        failing_job_id=failing,
        error=receipt.get("error"),
        command=list(receipt.get("command") or entry.identity.get("command") or ()),
        repo_root=entry.identity.get("repo_root"),
        workspace=entry.identity.get("workspace"),
        receipt_path=str(entry.paths.receipt) if entry.receipt else None,
        logs_dir=str(entry.paths.logs),
    )
