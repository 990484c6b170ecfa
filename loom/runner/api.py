"""Run a plan and return its receipt.

The record and its first event are written first. Containers start slowly, so `execute` opens the first ones before it
imports the rest of loom; `run` records everything in the order of the phases.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from loom import __version__, snapshot
from loom.analysis import patterns
from loom.cancel import Cancel
from loom.config import Config
from loom.errors import LoomError, SnapshotError
from loom.plan import variables as environment
from loom.plan.model import Job, MountMode, Plan
from loom.providers.base import ReadOnlyMount
from loom.record.documents import Invocation, plain
from loom.record.events import RUN, PhaseCode, epoch_ns
from loom.record.highlights import Watch
from loom.record.journal import Journal
from loom.record.recorder import Recorder
from loom.record.run_record import RunRecord
from loom.record.store import Store
from loom.runner import JobTools, PlaceOpener, Resumption, RunSettings
from loom.secrets.masking import Masker, known
from loom.snapshot import SnapshotCanceled
from loom.status import JobResult
from loom.util import processes, profile
from loom.util.paths import jobs_of, new_workspace
from loom.util.refusals import refusals

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.record.documents import Receipt
    from loom.record.events import PhaseEvent
    from loom.record.journal import Sink
    from loom.runner.assistance import Assisted
    from loom.runner.prewarmed import Ahead
    from loom.snapshot import Change, Snapshot, Source
    from loom.storage.cache import Cache


JOBS_ELSEWHERE = 100
"""How many jobs run at once in a place on other machines. Each one costs this machine a thread and connections."""


class RunRequest(Struct, frozen=True, kw_only=True):
    """The inputs of a run."""

    run_id: str
    command: Sequence[str]
    invocation: Invocation
    """What the command and the environment ask for; of a run that does another one again, what that was asked for."""
    plan: Plan
    source: Source
    config: Config
    """The effective settings, including the command line's."""
    tools: JobTools
    store: Store
    clock_ns: Callable[[], int]
    cancel: Cancel
    sinks: Sequence[Sink]
    cache: Callable[[Mapping[str, Any]], Cache] | None
    """Return the caches of a run from the recorded snapshot facts (empty for an earlier run's snapshot).

    None: caches are neither restored nor saved.
    """
    preflight: Callable[[], None]
    """A check before any job starts (does an engine answer?); raises InfrastructureError."""
    isolated: bool
    """Whether services' networks are isolated (`--strict`)."""
    reuse: Reuse | None = None
    ahead: Ahead | None = None
    """What was prepared for this run, by its id; not with `reuse`."""
    parent_run_id: str | None = None
    """The run that this one repeats from the start; with `reuse`, that names it."""
    child_of: str | None = None
    """The run that starts this one as a child pipeline."""
    variables: Mapping[str, str]
    """The variables that loom sets for every job."""
    notices: Sequence[str] = ()
    """Messages for people before the first job runs."""
    detached: bool = False
    """Whether jobs go on without this process: it hands them over to their places."""

    @property
    def so_far(self) -> Sequence[PhaseEvent]:
        return self.reuse.so_far if self.reuse is not None else ()

    @property
    def jobs_at_once(self) -> int:
        """How many run on this machine, in its engine included."""
        return self.config.jobs or os.cpu_count() or 2

    def lanes(self, job: Job) -> Mapping[str, int]:
        """Return where the job counts while it runs: in its pool, elsewhere, or here (see `scheduler.Lanes`)."""
        if job.pool is not None and job.pool.jobs is not None:
            return {f"pool {job.pool.name}": job.pool.jobs}
        if MountMode.BIND not in self.tools.providers[job.provider].capabilities.mounts:
            return {job.provider: self.config.jobs or JOBS_ELSEWHERE}
        return {"": self.jobs_at_once}


