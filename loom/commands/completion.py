"""Shell completion. Each function gets the arguments typed so far; typer filters its results by the current word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any

from loom import config
from loom.commands.project import open_project
from loom.errors import LoomError
from loom.providers import MODULES
from loom.util.budget import COMPLETION_S, limited

if TYPE_CHECKING:
    from loom.plan.model import Plan

MAX_RUNS = 40
"""About a screenful."""

Given = Mapping[str, Any]


def complete(what: str, given: Given) -> list[Any]:
    """Return the completions; empty when project, record or workflow can't be read."""
    kind, _, name = what.partition(":")
    try:
        return list(config.SETTINGS[name].choices if name else KINDS[kind](given))
    except (LoomError, OSError, KeyError):
        return []


def runs(_given: Given) -> list[tuple[str, str]]:
    project = open_project()
    newest = islice(project.store.entries(project.root), MAX_RUNS - 2)
    return [
        ("last", "the newest run"),
        ("last-failed", "the newest run that failed"),
        *((entry.run_id, str(getattr(entry.receipt, "status", "no end"))) for entry in newest),
    ]


@limited(COMPLETION_S)
def _plan() -> Plan:
    from loom.commands.plan.plan_run import planner_of  # not for a run's name
    from loom.record.request import Request

    return planner_of(open_project(), Request(), keeping=True).made()[0]


def workflow_jobs(_given: Given) -> Iterable[tuple[str, str]]:
    return ((job.id, f"{job.stage} {job.image.name or '' if job.image else ''}".strip()) for job in _plan().jobs)


KINDS: Mapping[str, Callable[[Given], Iterable[Any]]] = {
    "run": runs,
    "job": lambda given: list(open_project().find(given.get("run") or "last").fold.jobs),
    "step": lambda given: (
        unit.name for unit in open_project().find(given.get("run") or "last").units(given.get("job") or "")
    ),
    "workflow-job": workflow_jobs,
    "stop": lambda given: ("failure", "pause", *workflow_jobs(given)),
    "stage": lambda _: _plan().stages,
    "pool": lambda _: (*MODULES, *open_project().config.pools),
    "matrix": lambda _: dict.fromkeys(f"{key}={value}" for job in _plan().jobs for key, value in job.matrix.items()),
    "image": lambda _: dict.fromkeys(f"{job.image.name}=" for job in _plan().jobs if job.image and job.image.name),
    "setting": lambda _: config.KEYS,
    "document": lambda _: ("list", *import_module("loom.commands.record.schema").NAMES),
}
