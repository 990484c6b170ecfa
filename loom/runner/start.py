"""Start a run: its record, its workspace, and the containers of its first jobs."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom import __version__, snapshot
from loom.errors import LoomError
from loom.record.documents import plain
from loom.record.events import RUN, PhaseCode, epoch_ns
from loom.record.highlights import Watch
from loom.record.journal import Journal
from loom.record.recorder import Recorder
from loom.record.run_record import RunRecord
from loom.runner import SessionOpener
from loom.runner.request import RunRequest, first_jobs, preflight, settings_of
from loom.runner.session import Work
from loom.util import processes
from loom.util.masking import Masker, known
from loom.util.paths import jobs_of, new_workspace
from loom.util.refusals import refusals

if TYPE_CHECKING:
    from loom.runner.prewarmed import NextRun
    from loom.snapshot import Snapshot


class RunStart(Struct, kw_only=True):
    """The record, the empty workspace and the opening sessions of the first jobs; or the `problem` that ends the run."""

    record: RunRecord
    recorder: Recorder
    journal: Journal
    begun_ns: int
    workspace: Path
    opener: SessionOpener
    reused: bool
    prepared: NextRun | None = None
    taking: Work[Snapshot] | None = None
    """The snapshot, which a thread takes while the engine is reached; None once somebody has it."""
    problem: LoomError | None = None

    def undo(self) -> None:
        """Close sessions that no job took, and remove an empty workspace. Safe to repeat."""
        self.opener.close_unused()
        if (work := self.taking) is not None and work.stop() and work.error(LoomError("it has ended")) is None:
            snapshot.empty(self.workspace)
        if not self.reused:
            with suppress(OSError):
                self.workspace.rmdir()
                shutil.rmtree(jobs_of(self.workspace), ignore_errors=True)


def start(request: RunRequest, watch: Watch, prepared: NextRun | None = None) -> RunStart:
    """Write the record's first event and open the first containers. Raises InfrastructureError if the record can't be written."""
    reuse = request.reuse
    there = reuse or prepared
    workspace = there.workspace if there else new_workspace(request.config.tmp_dir, request.run_id)
    record = request.store.new(request.run_id)
    recorder = Recorder(record, watch)
    journal = Journal(
        run_id=request.run_id,
        pipeline_id=request.run_id,
        clock_ns=request.clock_ns,
        masker=known(Masker()),
        sinks=[recorder, *request.sinks],
        seq=request.so_far[-1].seq if request.so_far else 0,
    )
    if request.so_far:
        record.reopen(_identity(request, workspace), request.so_far)
        begun_ns = epoch_ns(request.so_far[0].ts)
    else:
        # First of all, so that the record tells of the run and its resources after any end of this process.
        with record.created(_identity(request, workspace)):
            begun_ns = journal.started(RUN, PhaseCode.RUN_BOOTSTRAP, _what_begins(request, record, workspace))
    settings = settings_of(request, workspace)
    opener = SessionOpener(request.tools, settings, request.cancel)
    started = RunStart(
        record=record,
        recorder=recorder,
        journal=journal,
        begun_ns=begun_ns,
        workspace=workspace,
        opener=opener,
        reused=reuse is not None,
        prepared=prepared,
    )
    try:
        with refusals():
            if prepared is not None:
                prepared.taken_over()
            elif reuse is None:
                request.store.workspaces.make(workspace, run_id=request.run_id, repo_root=request.source.root)
                # One job alone needs the engine first, since its container starts without the files.
                if not settings.alone and any(one.capabilities.isolated for one in request.tools.providers.values()):
                    take = partial(snapshot.take, workspace=workspace, umask=request.plan.umask)
                    source = partial(request.cloned, request.clone)
                    started.taking = Work(lambda cancel: take(source(), cancel=cancel), request.cancel, name="snapshot")
            preflight(request.plan, request.tools, request.config)
            if reuse is None:
                for job in first_jobs(request.plan, request.jobs_at_once, request.done):
                    opener.prewarm(job, prepared.sessions.pop(job.id, None) if prepared is not None else None)
                    opener.make_ready(job)
    except LoomError as error:
        started.problem = error
    return started


def _what_begins(request: RunRequest, record: RunRecord, workspace: Path) -> dict[str, Any]:
    reuse = request.reuse
    return {
        "parent_run_id": reuse.parent_run_id if reuse else request.parent_run_id,
        **({"origin": request.brought.origin} if request.brought is not None else {}),
        "loom_version": __version__,
        "command": list(request.command),
        "invocation": plain(request.invocation),
        "repo_root": str(request.source.root),
        "workflow_path": request.plan.workflow_path,
        "workspace": str(workspace),
        "logs_dir": str(record.paths.logs),
        "mount_mode": request.config.mount_mode,
    }


def _identity(request: RunRequest, workspace: Path) -> dict[str, Any]:
    return {
        "schema_version": "loom.identity.v1",
        "kind": "run-identity",
        "run_id": request.run_id,
        "repo_root": str(request.source.root),
        "workspace": str(workspace),
        "workflow_path": request.plan.workflow_path,
        "child_of": request.child_of,
        "job_workspaces": {
            job_id: str(resumed.view.run_workspace)
            for job_id, resumed in (request.reuse.resumed if request.reuse else {}).items()
            if resumed.view is not None and resumed.view.run_workspace != workspace
        },
        "command": list(request.command),
        "pid": os.getpid(),
        "pid_started": processes.started_at(os.getpid()),
        "boot_id": processes.boot_id(),
        **({"detached": True} if request.detached else {}),
    }