class Reuse(Struct, frozen=True, kw_only=True):
    """What a run takes over from its parent."""

    parent_run_id: str
    workspace: Path
    """Already filled; nothing is copied."""
    snapshot: Mapping[str, Any]
    """The recorded facts of the workspace's snapshot."""
    results: Mapping[str, JobResult] = field(default_factory=dict)
    """Results of the plan's jobs that do not run again."""
    resumed: Mapping[str, Resumption] = field(default_factory=dict)
    archive_of: Callable[[str], Path]
    """The location of those jobs' artifacts."""
    manifest: bytes | None = None
    """The manifest of the snapshot that the resumed jobs' files were last synced with; None: the workspace's own."""
    run_of: Callable[[str], str]
    """The run that ran each of those jobs."""
    has_products: bool = True
    """Whether the workspace holds those jobs' output; if not, their artifacts are restored into it."""
    steps: Sequence[Mapping[str, Any]] = ()
    """What the record states of the steps that do not run again (`steps_reused`)."""
    so_far: Sequence[PhaseEvent] = ()
    """The events of the record that goes on, of a run that was left; none for a run with a record of its own."""
    assisted: Sequence[tuple[Assisted | None, tuple[Change, ...] | None]] = ()
    """What was done besides those steps, and how the files differ from the snapshot by it."""


class Ran(Struct, frozen=True, kw_only=True):
    """A finished run. `receipt_path` exists."""

    receipt: Receipt
    receipt_path: Path
    diagnosis: Diagnosis | None = None
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By job, the facts of its kept place. Jobs that can be entered or resumed."""


class Taking:
    """A snapshot that a thread takes while the engine is reached."""

    def __init__(self, source: Source, workspace: Path, cancel: Cancel) -> None:
        self._source = source
        self._workspace = workspace
        self._waits = cancel
        self._cancel = cancel.child()
        self._taken: Future[Snapshot] = Future()
        self._passed_on = False
        self._thread = threading.Thread(target=self._take, name="snapshot", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        try:
            with profile.span("part", "snapshot"):
                self._taken.set_result(snapshot.take(self._source, self._workspace, cancel=self._cancel))
        except BaseException as error:  # noqa: BLE001  raised again by the thread that waits
            self._taken.set_exception(error)

    def result(self) -> Snapshot:
        """Errors as of `snapshot.take`."""
        if not self._waits.join(self._thread):
            raise SnapshotCanceled("interrupted while the workspace was being filled")
        taken = self._taken.result()  # no limit: the thread has ended
        self._passed_on = True
        return taken

    def drop(self) -> None:
        """End it, and leave the workspace empty, unless somebody has the result. Safe to repeat."""
        self._cancel.request(None)
        if self._waits.join(self._thread) and not self._passed_on and self._taken.exception() is None:
            snapshot.empty(self._workspace)


class Beginning(Struct, kw_only=True):
    """The record, the empty workspace and the opening places of the first jobs; or the `problem` that ends the run."""

    record: RunRecord
    recorder: Recorder
    journal: Journal
    """It has the run's first event."""
    begun_ns: int
    workspace: Path
    settings: RunSettings
    opener: PlaceOpener
    reused: bool
    taking: Taking | None = None
    """The snapshot, where it has begun."""
    problem: LoomError | None = None

    def undo(self) -> None:
        """Close places that no job took, and remove an empty workspace. Safe to repeat."""
        self.opener.close_unused()
        if self.taking is not None:
            self.taking.drop()
        if not self.reused:
            with suppress(OSError):
                self.workspace.rmdir()
                shutil.rmtree(jobs_of(self.workspace), ignore_errors=True)


def execute(request: RunRequest) -> Ran:
    """Run the plan. Every failure ends in a receipt, except bugs and an unwritable record.

    WorkflowError for a mistake in the project's formats of output: nothing has begun.
    """
    with profile.span("part", "formats of output"):
        watch = patterns.watch(patterns.of_project(request.source.root))
    with profile.span("part", "record and first containers"):
        beginning = _begin(request, watch)
    try:
        with profile.span("part", "rest of loom"):
            try:
                with refusals():
                    from loom.runner.pipeline import Run
            except LoomError as error:  # what works beside this has used up the descriptors
                beginning.undo()
                beginning.problem = beginning.problem or error
                from loom.runner.pipeline import Run

        return Run(request, beginning).execute()
    except BaseException:
        beginning.undo()
        raise


