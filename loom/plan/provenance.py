"""The origin of each value of a planned job: `loom compile --explain JOB`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loom.plan.model import Job, JobSelection
from loom.util.yaml_file import Node, fields_of, items_of, one_or_more, text_of
from loom.values import Immutable
from loom.workflow.loaded import Entry, Loaded


class ValueSource(Immutable):
    """One planned value and its source: `by` is `job`, `default`, a template's name, `rules[1]`, `matrix`, `root`
    or `--var`; `position` is file, line and column, if any.
    """

    key: str
    value: Any
    by: str
    position: str = ""


def sources(workflow: Loaded, job: Job, selection: JobSelection) -> list[ValueSource]:
    entry = workflow.entry_of(job.name)
    assert entry is not None, "the plan is one of this workflow"
    found = [ValueSource(key="id", value=job.id, by="job", position=entry.key.position)]
    for key, node in entry.merged.value.items():
        if key == "strategy" and job.matrix:
            position = (node.get("matrix") or node).position
            found += (
                ValueSource(key=f"matrix.{k}", value=v, by="matrix", position=position) for k, v in job.matrix.items()
            )
        elif key not in ("variables", "extends"):
            found += _leaves(key, node, entry, job)
    if job.rule is not None:
        node = entry.merged.find("rules", job.rule) or entry.key
        found.append(ValueSource(key="when", value=job.when, by=f"rules[{job.rule}]", position=node.position))
    found += _variables(workflow, entry, job, selection)
    return found


def owner(node: Node, entry: Entry) -> str:
    """Return the root key of a value: the job itself, `default`, or a template."""
    return "job" if node.owner in (entry.name, entry.key.owner) else node.owner


def _leaves(key: str, node: Node, entry: Entry, job: Job) -> Iterator[ValueSource]:
    if node.is_mapping and node.value:
        for name, child in node.value.items():
            yield from _leaves(f"{key}.{name}", child, entry, job)
    elif node.is_list and node.value:
        for number, child in enumerate(node.value):
            yield from _leaves(f"{key}[{number}]", child, entry, job)
    else:
        planned = job.image.name if key in ("image", "image.name") and job.image is not None else node.plain()
        yield ValueSource(key=key, value=planned, by=owner(node, entry), position=node.position)


def _variables(workflow: Loaded, entry: Entry, job: Job, selection: JobSelection) -> Iterator[ValueSource]:
    matrix = _matrix_nodes(entry, job.matrix)
    rule = _rule_nodes(entry, job.variables)
    for name, value in job.variables.items():
        key = f"variables.{name}"
        node = entry.merged.find("variables", name)
        if name in selection.variables:
            yield ValueSource(key=key, value=value, by="--var")
        elif name in rule:
            yield ValueSource(key=key, value=value, by=rule[name][0], position=rule[name][1].position)
        elif name in matrix:
            yield ValueSource(key=key, value=value, by="matrix", position=matrix[name].position)
        elif node is not None:
            yield ValueSource(key=key, value=value, by=owner(node, entry), position=node.position)
        elif name in workflow.variable_nodes:
            yield ValueSource(key=key, value=value, by="root", position=workflow.variable_nodes[name].position)
        else:
            yield ValueSource(key=key, value=value, by="parallel" if name.startswith("CI_NODE_") else "workflow rules")


def _matrix_nodes(entry: Entry, matrix: Mapping[str, str]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for row in items_of(entry.merged, "parallel", "matrix"):
        values = [(name, node) for name in matrix for node in one_or_more(row, name)]
        found_in_row = {name: node for name, node in values if text_of(node) == matrix[name]}
        if len(found_in_row) == len(matrix) == len(fields_of(row)):
            return found_in_row
        found |= found_in_row
    return found


def _rule_nodes(entry: Entry, variables: Mapping[str, str]) -> dict[str, tuple[str, Node]]:
    """Return the variables set by a rule: those with the rule's value instead of the job's."""
    found: dict[str, tuple[str, Node]] = {}
    for number, rule in enumerate(items_of(entry.merged, "rules")):
        for name, node in fields_of(rule, "variables").items():
            before = entry.merged.find("variables", name)
            if variables.get(name) == node.value and (before is None or before.value != node.value):
                found.setdefault(name, (f"rules[{number}]", node))
    return found
