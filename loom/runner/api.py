"""Run a plan and return its receipt.

The record and its first event are written first. Containers start slowly, so `execute` opens the first ones before it
imports the rest of loom; `run` records everything in the order of the phases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from loom.analysis import patterns
from loom.errors import LoomError
from loom.plan import variables as environment
from loom.runner.request import Ran, RunRequest
from loom.runner.start import start
from loom.util import profile
from loom.util.refusals import refusals

if TYPE_CHECKING:
    from loom.runner.prewarmed import NextRun
    from loom.snapshot import Source


def execute(request: RunRequest, prepared: NextRun | None = None) -> Ran:
    """Run the plan. Every failure ends in a receipt, except bugs and an unwritable record.

    `prepared`: what was prepared for this run, by its id; not with `request.reuse`. Raises WorkflowError for a mistake in the
    project's formats of output: nothing has begun.
    """
    with profile.span("part", "formats of output"):
        watch = patterns.watch(patterns.of_project(request.source.root))
    with profile.span("part", "record and first containers"):
        started = start(request, watch, prepared)
    try:
        with profile.span("part", "rest of loom"):
            try:
                with refusals():
                    from loom.runner.pipeline import Run
            except LoomError as error:  # what works beside this has used up the descriptors
                started.undo()
                started.problem = started.problem or error
                from loom.runner.pipeline import Run

        return Run(request, started).execute()
    except BaseException:
        started.undo()
        raise


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