def _begin(request: RunRequest, watch: Watch) -> Beginning:
    """InfrastructureError when the record can't be written."""
    reuse, ahead = request.reuse, request.ahead
    there = reuse or ahead
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
    opener = PlaceOpener(request.tools, settings, request.cancel)
    beginning = Beginning(
        record=record,
        recorder=recorder,
        journal=journal,
        begun_ns=begun_ns,
        workspace=workspace,
        settings=settings,
        opener=opener,
        reused=reuse is not None,
    )
    try:
        with refusals():
            if ahead is not None:
                ahead.taken_over()
            elif reuse is None:
                make_workspace(request, workspace)
                # One job alone needs the engine first, since its container starts without the files.
                if not settings.alone and any(one.capabilities.isolated for one in request.tools.providers.values()):
                    beginning.taking = Taking(request.source, workspace, request.cancel)
            request.preflight()
            if reuse is None:
                for job in first_jobs(request.plan, request.jobs_at_once):
                    opener.prewarm(job, ahead.places.pop(job.id, None) if ahead is not None else None)
                    opener.make_ready(job)
    except LoomError as error:
        beginning.problem = error
    return beginning


def _what_begins(request: RunRequest, record: RunRecord, workspace: Path) -> dict[str, Any]:
    reuse = request.reuse
    return {
        "parent_run_id": reuse.parent_run_id if reuse else request.parent_run_id,
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


def make_workspace(request: RunRequest, workspace: Path) -> None:
    try:
        request.store.claims.make(workspace, run_id=request.run_id, repo_root=request.source.root)
    except OSError as error:
        raise SnapshotError(
            f"the isolated workspace can't be made at {workspace}: {error.strerror or error}",
            hint="name another place with LOOM_TMP_DIR or TMPDIR",
        ) from error


def first_jobs(plan: Plan, at_most: int) -> Iterable[Job]:
    """Return the jobs that start right after the snapshot."""
    first_stage = next((stage for stage in plan.stages if any(job.stage == stage for job in plan.jobs)), None)
    ready = [
        job
        for job in plan.jobs
        if job.when in ("on_success", "always")
        and not job.refused
        and job.trigger is None
        and job.delay_s is None
        and (job.needs == () or (job.needs is None and job.stage == first_stage))
    ]
    return ready[:at_most]


def settings_of(request: RunRequest, workspace: Path) -> RunSettings:
    source, reuse = request.source, request.reuse
    done = reuse.results if reuse else {}
    untouched = reuse is None or not (reuse.has_products or reuse.resumed)
    return RunSettings(
        run_id=request.run_id,
        workspace=workspace,
        variables=request.variables,
        config=request.config,
        alone=untouched and len([job for job in request.plan.jobs if job.id not in done]) == 1,
        read_only_mounts=tuple(ReadOnlyMount(path=path) for path in source.read_only_mounts),
        detached=request.detached,
        resumed=reuse.resumed if reuse else {},
    )


def head_of(source: Source) -> environment.HeadCommit:
    """Return what `source` says of the commit that is checked out."""
    refs = {name: (sha, target) for name, sha, target in source.refs}
    _, default = refs.get("refs/remotes/origin/HEAD", ("", ""))
    sha, _ = refs.get(f"refs/remotes/origin/{source.branch}", (None, ""))
    return environment.HeadCommit(
        sha=source.head_sha,
        branch=source.branch,
        tags=source.tags,
        default_branch=environment.default_branch(default, refs),
        remote_sha=environment.remote_sha(sha, source.origin_url),
    )


def run_variables(
    run_id: str,
    source: Source,
    workflow_path: str,
    *,
    event: str = environment.DEFAULT_EVENT,
    message: environment.Message | None = None,
) -> dict[str, str]:
    """Return the variables for all jobs of a run on `source`; `message` is what git says of its commit, if known."""
    return environment.for_run(
        run_id=run_id,
        event=event,
        workflow_path=workflow_path,
        commit=replace(head_of(source), message=message),
        project_name=environment.project_name_of(source.root),
        origin_url=source.origin_url,
        user=environment.User(
            name=source.config.get("user.name", ("",))[-1], email=source.config.get("user.email", ("",))[-1]
        ),
    )
