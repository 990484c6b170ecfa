"""Start a run: its record, its workspace, and the containers of its first jobs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom import __version__, snapshot
from loom.cancel import Cancel
from loom.errors import LoomError
from loom.record.documents import plain
from loom.record.event_files import read_phases
from loom.record.events import RUN, PhaseCode, PhaseEvent, epoch_ns
from loom.record.highlights import Watch
from loom.record.journal import Journal
from loom.record.recorder import Recorder
from loom.record.run import Run
from loom.record.run_record import RunRecord
from loom.runner import SessionOpener
from loom.runner.preflight import preflight
from loom.runner.session import Work
from loom.runner.spares import make_workspace
from loom.runner.tools import RunTools, first_jobs
from loom.util import processes
from loom.util.masking import Masker, known
from loom.util.paths import jobs_of, new_workspace
from loom.util.refusals import refusals

if TYPE_CHECKING:
    from loom.runner.prewarmed import NextRun
    from loom.snapshot import Snapshot


_TOLD_EACH_NS = 5 * 10**9


class RunStart(Struct, kw_only=True):
    """The record, the empty workspace and the opening sessions of the first jobs; or the `problem` that ends the run."""

    run: Run
    tools: RunTools
    record: RunRecord
    recorder: Recorder
    journal: Journal
    begun_ns: int
    workspace: Path
    opener: SessionOpener
    so_far: Sequence[PhaseEvent]
    """The events of the record that goes on, of a run that was left."""
    prepared: NextRun | None = None
    taking: Work[Snapshot] | None = None
    """The snapshot, which a thread takes while the engine is reached; None once somebody has it."""
    problem: LoomError | None = None

    def take(self, cancel: Cancel) -> Snapshot:
        """Take the snapshot into the workspace, and record every five seconds how far it is."""
        run, tools, told_ns = self.run, self.tools, self.tools.clock_ns()

        def tell(files: int, of: int) -> None:
            nonlocal told_ns
            if tools.clock_ns() - told_ns > _TOLD_EACH_NS:
                told_ns = tools.clock_ns()
                self.journal.fact(RUN, PhaseCode.RUN_BOOTSTRAP, "files_copied", {"files": files, "of": max(files, of)})

        source, known = tools.cloned(run, run.clone), tools.store.workspaces.known(self.workspace)
        return snapshot.take(
            source,
            self.workspace,
            cancel=cancel,
            on_progress=tell,
            umask=run.plan.umask,
            known=known,
            watched=None if self.prepared is None else self.prepared.watched,
        )

    def undo(self) -> None:
        """Close sessions that no job took, and remove an empty workspace. Safe to repeat."""
        self.opener.close_unused()
        if (work := self.taking) is not None and work.stop() and work.error(LoomError("it has ended")) is None:
            snapshot.empty(self.workspace)
        if self.run.workspace is None:
            with suppress(OSError):
                self.workspace.rmdir()
                shutil.rmtree(jobs_of(self.workspace), ignore_errors=True)


def start(run: Run, tools: RunTools, watch: Watch, prepared: NextRun | None = None) -> RunStart:
    """Write the record's first event and open the first containers. Raises InfrastructureError if the record can't be written.

    A run that was left stays as it is where it can't go on: InfrastructureError.
    """
    if run.attached:
        preflight(run.plan, tools)
    filled = run.workspace
    workspace = (
        filled.path if filled else prepared.workspace if prepared else new_workspace(tools.config.tmp_dir, run.run_id)
    )
    record = tools.store.new(run.run_id)
    so_far = list(_events_that_stay(read_phases(record.paths), run)) if run.attached else []
    recorder = Recorder(record, watch)
    journal = Journal(
        run_id=run.run_id,
        now_ns=tools.clock_ns,
        masker=known(Masker()),
        sinks=[recorder, *tools.sinks],
        seq=so_far[-1].seq if so_far else 0,
    )
    for name, value in (item for one in tools.providers.values() for item in one.secrets().items()):
        journal.masker.add(name, value)
    if run.attached:
        record.reopen(_identity(run, workspace), so_far)
        begun_ns = epoch_ns(so_far[0].ts)
    else:
        # First of all, so that the record tells of the run and its resources after any end of this process.
        with record.created(_identity(run, workspace)):
            begun_ns = journal.started(RUN, PhaseCode.RUN_BOOTSTRAP, _run_facts(run, record, workspace))
    opener = tools.opener(run, workspace)
    started = RunStart(
        run=run,
        tools=tools,
        record=record,
        recorder=recorder,
        journal=journal,
        begun_ns=begun_ns,
        workspace=workspace,
        opener=opener,
        so_far=so_far,
        prepared=prepared,
    )
    try:
        with refusals():
            if prepared is not None:
                prepared.taken_over()
            elif filled is None:
                make_workspace(tools.store, workspace, run_id=run.run_id, repo_root=run.repo_root)
                # One job alone needs the engine first, since its container starts without the files.
                if not opener.alone and any(one.capabilities.isolated for one in tools.providers.values()):
                    started.taking = Work(started.take, tools.cancel, name="snapshot")
            if not run.attached:
                preflight(run.plan, tools, run.done)
            if filled is None:
                for job in first_jobs(run.plan, tools.jobs_at_once, run.done):
                    opener.prewarm(job, prepared.sessions.pop(job.id, None) if prepared is not None else None)
                    opener.make_ready(job)
    except LoomError as error:
        started.problem = error
    return started


def _events_that_stay(events: Iterable[PhaseEvent], run: Run) -> Iterator[PhaseEvent]:
    """Yield no events of the present attempts at jobs, which are heard again, nor any of the run's end."""
    known, done = list(events), run.done
    set_aside = {event.job_id: event.seq for event in known if event.message == "attempt_failed"}
    for event in known:
        of_end = event.kind == "phase_finished" and event.phase_code != PhaseCode.RUN_BOOTSTRAP
        if event.job_id is not None:
            heard = event.job_id in done or event.seq <= set_aside.get(event.job_id, 0)
            stays = heard or event.message == "handed_over"
        else:
            stays = event.phase_code != PhaseCode.RUN_FINALIZE and not of_end
        if stays:
            yield event


def _run_facts(run: Run, record: RunRecord, workspace: Path) -> dict[str, Any]:
    return {
        "parent_run_id": run.parent_run_id,
        **({"origin": run.origin} if run.origin is not None else {}),
        "loom_version": __version__,
        "command": list(run.command),
        "invocation": plain(run.request),
        "repo_root": str(run.repo_root),
        "workflow_path": run.plan.workflow_path,
        "workspace": str(workspace),
        "logs_dir": str(record.paths.logs),
        "mount_mode": run.mount_mode.value,
    }


def _identity(run: Run, workspace: Path) -> dict[str, Any]:
    return {
        "schema_version": "loom.identity.v1",
        "kind": "run-identity",
        "run_id": run.run_id,
        "repo_root": str(run.repo_root),
        "workspace": str(workspace),
        "workflow_path": run.plan.workflow_path,
        "child_of": run.child_of,
        "job_workspaces": {
            job_id: str(resumed.view.run_workspace)
            for job_id, resumed in run.resumed.items()
            if resumed.view is not None and resumed.view.run_workspace != workspace
        },
        "command": list(run.command),
        "pid": os.getpid(),
        "pid_started": processes.started_at(os.getpid()),
        "boot_id": processes.boot_id(),
        **({"detached": True} if run.detached else {}),
    }
