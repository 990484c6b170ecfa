"""What a job waits for, and whose artifacts it gets: `needs` and `dependencies`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from loom.util.yaml_file import Kind, Node, flat, items_of, one_or_more, pointer, text_of
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.instances import Instance, combinations, instances
from loom.workflow.needs import Needing, NeedsEntry, WantedNeed
from loom.workflow.needs import check as check_needs

if TYPE_CHECKING:
    from loom.workflow.messages import Problems

LIMIT = 50
"""The most jobs that one can need in GitLab."""
_EXPRESSION = re.compile(r"\$\[\[\s*matrix\.([A-Za-z0-9_-]+)\s*\]\]")


def wanted(entry: Entry, instance: Instance, rule_needs: Node | None, problems: Problems) -> list[WantedNeed] | None:
    """Return what an instance needs; None: it waits for all earlier stages.

    Entries of other pipelines and projects are left out: a job with no other ones waits for nothing, as in GitLab.
    """
    node = _written_needs(entry, rule_needs)
    if node is None or node.value is None:
        return None
    return [
        _wanted(item, name, pointer(entry.name, "needs", number), instance, problems)
        for number, item, name in _items(node)
        if name is not None
    ]


def above(entry: Entry, rule_needs: Node | None) -> Iterator[tuple[Node, str]]:
    """Yield the entries of `needs`, with their places, that want artifacts of a job of another pipeline of this project."""
    for number, item in enumerate(one_or_more(_written_needs(entry, rule_needs))):
        job, wants = item.get("job"), item.get("artifacts")
        elsewhere = item.get("pipeline") is not None and item.get("project") is None
        if elsewhere and job is not None and (wants is None or wants.value is not False):
            yield item, pointer(entry.name, "needs", number)


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
    place = {stage: number for number, stage in enumerate(pipeline.stages)}
    position = {name: place.get(entry.stage, 0) for name, entry in pipeline.jobs.items()}
    for name, entry in pipeline.jobs.items():
        count = sum(need.always for need in needing[name].needs)
        if count > LIMIT:
            message = f"needs: a job can need {LIMIT} others, and this one lists {count}; wait for a stage instead"
            problems.say(entry.merged.get("needs") or entry.key, pointer(name, "needs"), message)
        _check_dependencies(entry, titles | {one: one for one in known}, position, problems)


def _needs_of(entry: Entry) -> Iterator[NeedsEntry]:
    for node, at, conditional in _written(entry):
        for number, item, name in _items(node):
            if name is not None:  # the keyword's own notice has said so
                yield NeedsEntry(
                    job=name,
                    node=item,
                    at=pointer(*at, number),
                    optional=is_optional(item),
                    which=at if item.get("parallel") is None else id(item),
                    always=not conditional,
                )


def _written(entry: Entry) -> Iterator[tuple[Node, tuple[str | int, ...], bool]]:
    """Yield each `needs` of a job with its place, and whether a rule decides on it."""
    if (node := entry.merged.get("needs")) is not None:
        yield node, (entry.name, "needs"), False
    for number, rule in enumerate(flat(items_of(entry.merged.get("rules")))):
        if (node := rule.get("needs")) is not None:
            yield node, (entry.name, "rules", number, "needs"), True


def _items(node: Node) -> Iterator[tuple[int, Node, str | None]]:
    """Yield the entries of `needs` with the job's name; None for what lies outside of this pipeline."""
    for number, item in enumerate(one_or_more(node)):
        if item.kind is not Kind.MAPPING:
            yield number, item, text_of(item)
        elif item.get("project") is not None or item.get("pipeline") is not None or item.get("job") is None:
            yield number, item, None
        else:
            yield number, item, text_of(item.get("job"))


def _wanted(item: Node, name: str, at: str, instance: Instance, problems: Problems) -> WantedNeed:
    artifacts = item.get("artifacts")
    return WantedNeed(
        job=name,
        node=item,
        at=at,
        artifacts=artifacts is None or artifacts.value is not False,
        optional=is_optional(item),
        matrix=tuple(_combinations(item, at, instance, problems)),
    )


def _combinations(item: Node, at: str, instance: Instance, problems: Problems) -> Iterator[dict[str, str]]:
    matrix = item.find("parallel", "matrix")
    for combination in combinations(matrix):
        unknown = {
            name for value in combination.values() for name in _EXPRESSION.findall(value) if name not in instance.matrix
        }
        if unknown:
            known = ", ".join(instance.matrix) or "none: the job has no parallel:matrix"
            message = f"needs:parallel:matrix: the job's matrix has no {', '.join(sorted(unknown))}; it has {known}"
            problems.say(matrix or item, f"{at}/parallel/matrix", message)
        yield {
            name: _EXPRESSION.sub(lambda found: instance.matrix.get(found[1], found[0]), value)
            for name, value in combination.items()
        }


def is_optional(item: Node) -> bool:
    optional = item.get("optional")
    return optional is not None and optional.value is True


def _check_dependencies(
    entry: Entry, owner: Mapping[str, str], position: Mapping[str, int], problems: Problems
) -> None:
    node, needs = entry.merged.get("dependencies"), entry.merged.get("needs")
    needed = None if needs is None or needs.value is None else {name for _, _, name in _items(needs)}
    for number, item in enumerate(items_of(node)):
        name, place = text_of(item), pointer(entry.name, "dependencies", number)
        target = owner.get(name)
        if target is None:
            problems.say(item, place, f"dependencies: unknown job {name}{problems.meant(name, owner)}")
        elif needed:
            if name not in needed and target not in needed:
                problems.say(item, place, f"dependencies: {name} must be one of the job's needs too")
        elif position[target] >= position[entry.name]:
            message = f"dependencies: {name} is not in an earlier stage, so its artifacts are not there yet"
            problems.say(item, place, message)
