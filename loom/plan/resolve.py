"""Turn a workflow of any language into a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from msgspec.structs import replace

from loom.config import Config
from loom.errors import Problem, RequestError
from loom.images.reference import replacement
from loom.plan import model as p
from loom.plan.image_lock import image_of
from loom.util.budget import limited
from loom.util.globs import match_name
from loom.workflow.loaded import Entry, Loaded
from loom.workflow.predefined import KNOWN_TO_PLANS
from loom.workflow.sources import Repositories

Elsewhere = Callable[[], Repositories | None]
Rehearsed = tuple[list[Problem], Sequence[tuple[Entry, p.Job]]]


class Planning(Protocol):
    """The module `resolve` in the folder of a language."""

    def resolve(self, workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan: ...

    def rehearse(self, workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> Rehearsed: ...


def _planning_of(workflow: Loaded) -> Planning:
    return cast(Planning, import_module(f"loom.plan.{workflow.language}.resolve"))


def resolve(workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Resolve a checked workflow: matrix, rules, variables, needs, selection.

    RequestError for an invalid selection, WorkflowError for problems that appear only now. Pure, except for the
    context's callables, which answer a question that is asked again at once.
    """
    with limited():
        plan = _planning_of(workflow).resolve(workflow, selection, context)
    if context.config.images:
        plan = _replace_images(plan, context.config.images)
    if context.config.job_inputs:
        plan = _set_inputs(plan, context.config.job_inputs)
    if selection.no_delay:
        plan = replace(plan, jobs=tuple(replace(job, delay_s=None) for job in plan.jobs))
    return plan


def _replace_images(plan: p.Plan, images: Mapping[str, str]) -> p.Plan:
    """Return the plan with the images that the configuration has instead of those of the workflow."""
    replaced: dict[str, str] = {}

    def found(image: p.Image | None) -> p.Image | None:
        other = replacement(image.name, images) if image is not None and image.name and image.build is None else None
        if image is None or other is None or other == image.name:
            return image
        replaced[image.name or ""] = other
        return replace(image, name=other)

    def of_action(step: p.Step) -> p.Step:
        if step.action is None or not step.action.image.startswith("docker://"):
            return step
        image = found(image_of(step.action))
        return step if image is None else replace(step, action=replace(step.action, image=f"docker://{image.name}"))

    jobs = tuple(
        replace(
            job,
            image=found(job.image),
            services=tuple(replace(one, image=found(one.image)) for one in job.services),
            steps=tuple(map(of_action, job.steps)),
        )
        for job in plan.jobs
    )
    return replace(plan, jobs=jobs, replaced=replaced)


def _set_inputs(plan: p.Plan, inputs: Mapping[str, Sequence[str]]) -> p.Plan:
    """Return the plan with the inputs that the configuration has for its jobs. RequestError for one that has no checkout."""

    def found(job: p.Job) -> p.Job:
        named = next((globs for name, globs in inputs.items() if match_name(name, job.id, job.name)), None)
        if named is None:
            return job
        checkouts = [step for step in job.steps if step.kind == "checkout"]
        plain = all(step.is_whole_checkout for step in checkouts) and len(checkouts) < 2
        if job.trigger is not None or job.no_checkout or not plain or (job.clone is not None and not job.clone.files):
            raise RequestError(
                f"job_inputs: job {job.id} does not begin with one plain checkout",
                hint="leave it out of the setting `job_inputs`",
                code="INPUTS_NOT_POSSIBLE",
            )
        return replace(job, inputs=tuple(named))

    return replace(plan, jobs=tuple(map(found, plan.jobs)))


def rehearse(workflow: Loaded, config: Config | None = None, repositories: Elsewhere = lambda: None) -> Rehearsed:
    """Build every job regardless of its rules; return the problems that any plan of this workflow would have.

    Without `repositories`, what comes from other repositories is not read.
    """
    settings = config or Config()
    context = p.ResolveContext(
        config=settings,
        predefined={**dict.fromkeys(KNOWN_TO_PLANS, "x"), "CI_PROJECT_PATH": "x/x"},
        host_project_dir="/x",
        repositories=repositories,
    )
    selection = p.JobSelection(container=settings.container, on=settings.on)
    with limited():
        problems, jobs = _planning_of(workflow).rehearse(workflow, selection, context)
    return list(dict.fromkeys(problems)), jobs
