"""The inputs of a run, and what several parts of it make of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from loom.cancel import Cancel
from loom.config import Config
from loom.config.pools import HERE
from loom.errors import EngineUnavailable
from loom.plan.clone import Clone, refs_of_head, widest
from loom.plan.model import Job, MountMode, Plan
from loom.record.documents import Invocation
from loom.record.store import Store
from loom.runner import JobTools, Resumption, RunSettings
from loom.snapshot import as_cloned, reduction
from loom.status import JobResult

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.record.documents import Assistance, Receipt
    from loom.record.events import PhaseEvent
    from loom.record.journal import Sink
    from loom.snapshot import Source
    from loom.storage.cache import Cache


JOBS_ELSEWHERE = 100
"""The number of jobs that run at once on other machines. Each one costs this machine a thread and connections."""


def clone_of(plan: Plan) -> Clone | None:
    """Return what the workspace of a run has of the repository: what each of the jobs gets, or more."""
    return widest(job.clone for job in plan.jobs if job.trigger is None and not (job.clone and job.no_checkout))


class RunRequest(Struct, frozen=True, kw_only=True):
    run_id: str
    command: Sequence[str]
    invocation: Invocation
    """The options of this run; a rerun keeps those of the original run."""
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
    isolated: bool
    """Whether services' networks are isolated (`--strict`)."""
    reuse: Reuse | None = None
    brought: Brought | None = None
    """Not with `reuse`."""
    parent_run_id: str | None = None
    """The run that this one repeats from the start; with `reuse`, that names it."""
    child_of: str | None = None
    """The run that starts this one as a child pipeline."""
    variables: Mapping[str, str]
    notices: Sequence[str] = ()
    detached: bool = False
    """Whether jobs go on without this process: it hands them over to their sessions."""

    @property
    def done(self) -> Mapping[str, JobResult]:
        """The results of the plan's jobs that do not run."""
        known = self.reuse or self.brought
        return known.results if known is not None else {}

    @property
    def so_far(self) -> Sequence[PhaseEvent]:
        return self.reuse.so_far if self.reuse is not None else ()

    @property
    def clone(self) -> Clone | None:
        """Return what the workspace has of the repository: what each of the jobs gets, or more."""
        return clone_of(self.plan)

    def cloned(self, clone: Clone | None) -> Source:
        """Return the source as a clone of this run has it."""
        return as_cloned(self.source, clone, refs_of_head(self.variables))

    @property
    def jobs_at_once(self) -> int:
        """Return the number of jobs at once on this machine, its engine included."""
        return self.config.jobs or os.cpu_count() or 2

    def lanes(self, job: Job) -> Mapping[str, int]:
        """Return the job's lanes (`scheduler.Lanes`): its pool, its provider or this machine, and its matrix."""
        return {**self._lane(job), **job.lanes}

    def _lane(self, job: Job) -> Mapping[str, int]:
        if job.pool is not None and job.pool.jobs is not None:
            return {f"pool {job.pool.name}": job.pool.jobs}
        if MountMode.BIND not in self.tools.providers[job.provider].capabilities.mounts:
            return {job.provider: self.config.jobs or JOBS_ELSEWHERE}
        return {"": self.jobs_at_once}


class Reuse(Struct, frozen=True, kw_only=True):
    """The results that a run takes over from its parent."""

    parent_run_id: str
    workspace: Path
    """Already filled; nothing is copied."""
    snapshot: Mapping[str, Any]
    results: Mapping[str, JobResult] = field(default_factory=dict)
    """Results of the plan's jobs that do not run again."""
    resumed: Mapping[str, Resumption] = field(default_factory=dict)
    archive_of: Callable[[str], Path]
    manifest: bytes | None = None
    """The manifest of the snapshot that the resumed jobs' files were last synced with; None: the workspace's own."""
    run_of: Callable[[str], str]
    has_products: bool = False
    """Whether the workspace holds those jobs' output; if not, their artifacts are restored into it."""
    steps: Sequence[Mapping[str, Any]] = ()
    """The record's facts of the steps that do not run again (`steps_reused`)."""
    so_far: Sequence[PhaseEvent] = ()
    """The events of the record that goes on, of a run that was left; none for a run with a record of its own."""
    assisted: Sequence[Assistance] = ()


class Brought(Struct, frozen=True, kw_only=True):
    """The jobs that ran elsewhere, on a CI server."""

    origin: str
    """The origin of the run that this one repeats: the address of a job's page, or a bundle."""
    results: Mapping[str, JobResult]
    archive_of: Callable[[str], Path]
    """The location of those jobs' artifacts, if they have any."""


class Ran(Struct, frozen=True, kw_only=True):
    """A finished run. `receipt_path` exists."""

    receipt: Receipt
    receipt_path: Path
    diagnosis: Diagnosis | None = None
    kept: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The facts of kept sessions, by job. Jobs that can be entered or resumed."""


def preflight(plan: Plan, tools: JobTools, config: Config) -> None:
    """Raise InfrastructureError for what has to be true before anything starts, and is not."""
    images = [job.image for job in plan.jobs if job.image is not None]
    optional = images and all(image.build is None and image.name == config.default_image for image in images)
    optional = optional and tools.providers.keys() <= HERE.keys()
    for provider in tools.providers.values():
        try:
            provider.check()
        except EngineUnavailable as error:
            if not optional:
                raise
            # For jobs that name no image: where no engine answers, they could run without one.
            way = "or run jobs that name no image on this machine, without isolation: loom run --no-container"
            raise EngineUnavailable(error.message, hint=f"{error.hint}\n{way}" if error.hint else way) from error


def first_jobs(plan: Plan, at_most: int, done: Collection[str] = ()) -> Iterable[Job]:
    """Return the jobs that start right after the snapshot."""
    open_jobs = [job for job in plan.jobs if job.id not in done]
    first_stage = next((stage for stage in plan.stages if any(job.stage == stage for job in open_jobs)), None)
    ready = [
        job
        for job in open_jobs
        if job.when in ("on_success", "always")
        and not job.refused
        and job.trigger is None
        and job.delay_s is None
        and job.is_certain
        and (
            (job.needs is None and job.stage == first_stage)
            or (job.needs is not None and all(need.job in done for need in job.needs))
        )
    ]
    return ready[:at_most]


def settings_of(request: RunRequest, workspace: Path) -> RunSettings:
    source, reuse, present = request.source, request.reuse, request.clone
    untouched = reuse is None or not (reuse.has_products or reuse.resumed)
    return RunSettings(
        run_id=request.run_id,
        workspace=workspace,
        variables=request.variables,
        config=request.config,
        umask=request.plan.umask,
        alone=untouched and len([job for job in request.plan.jobs if job.id not in request.done]) == 1,
        read_only_mounts=source.read_only_mounts,
        detached=request.detached,
        # A clone like the run's needs no look at the history.
        reduction=lambda clone: reduction(request.cloned(clone), workspace, present) if clone != present else "",
        resumed=reuse.resumed if reuse else {},
    )
