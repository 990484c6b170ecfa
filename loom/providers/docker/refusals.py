"""What an engine says to limits of a job that it can't hold the job's container to: what only it can know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from loom.errors import ProviderError
from loom.plan.model import Resources
from loom.providers.base import SessionRequest
from loom.util.units import size_text


class _Refusal(Struct, frozen=True, kw_only=True):
    said: str
    """A word of the engine's answer, in lower case."""
    key: str
    """Of `resources`."""
    asked: Callable[[Resources], Any]
    hint: str


_REFUSALS = (
    _Refusal(
        said="range of cpus",
        key="cpus",
        asked=lambda resources: resources.cpus and f"{resources.cpus:g}",
        hint="ask for at most what the engine's machine has (`docker info` names it), or leave `cpus` out for all of it",
    ),
    _Refusal(
        said="memory limit",
        key="memory",
        asked=lambda resources: resources.memory and size_text(resources.memory),
        hint="ask for as much as the engine says, or leave `memory` out for no limit",
    ),
    _Refusal(
        said="rlimit",
        key="ulimits",
        asked=lambda resources: ", ".join(f"{limit.name} {limit.soft}:{limit.hard}" for limit in resources.ulimits),
        hint="ask for no more than the engine itself may set; `ulimit -H -a` in a job tells what that is",
    ),
    _Refusal(
        said="tmpfs",
        key="tmpfs",
        asked=lambda resources: ", ".join(resources.tmpfs),
        hint="the options are those of mount(8): /path:size=64m,mode=1777",
    ),
)


def refused(request: SessionRequest, said: str) -> ProviderError | None:
    """What to tell when an engine `said` this because of a limit."""
    for refusal in _REFUSALS:
        asked = refusal.asked(request.resources)
        if asked and refusal.said in said.lower():
            place = request.resources.places.get(refusal.key, "the workflow")
            return ProviderError(
                f"{place}: the engine can't give job {request.job_id} its `{refusal.key}: {asked}`: {said}",
                hint=refusal.hint,
                code="LIMIT_REFUSED",
            )
    return None
