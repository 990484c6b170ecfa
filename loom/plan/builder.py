"""What the builders of jobs of all languages share: steps, pools, and the origin of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from loom.config import Config
from loom.plan import model as p
from loom.pools import Pool
from loom.util.yaml_file import Node, line_in_file, one_or_more, text_of

PHASES: tuple[p.Phase, ...] = ("before_script", "script", "after_script")
WHEN: Mapping[str, Literal["on_failure", "always", "manual"]] = {
    "on_failure": "on_failure",
    "always": "always",
    "manual": "manual",
}
"""`when` of a plan's job by that of its rules; `on_success` for all others."""
_SETTINGS = (("image", "default_image"), ("timeout", "job_timeout"), ("step_timeout", "step_timeout"))


def steps(job: Node) -> Iterator[p.Step]:
    """Yield the steps of a job, each item of its scripts one; without empty ones."""
    for phase in PHASES:
        written = [node for node in one_or_more(job.get(phase)) if text_of(node).strip()]
        for number, node in enumerate(written, start=1):
            yield p.Step(
                phase=phase,
                number=number,
                script=text_of(node),
                file=node.file.name,
                line=line_in_file(node, 1),
                literal=node.style == "|",
            )


def settled(pool: Pool) -> Pool | None:
    """Return the pool for `Job.pool`: None if it has no settings of its own."""
    return pool if pool != Pool(provider=pool.provider) else None


def places(job: Node, config: Config) -> dict[str, str]:
    """Return the origins for `Job.places`."""
    found = {}
    for key, setting in _SETTINGS:
        if (node := job.get(key)) is not None:
            node = node.get("name") or node
            found[key] = f"{node.file.name}:{node.line}"
        else:
            found[key] = f"`{setting}`, {config.origins.get(setting) or 'built-in'}"
    return found


def allow_failure(*decided: bool | frozenset[int] | None) -> p.AllowFailure:
    """Return the first that says something: whether any failure is allowed, or which exit codes."""
    found = next((one for one in decided if one is not None), False)
    if isinstance(found, bool):
        return p.AllowFailure(always=found)
    return p.AllowFailure(exit_codes=found)
