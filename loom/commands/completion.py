"""Shell completion: names of runs, their jobs and steps, and names in the workflow.

Each function gets the arguments typed so far. Typer filters its results by the current word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from loom import config
from loom.commands.project import here
from loom.errors import LoomError
from loom.providers import MODULES

if TYPE_CHECKING:
    from loom.workflow import Workflow

MAX_RUNS = 40
"""About a screenful."""

Given = Mapping[str, Any]


def complete(what: str, given: Given) -> list[Any]:
    """Return the completions; empty when project, record or workflow can't be read."""
    kind, _, name = what.partition(":")
    try:
        return list(config.choices(name) if name else KINDS[kind](given))
    except (LoomError, OSError, KeyError):
        return []


def runs(_given: Given) -> list[tuple[str, str]]:
    place = here()
    newest = islice(place.store.entries(place.root), MAX_RUNS - 2)
    return [
        ("last", "the newest run"),
        ("last-failed", "the newest run that failed"),
        *((entry.run_id, str((entry.receipt or {}).get("status", "no end"))) for entry in newest),
    ]


def jobs(given: Given) -> Iterable[str]:
    return here().find(given.get("run") or "last").job_ids()


def steps(given: Given) -> Iterable[str]:
    return (unit.name for unit in here().find(given.get("run") or "last").units(given.get("job") or ""))


def workflow_jobs(_given: Given) -> Iterable[str]:
    """Return the ids of the jobs that the workflow would run."""
    from loom.commands import checkout
    from loom.plan.resolve import resolve

    place = here()
    context = checkout.resolve_context(place)
    plan = resolve(_workflow(), checkout.selection(container=place.config.container, on=place.config.on), context)
    return (job.id for job in plan.jobs)


def stages(_given: Given) -> Iterable[str]:
    return _workflow().stages


def matrix(_given: Given) -> Iterable[str]:
    """Return `KEY=value` for every matrix of the workflow."""
    parallel = [entry.fields.parallel for entry in _workflow().jobs.values() if entry.fields.parallel is not None]
    rows = [row for one in parallel for row in one.matrix or ()]
    return dict.fromkeys(f"{key}={value}" for row in rows for key, values in row.items() for value in values)


def _workflow() -> Workflow:
    from loom import workflow  # not for a run's name

    place = here()
    return workflow.load(place.workflow(), place.root)


def settings(_given: Given) -> Iterable[str]:
    return config.KEYS


def documents(_given: Given) -> Iterable[str]:
    from loom.analysis import schemas

    return ("list", *schemas.NAMES)


def places(_given: Given) -> Iterable[str]:
    return (*MODULES, *here().config.pools)


KINDS: Mapping[str, Callable[[Given], Iterable[Any]]] = {
    "run": runs,
    "job": jobs,
    "step": steps,
    "workflow-job": workflow_jobs,
    "stage": stages,
    "place": places,
    "matrix": matrix,
    "setting": settings,
    "document": documents,
}
