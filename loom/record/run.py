"""A run as one value: a planner makes it, the kernel runs it, and the record keeps it (`plan.json`), without any secret."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from loom.errors import RecordError, reason_of
from loom.plan.clone import Clone, widest
from loom.plan.model import MountMode, Plan, Resolved, WorkspaceMode
from loom.plan.variables import rerun_variables
from loom.record.documents import UNREADABLE, Assistance, RelativePath
from loom.record.request import Request
from loom.status import JobResult
from loom.util import typed
from loom.util.paths import jobs_of, workspace_beside
from loom.util.untrusted_files import read_regular
from loom.values import Immutable

BROUGHT = ".brought.json"
"""The file beside a job's files with the manifest of what they are to be compared with, if that is not the run's snapshot."""


class View(Immutable):
    """One job's view. `mode` decides whether `workspace` is mounted, overlaid or sent."""

    mode: MountMode
    workspace: Path
    directory: Path | None = None
    """The job's own directory beside the run's workspace; None if the job uses `workspace` itself."""
    copied: bool = False
    """`workspace` is empty; fill it with a copy of the run's."""

    @property
    def run_workspace(self) -> Path:
        """The workspace that owns this view: they are removed together."""
        return self.workspace if self.directory is None else workspace_beside(self.directory.parent)

    @property
    def brought(self) -> Path:
        """The manifest of the snapshot that these files were last synced with. It does not exist before the first sync."""
        return (self.directory or jobs_of(self.workspace)) / BROUGHT

    @property
    def files(self) -> Path:
        """The plain path of the job's files: existing, or where they can be laid out."""
        return self.directory / "workspace" if self.directory is not None else self.workspace


class LeftContainer(Immutable):
    """The container of a job that an earlier run has left."""

    run_id: str
    container_id: str
    user: str = ""
    """Of commands in it; empty: the container's own."""
    handed_over: Path | None = None
    """The file with the commands that go on in it without a session; None: none do."""


class JobStart(Immutable, tag_field="start"):
    """What a job has from before its run; a job without one starts fresh."""

    archive: Path
    """Its artifacts, if it left any."""
    run_id: str = ""
    """The run that it ran in; empty: none of this machine."""
    steps: Mapping[str, float] = {}
    """Its steps that do not run again, with the milliseconds that each took."""


class TakenOver(JobStart, tag="taken-over"):
    """A job that does not run: its result is that of an earlier run, or of a CI server."""

    result: JobResult


class Resumed(JobStart, tag="resumed"):
    """A job that goes on from a step of an earlier run."""

    step: str
    handed_on: Mapping[str, Any] = {}
    """The recorded outputs of the steps before."""
    step_states: tuple[Mapping[str, Any], ...] = ()
    """The facts of the steps before, for a job with a `LateJob`."""
    cache_keys: tuple[str, ...] = ()
    image: Resolved | None = None
    number: int = 1
    attached: bool = False
    """It is not resumed: its steps go on from the first one (`kept`), or begin."""
    before_ms: float = 0.0
    """The time from the job's beginning to that of the first of these steps."""
    kept: LeftContainer | None = None
    """None: create a container from `image`."""
    view: View | None = None
    """The job's saved files; None: a new view, as at the start of a job."""


class FilledWorkspace(Immutable):
    """A workspace that has its files already; nothing is copied."""

    path: Path
    snapshot: Mapping[str, Any]
    """The recorded facts of its snapshot."""
    manifest: bytes | None = None
    """The manifest of the snapshot that the resumed jobs' files were last synced with; None: the workspace's own."""
    has_products: bool = False
    """Whether it holds the output of the jobs before; if not, their artifacts are restored into it."""


class Run(Immutable):
    schema_version: Literal["loom.plan.v2"] = "loom.plan.v2"
    kind: Literal["run-plan"] = "run-plan"
    run_id: str
    command: tuple[str, ...]
    request: Request
    """A rerun keeps that of the original run."""
    repo_root: Path
    plan: Plan
    variables: Mapping[str, str]
    """The variables that loom sets for every job (`LOOM_RUN_ID`, `CI_COMMIT_SHA`, ...)."""
    workspace: FilledWorkspace | None = None
    """None: a new snapshot of the checkout."""
    starts: Mapping[str, TakenOver | Resumed] = {}
    """By job; the others start fresh."""
    mount_mode: WorkspaceMode = WorkspaceMode.SHARED
    read_only_mounts: tuple[Path, ...] = ()
    container: bool = False
    """Whether jobs without an image run in a container."""
    isolated: bool = False
    """Whether services' networks are isolated (`--strict`)."""
    grace_s: float = 10.0
    detached: bool = False
    """Whether jobs go on without this process: it hands them over to their sessions."""
    attached: bool = False
    """Whether the run was left, and goes on in its record."""
    parent_run_id: str | None = None
    """The run that this one repeats, or goes on from."""
    child_of: str | None = None
    """The run that starts this one as a child pipeline."""
    origin: str | None = None
    """The origin of the run that this one repeats: the address of a job's page, or a bundle."""
    assisted: tuple[Assistance, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def done(self) -> dict[str, JobResult]:
        """The results of the plan's jobs that do not run."""
        return {job_id: start.result for job_id, start in self.starts.items() if isinstance(start, TakenOver)}

    @property
    def resumed(self) -> dict[str, Resumed]:
        return {job_id: start for job_id, start in self.starts.items() if isinstance(start, Resumed)}

    @property
    def clone(self) -> Clone | None:
        """What the workspace has of the repository: what each of the jobs gets, or more."""
        jobs = (job for job in self.plan.jobs if job.trigger is None and not (job.clone and job.no_checkout))
        return widest(job.clone for job in jobs)

    def again(self, run_id: str, **changes: Any) -> Run:
        """Return another run that does the same, but for these changes."""
        return replace(self, run_id=run_id, variables=rerun_variables(self.variables, run_id), **changes)


def load_run(path: Path) -> Run:
    """Parse the run of a record. RecordError if it is missing or invalid."""
    try:
        run = typed.decode(read_regular(path), Run)
        check_consistent(run.plan)
    except OSError as error:
        raise RecordError(
            f"the record has no plan ({path}: {reason_of(error)})",
            hint="the run ended before it began, or an older loom ran it; start again with `loom run`",
        ) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path}: this plan can't be read: {error}",
            hint=UNREADABLE,
        ) from error
    return run


def check_consistent(plan: Plan) -> None:
    """Raise ValueError for an impossible plan: duplicate jobs, wrong order, or a job without steps."""
    present, before = {job.id for job in plan.jobs}, set[str]()
    typed.convert(
        [name for job in plan.jobs for name in (job.id, *(step.id for step in job.steps))], list[RelativePath]
    )
    for job in plan.jobs:
        if job.id in before or job.stage not in plan.stages or not (job.steps or job.trigger):
            raise ValueError(f"job {job.id!r} is there twice, has no step, or its stage is not one of the plan")
        if (present - before) & {need.job for need in job.needs or ()}:
            raise ValueError(f"job {job.id!r} stands before one that it needs")
        before.add(job.id)
