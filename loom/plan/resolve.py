"""Turn a workflow of any language into a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol, cast

from msgspec.structs import replace

from loom.config import Config
from loom.errors import Problem
from loom.plan import model as p
from loom.util.budget import limited
from loom.workflow.loaded import Entry, Loaded
from loom.workflow.sources import Repositories

Elsewhere = Callable[[], Repositories | None]
Rehearsed = tuple[list[Problem], Sequence[tuple[Entry, p.Job]]]


class Planning(Protocol):
    """The module `resolve` in the folder of a language."""

    def resolve(self, workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan: ...

    def rehearse(self, workflow: Loaded, config: Config | None, repositories: Elsewhere) -> Rehearsed: ...


def _of(workflow: Loaded) -> Planning:
    return cast(Planning, import_module(f"loom.plan.{workflow.language}.resolve"))


def resolve(workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Resolve a checked workflow: matrix, rules, variables, needs, selection.

    RequestError for an invalid selection, WorkflowError for problems that appear only now. Pure, except for the
    context's callables, which answer a question that is asked again at once.
    """
    with limited():
        plan = _of(workflow).resolve(workflow, selection, context)
    if selection.no_delay:
        plan = replace(plan, jobs=tuple(replace(job, delay_s=None) for job in plan.jobs))
    return plan


def rehearse(workflow: Loaded, config: Config | None = None, repositories: Elsewhere = lambda: None) -> Rehearsed:
    """Build every job regardless of its rules; return the problems that any plan of this workflow would have.

    Without `repositories`, what comes from other repositories is not read.
    """
    with limited():
        return _of(workflow).rehearse(workflow, config, repositories)
