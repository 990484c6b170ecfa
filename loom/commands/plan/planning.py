"""Make a plan from its workflow. This takes 0.1 s, most of it imports: `loom run` imports it only if no kept plan fits."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from msgspec.structs import replace

from loom.commands.project import Project
from loom.errors import Problem
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.plan.selection import held_back
from loom.util.units import counted
from loom.util.yaml_file import scalars_of
from loom.workflow import dialects
from loom.workflow.languages import LANGUAGES, NATIVE
from loom.workflow.loaded import Loaded
from loom.workflow.messages import GITHUBS_NO_EFFECT, NO_EFFECT
from loom.workflow.predefined import KNOWN_TO_PLANS

__all__ = ["load", "mentioned", "notices_of", "rehearse", "resolve"]

MAX_NOTICES = 5
_IDLE = (NO_EFFECT, GITHUBS_NO_EFFECT)


def load(project: Project, path: Path, context: Callable[[], ResolveContext]) -> Loaded:
    """Load the workflow at a path; `context`: what its inputs are, and what an include may depend on."""
    dialects.refuse_inputs(context().inputs, path, project.root)
    return dialects.load(path, project.root, context)


def without_includes(project: Project, path: Path, context: ResolveContext) -> Plan:
    """Return all sound jobs, whatever their rules, of a workflow without what it includes from elsewhere: to be listed."""
    loaded = dialects.load(path, project.root, lambda: replace(context, own_files_only=True))
    order = {stage: number for number, stage in enumerate(loaded.stages)}
    jobs = (job for _, job in rehearse(loaded, project.config)[1])
    by_stage = tuple(sorted(jobs, key=lambda job: order.get(job.stage, len(order))))
    return Plan(workflow_path=loaded.path, stages=loaded.stages, jobs=by_stage)


def notices_of(loaded: Loaded, plan: Plan, selection: JobSelection, *, is_default: bool) -> tuple[str, ...]:
    """Return the warnings of `loom check` about keys that have no effect, or another one, on the plan's jobs; bounded.

    `is_default`: `loom check` checks this workflow if it is not told which.
    """
    check = "loom check" if is_default else shlex.join(("loom", "check", "--workflow", loaded.path))
    found: Sequence[Problem] = loaded.notices
    if loaded.language == NATIVE.name:
        from loom.workflow.native.lint import run_warnings  # of that language, and imported with it

        found = run_warnings(loaded, {job.name for job in plan.jobs}, defined=(*KNOWN_TO_PLANS, *selection.variables))
    refused = [f"{job.id} will be refused: {text}" for job in plan.jobs for text in job.refused]
    idle = sum(problem.code in _IDLE for problem in found)
    told = [
        *held_back(plan),
        *refused,
        *(f"{problem.file}:{problem.line}: {problem.message}" for problem in found if problem.code not in _IDLE),
        *([f"{counted(idle, 'keyword')} of {loaded.path} without effect here: {check}"] if idle else []),
    ]
    shown = told[:MAX_NOTICES]
    more = len(told) - len(shown)
    return (*shown, f"and {more} more: {check}") if more else tuple(shown)


def mentioned(loaded: Loaded, names: Collection[str], others: Iterable[str]) -> list[str]:
    """Return the names that occur in the workflow's files or in `others`, or that its language reads."""
    nodes = (node for file in loaded.files if file.root is not None for _, node in scalars_of(file.root))
    texts = "\0".join([*(node.text for node in nodes), *others])
    read = next(one.reads for one in LANGUAGES if one.name == loaded.language)
    return [name for name in names if name in texts or name in read]
