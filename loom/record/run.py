"""The plan in a run's record (`plan.json`), with all that recreates a job's container, but references instead of secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from loom.errors import RecordError
from loom.plan.model import MountMode, Plan, WorkspaceMode
from loom.record.documents import RelativePath
from loom.util import typed
from loom.util.paths import jobs_of, workspace_beside
from loom.util.untrusted_files import read_regular

BROUGHT = ".brought.json"
"""The file beside a job's files with the manifest of what they are to be compared with, if that is not the run's snapshot."""


class View(Struct, frozen=True, kw_only=True):
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


class SavedPlan(Struct, frozen=True, kw_only=True):
    """The request of a run."""

    schema_version: Literal["loom.plan.v1"] = "loom.plan.v1"
    kind: Literal["run-plan"] = "run-plan"
    plan: Plan
    variables: Mapping[str, str]
    """The variables that loom sets for every job (`LOOM_RUN_ID`, `CI_COMMIT_SHA`, ...)."""
    mount_mode: WorkspaceMode = WorkspaceMode.SHARED
    read_only_mounts: tuple[str, ...] = ()
    container: bool = False
    """Whether jobs without an image ran in a container."""
    isolated: bool = False
    """Whether services' networks were isolated (`--strict`)."""
    grace_s: float = 10.0


def load_planned(path: Path) -> SavedPlan:
    """Parse a `SavedPlan`. RecordError if it is missing or invalid."""
    try:
        planned = typed.decode(read_regular(path), SavedPlan)
        check_consistent(planned.plan)
    except OSError as error:
        raise RecordError(
            f"the record has no plan ({path}: {(error.strerror or str(error)).lower()})",
            hint="the run ended before it began, or an older loom ran it; start again with `loom run`",
        ) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise RecordError(
            f"{path}: this plan can't be read: {error}",
            hint="it was written by another version of loom, or edited; run the workflow again with `loom run`",
        ) from error
    return planned


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
