"""Read what a job waits for, and whose artifacts it gets: `needs` and `dependencies`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec.structs import replace

from loom.util.yaml_file import Node, flat, items_of, one_or_more, text_of, truth
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.instances import Instance, combinations, instances
from loom.workflow.messages import Problems
from loom.workflow.needs import Needing, WantedNeed
from loom.workflow.needs import check as check_needs

LIMIT = 50
_EXPRESSION = re.compile(r"\$\[\[\s*matrix\.([A-Za-z0-9_-]+)\s*\]\]")


def wanted(entry: Entry, instance: Instance, rule_needs: Node | None, problems: Problems) -> list[WantedNeed] | None:
    """Return the needs of an instance; None: it waits for all earlier stages.

    Entries of other pipelines and projects are left out: a job with no other ones waits for nothing, as in GitLab.
    """
    node = _written_needs(entry, rule_needs)
    if node is None or node.value is None:
        return None
    return [replace(need, matrix=tuple(_combinations(need, instance, problems))) for need in _entries(node)]


def above(entry: Entry, rule_needs: Node | None) -> Iterator[Node]:
    """Yield the entries of `needs` that want artifacts of a job of another pipeline of this project."""
    for item in one_or_more(_written_needs(entry, rule_needs)):
        elsewhere = item.get("pipeline") is not None and item.get("project") is None
        if elsewhere and item.get("job") is not None and truth(item, "artifacts", default=True):
            yield item


def _written_needs(entry: Entry, rule_needs: Node | None) -> Node | None:
    return entry.merged.get("needs") if rule_needs is None or rule_needs.value is None else rule_needs


def dependencies(entry: Entry) -> list[str] | None:
    """Return the jobs whose artifacts a job gets; None: all that it needs, else all of earlier stages."""
    node = entry.merged.get("dependencies")
    return None if node is None or node.value is None else [text_of(item) for item in one_or_more(node)]


def check(pipeline: Pipeline, problems: Problems) -> None:
    """Report unknown needs, needs of later stages, cycles, and dependencies that can't be."""
    known = instances({name: entry.merged.get("parallel") for name, entry in pipeline.jobs.items()})
    titles = {one.title: name for name, several in known.items() for one in several}
    needing = {
        name: Needing(stage=entry.stage, key=entry.key, node=entry.merged, needs=list(_needs_of(entry)))
        for name, entry in pipeline.jobs.items()
    }
    check_needs(needing, pipeline.stages, problems, titles)
    stages = {stage: number for number, stage in enumerate(pipeline.stages)}
    position = {name: stages.get(entry.stage, 0) for name, entry in pipeline.jobs.items()}
    for name, entry in pipeline.jobs.items():
        count = sum(need.always for need in needing[name].needs)
        if count > LIMIT:
            message = f"needs: a job can need {LIMIT} others, and this one lists {count}; wait for a stage instead"
            problems.say(entry.merged.get("needs") or entry.key, message)
        for file in one_or_more(entry.merged, "trigger", "include"):
            job = text_of(file, "job")
            if position.get(titles.get(job, job), 0) > position[name]:
                why = f"trigger:include:job: {job} is in a later stage, so its file is not there yet"
                problems.say(file, why)
        _check_dependencies(entry, titles | {one: one for one in known}, position, problems)


def names(job: Node) -> list[str]:
    """Return the jobs of this pipeline that a job names in its `needs`."""
    return [need.job for need in _entries(job.get("needs"))]


def _needs_of(entry: Entry) -> Iterator[WantedNeed]:
    """Yield the needs of a job, also those that a rule sets."""
    yield from _entries(entry.merged.get("needs"))
    for number, rule in enumerate(flat(items_of(entry.merged, "rules"))):
        for need in _entries(rule.get("needs"), number):
            yield replace(need, always=False)


def _entries(node: Node | None, rule: int | None = None) -> Iterator[WantedNeed]:
    """Yield the entries of `needs`, without those of other pipelines and projects, and without their matrices."""
    for item in one_or_more(node):
        elsewhere = item.get("project") is not None or item.get("pipeline") is not None
        job = item.get("job") if item.is_mapping else item
        if job is not None and not elsewhere:
            yield WantedNeed(
                job=text_of(job),
                node=item,
                optional=truth(item, "optional"),
                artifacts=truth(item, "artifacts", default=True),
                which=rule if item.get("parallel") is None else item,
            )


def _combinations(need: WantedNeed, instance: Instance, problems: Problems) -> Iterator[dict[str, str]]:
    matrix = need.node.find("parallel", "matrix")
    for combination in combinations(matrix):
        unknown = {
            name for value in combination.values() for name in _EXPRESSION.findall(value) if name not in instance.matrix
        }
        if unknown:
            known = ", ".join(instance.matrix) or "none: the job has no parallel:matrix"
            message = f"needs:parallel:matrix: the job's matrix has no {', '.join(sorted(unknown))}; it has {known}"
            problems.say(matrix or need.node, message)
        yield {
            name: _EXPRESSION.sub(lambda found: instance.matrix.get(found[1], found[0]), value)
            for name, value in combination.items()
        }


def _check_dependencies(
    entry: Entry, owner: Mapping[str, str], position: Mapping[str, int], problems: Problems
) -> None:
    node, needs = entry.merged.get("dependencies"), one_or_more(entry.merged, "needs")
    needed = names(entry.merged)
    for item in items_of(node):
        name = text_of(item)
        target = owner.get(name)
        if target is None:
            problems.say(item, f"dependencies: unknown job {name}{problems.meant(name, owner)}")
        elif needs:
            if name not in needed and target not in needed:
                problems.say(item, f"dependencies: {name} must be one of the job's needs too")
        elif position[target] >= position[entry.name]:
            message = f"dependencies: {name} is not in an earlier stage, so its artifacts are not there yet"
            problems.say(item, message)
