"""Check what the jobs of a file need of each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from loom.util.budget import spend
from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Node
from loom.values import Immutable
from loom.workflow.messages import Problems


class WantedNeed(Immutable):
    """A need as the workflow has it, before selection and rules say which jobs there are."""

    job: str
    """A job's name: all its instances; or the title of one instance."""
    node: Node
    optional: bool = False
    artifacts: bool = True
    matrix: tuple[Mapping[str, str], ...] = ()
    """The combinations that it means, each by some of its values; empty: all."""
    which: Any = None
    """Tells entries for one job apart that are no duplicates."""
    always: bool = True
    """Whether the job needs it in each run; False where a rule decides."""

    def means(self, matrix: Mapping[str, str]) -> bool:
        return not self.matrix or any(
            all(matrix.get(key) == value for key, value in wanted.items()) for wanted in self.matrix
        )


class Needing(Immutable):
    stage: str | None
    key: Node
    node: Node
    needs: Sequence[WantedNeed]


def check(
    jobs: Mapping[str, Needing],
    stages: Sequence[str],
    problems: Problems,
    titles: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Report needs of unknown jobs, of jobs in later stages, entries that are there twice, and cycles.

    `titles`: names of instances with their jobs. What several jobs inherit is reported once.
    """
    position = {stage: number for number, stage in enumerate(stages)}
    graph: dict[str, list[str]] = {}
    reported = set[Node]()
    for name, job in jobs.items():
        graph[name] = []
        seen: list[tuple[str, Any]] = []
        for need in job.needs:
            spend("values", need.node, 0)
            target = need.job if need.job in jobs else titles.get(need.job, "")
            there = position.get(jobs[target].stage or "", -1) if target else -1
            why = ""
            if not target:
                why = "" if need.optional else _unknown(need, {*jobs, *titles}, problems)
            elif (need.job, need.which) in seen:
                why = f"the job {need.job} is a duplicate; keep one"
            elif there > position.get(job.stage or "", len(position)):
                why = (
                    f"{need.job} is in a later stage ({jobs[target].stage}) than {name} ({job.stage}); "
                    "need a job of the same or an earlier stage"
                )
            seen.append((need.job, need.which))
            if target and need.always:
                graph[name].append(target)
            if why and need.node not in reported:
                reported.add(need.node)
                problems.say(need.node, f"needs: {why}")
    try:
        order(graph, graph)
    except CycleError as error:
        first = jobs[error.cycle[0]]
        why = f"needs: the jobs need each other in a cycle: {' -> '.join(error.cycle)}; remove one"
        problems.say(first.node.get("needs") or first.key, why)


def _unknown(need: WantedNeed, known: Collection[str], problems: Problems) -> str:
    if need.job.startswith("."):
        return f"{need.job} is a template and never runs; need a job"
    return f"unknown job {need.job}{problems.meant(need.job, known)}"
