"""Turn a workflow of any language into a plan."""

from __future__ import annotations

from collections.abc import Sequence

from loom import plan as languages
from loom.config import Config
from loom.errors import Problem
from loom.plan import model as p
from loom.workflow.dialects import AnyEntry, Loaded, is_own


def resolve(workflow: Loaded, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Resolve a checked workflow: matrix, rules, variables, needs, selection.

    RequestError for an invalid selection, WorkflowError for problems that appear only now. Pure, except for the
    context's callables, which are called at most once per question.
    """
    if is_own(workflow):
        return languages.resolve_own(workflow, selection, context)
    return languages.resolve_gitlab(workflow, selection, context)  # type: ignore[arg-type]


def rehearse(workflow: Loaded, config: Config | None = None) -> tuple[list[Problem], Sequence[tuple[AnyEntry, p.Job]]]:
    """Build every job regardless of its rules; return the problems that any plan of this workflow would have."""
    if is_own(workflow):
        return languages.rehearse_own(workflow, config)
    return languages.rehearse_gitlab(workflow, config)  # type: ignore[arg-type]


def problems_of(workflow: Loaded, config: Config | None = None) -> list[Problem]:
    """Return the problems that any plan of this workflow would have."""
    return rehearse(workflow, config)[0]
