"""Compare two plans of one job: which part of what has run already is another now."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from loom.plan.model import Job, Resources

_AROUND = frozenset(
    {"needs", "stage", "when", "allow_failure", "retry", "timeout_s", "step_timeout_s", "artifacts", "rule"}
    | {"sources", "runner_pool"}
)
"""The fields that do not change what a job's steps have done so far."""


class PlanPart(Struct, frozen=True, kw_only=True):
    """A part of a job that differs: a step, or a field of the plan."""

    what: str
    position: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.position})" if self.position else self.what


def first_change(old: Job, new: Job, *, before: str | None = None) -> PlanPart | None:
    """Return the first part that differs.

    `before`: without this step of `old`, the later ones, and what acts after them.
    """
    done = old.steps
    if before is not None:
        done = old.steps[: [step.id for step in old.steps].index(before)]
    for number, step in enumerate(done):
        now = new.steps[number] if number < len(new.steps) else None
        if now is None or (now.phase, now.script, now.late) != (step.phase, step.script, step.late):
            return PlanPart(what=f"step {step.id}", position=step.position if now is None else now.position)
    if before is None and len(new.steps) > len(old.steps):
        added = new.steps[len(old.steps)]
        return PlanPart(what=f"step {added.id}", position=added.position)
    around = _AROUND if before is not None else _AROUND - {"artifacts"}
    for name in Job.__struct_fields__:
        if name != "steps" and name not in around and _plain(old, name) != _plain(new, name):
            return PlanPart(what=name)
    return None


def _plain(job: Job, name: str) -> object:
    """Return the value without its positions in the workflow, which move with each line above them."""
    value = getattr(job, name)
    if isinstance(value, Resources):
        return replace(value, sources={})
    return tuple(replace(service, position="") for service in value) if name == "services" else value
