"""`loom jobs`: one line for each job of the workflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from loom.commands.plan.plan_run import planner_of
from loom.commands.project import open_project
from loom.commands.project.trusting import settle_objects
from loom.commands.screen import screen_parts
from loom.errors import InfrastructureError, NoJobRuns, WorkflowError
from loom.images.reference import parse_reference
from loom.plan.image_lock import shown
from loom.plan.model import Job, Plan
from loom.providers.docker.images.present import present_images
from loom.record.request import Request
from loom.render.jobs import JobsDocument, LeftOutJob, ListedJob, job_lines
from loom.render.output import print_json
from loom.status import ExitCode
from loom.util.budget import LOOKING_S, limited
from loom.util.units import duration_text


@limited(LOOKING_S)
def jobs(*, as_json: bool, **given: Any) -> int:
    request = Request.of(given)
    project = open_project(request.settings)
    settle_objects(project, can_ask=not as_json)
    planner = planner_of(project, request, keeping=True)
    incomplete = None
    try:
        plan, _ = planner.made()
    except NoJobRuns as none:
        plan = Plan(workflow_path=planner.workflow.path, stages=(), jobs=(), left_out=tuple(none.left_out))
        print(f"loom: {none.hint}", file=sys.stderr)
    except (InfrastructureError, WorkflowError) as error:
        codes = {error.code, *(problem.code for problem in getattr(error, "problems", ()))}
        if "ACTION_UNREACHABLE" in codes:
            plan, _ = planner.without_repositories()
            missing = "what comes from other repositories is not listed"
        elif not codes.isdisjoint(("SERVER_UNAVAILABLE", "GL_INCLUDE")):
            plan = planner.without_includes()
            missing = (
                "without what is included from elsewhere jobs may be missing, others may have more rules or an image"
            )
        else:
            raise
        incomplete = f"{missing}: {error.message}"
        print(f"loom: {incomplete}", file=sys.stderr)
    images = present_images(project.environ, project.config.engine)
    document = JobsDocument(
        workflow_path=plan.workflow_path,
        jobs=[
            ListedJob(
                id=job.id,
                name=job.name,
                stage=job.stage,
                runs="; ".join(_conditions(job)),
                image=None if job.image is None else shown(job.image),
                image_here=_is_here(job, images),
                needs=None if job.needs is None else [need.job for need in job.needs],
            )
            for job in plan.jobs
        ],
        incomplete=incomplete,
        left_out=[LeftOutJob(id=item.id, reason=item.reason) for item in plan.left_out],
    )
    if as_json:
        print_json(document)
    else:
        look, write = screen_parts(project.config.color)
        write(*job_lines(document, look.columns))
    return ExitCode.OK


def _conditions(job: Job) -> Iterator[str]:
    """Yield when a job runs, as far as it is not simply after the jobs before it have succeeded."""
    if job.refused:
        yield f"refused: {job.refused[0]}"
    if job.when == "manual":
        yield f"by hand: loom run {job.id}"
    elif job.when != "on_success" and job.late is None:
        yield "after a failure" if job.when == "on_failure" else "also after a failure"
    if job.late is not None and job.late.condition:
        yield "if its condition holds"
    if job.delay_s is not None:
        yield f"delayed by {duration_text(job.delay_s)}"


def _is_here(job: Job, images: frozenset[str] | None) -> bool | None:
    if images is None or job.image is None or not job.image.name or not job.provider.startswith("docker"):
        return None
    return parse_reference(job.image.name).name in images
