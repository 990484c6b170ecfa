"""Compare two plans of one job: which part of what has run already is another now."""

from __future__ import annotations

from itertools import zip_longest

from msgspec.structs import replace

from loom.plan.model import Job, Resources

_AROUND = frozenset(
    {"needs", "stage", "when", "allow_failure", "retry", "timeout_s", "step_timeout_s", "artifacts", "rule"}
    | {"sources", "runner_pool"}
)
"""The fields that do not change what a job's steps have done so far."""


def first_change(old: Job, new: Job, *, before: str | None = None) -> str:
    """Return the first part that differs, a step with its position; empty for none.

    `before`: without this step of `old`, the later ones, and what acts after them.
    """
    done = None if before is None else [step.id for step in old.steps].index(before)
    for step, now in zip_longest(old.steps[:done], new.steps[:done]):
        same = step and now and (now.phase, now.script, now.late) == (step.phase, step.script, step.late)
        if not same:
            position = (now or step).position
            return f"step {(step or now).id}" + (f" ({position})" if position else "")
    around = _AROUND if before is not None else _AROUND - {"artifacts"}
    others = (name for name in Job.__struct_fields__ if name != "steps" and name not in around)
    return next((name for name in others if _plain(old, name) != _plain(new, name)), "")


def _plain(job: Job, name: str) -> object:
    """Return the value without its positions in the workflow, which move with each line above them."""
    value = getattr(job, name)
    if isinstance(value, Resources):
        return replace(value, sources={})
    return tuple(replace(service, position="") for service in value) if name == "services" else value
