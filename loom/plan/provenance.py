"""The origin of each value of a planned job: `loom compile --explain JOB`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from loom.config import Config
from loom.plan.model import Job, JobSelection
from loom.util.yaml_file import Kind, Node, fields_of, items_of, one_or_more
from loom.workflow.loaded import Entry, Loaded


class ValueSource(Struct, frozen=True, kw_only=True):
    """One planned value and its source: `by` is `job`, `default`, a template's name, `rules[1]`, `matrix`, `root`,
    `--var`, a configuration layer, or `built-in`; `place` is file, line and column, if any.
    """

    key: str
    value: Any
    by: str
    place: str = ""


def sources(workflow: Loaded, job: Job, selection: JobSelection, config: Config) -> list[ValueSource]:
    entry = workflow.entry_of(job.name)
    assert entry is not None, "the plan is one of this workflow"
    found = [ValueSource(key="id", value=job.id, by="job", place=entry.key.place)]
    for key, node in entry.merged.value.items():
        if key == "strategy" and job.matrix:
            place = (node.get("matrix") or node).place
            found += (ValueSource(key=f"matrix.{k}", value=v, by="matrix", place=place) for k, v in job.matrix.items())
        elif key not in ("variables", "extends"):
            found += _leaves(key, node, entry, job)
    if job.rule is not None:
        node = entry.merged.find("rules", job.rule) or entry.key
        found.append(ValueSource(key="when", value=job.when, by=f"rules[{job.rule}]", place=node.place))
    found += _variables(workflow, entry, job, selection)
    found += _from_configuration(entry, job, config)
    return found


def owner(node: Node, entry: Entry) -> str:
    """Return the root key of a value's place: the job itself, `default`, or a template."""
    return "job" if node.owner in (entry.name, entry.key.owner) else node.owner


def _leaves(key: str, node: Node, entry: Entry, job: Job) -> Iterator[ValueSource]:
    if node.kind is Kind.MAPPING and node.value:
        for name, child in node.value.items():
            yield from _leaves(f"{key}.{name}", child, entry, job)
    elif node.kind is Kind.LIST and node.value:
        for number, child in enumerate(node.value):
            yield from _leaves(f"{key}[{number}]", child, entry, job)
    else:
        planned = job.image.name if key in ("image", "image.name") and job.image is not None else node.plain()
        yield ValueSource(key=key, value=planned, by=owner(node, entry), place=node.place)


def _variables(workflow: Loaded, entry: Entry, job: Job, selection: JobSelection) -> Iterator[ValueSource]:
    matrix = _matrix_nodes(entry, job.matrix)
    rule = _rule_nodes(entry, job.variables)
    for name, value in job.variables.items():
        key = f"variables.{name}"
        node = entry.merged.find("variables", name)
        if name in selection.variables:
            yield ValueSource(key=key, value=value, by="--var")
        elif name in rule:
            yield ValueSource(key=key, value=value, by=rule[name][0], place=rule[name][1].place)
        elif name in matrix:
            yield ValueSource(key=key, value=value, by="matrix", place=matrix[name].place)
        elif node is not None:
            yield ValueSource(key=key, value=value, by=owner(node, entry), place=node.place)
        elif name in workflow.variable_nodes:
            yield ValueSource(key=key, value=value, by="root", place=workflow.variable_nodes[name].place)
        else:
            yield ValueSource(key=key, value=value, by="parallel" if name.startswith("CI_NODE_") else "workflow rules")


def _matrix_nodes(entry: Entry, matrix: Mapping[str, str]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for row in items_of(entry.merged.find("parallel", "matrix")):
        values = [(name, node) for name in matrix for node in one_or_more(row.get(name))]
        places = {name: node for name, node in values if node.value == matrix[name]}
        if len(places) == len(matrix):
            return places
        found |= places
    return found


def _rule_nodes(entry: Entry, variables: Mapping[str, str]) -> dict[str, tuple[str, Node]]:
    """Return the variables set by a rule: those with the rule's value instead of the job's."""
    found: dict[str, tuple[str, Node]] = {}
    for number, rule in enumerate(items_of(entry.merged.get("rules"))):
        for name, node in fields_of(rule.get("variables")).items():
            before = entry.merged.find("variables", name)
            if variables.get(name) == node.value and (before is None or before.value != node.value):
                found.setdefault(name, (f"rules[{number}]", node))
    return found


def _from_configuration(entry: Entry, job: Job, config: Config) -> Iterator[ValueSource]:
    """Return the values that come from loom's configuration."""
    written = entry.merged.value
    image = entry.merged.get("image") or entry.merged.get("container")
    labeled = job.late is not None and job.image is not None and job.image.name != config.default_image
    default_image = "github.runs_on" if labeled else "default_image"
    resources = entry.merged.get("resources")
    candidates = [
        ("timeout", "job_timeout", job.timeout_s, not {"timeout", "timeout-minutes"} & written.keys()),
        ("step_timeout", "step_timeout", job.step_timeout_s, "step_timeout" not in written),
        ("shell", "default_shell", " ".join(job.shell), job.late is None and "shell" not in written),
        ("image.name", default_image, job.image.name if job.image else None, image is None and job.image is not None),
        ("image.pull", "pull", job.image.pull if job.image else None, job.image is not None and _lacks(image, "pull")),
        ("image.platform", "platform", job.image.platform if job.image else None, _lacks(image, "platform")),
        ("network.mode", "network", job.network.mode, "network" not in written),
        ("resources.cpus", "cpus", job.resources.cpus, _lacks(resources, "cpus")),
        ("resources.memory", "memory", job.resources.memory, _lacks(resources, "memory")),
        ("resources.pids", "pids", job.resources.pids, _lacks(resources, "pids")),
    ]
    for key, setting, value, from_configuration in candidates:
        if value is not None and from_configuration:
            origin = config.origins.get(setting.partition(".")[0])
            by = f"{origin.layer} {setting}" if origin is not None else f"built-in {setting}"
            yield ValueSource(key=key, value=value, by=by, place=origin.place if origin is not None else "")
    origin = config.origins.get("container")
    by = "image" if image is not None else f"{origin.layer} container" if origin is not None else "built-in container"
    place = origin.place if origin is not None and image is None else ""
    yield ValueSource(key="provider", value=job.provider, by=by, place=place)


def _lacks(node: Node | None, key: str) -> bool:
    return node is None or node.get(key) is None
