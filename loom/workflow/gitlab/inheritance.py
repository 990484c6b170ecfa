"""Merge values, `extends`, and what jobs get from `default` and the keywords at the root."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from loom.util.toposort import CycleError, order
from loom.util.units import nearest
from loom.util.yaml_file import Kind, Node, fields_of, items_of, one_or_more, pointer
from loom.workflow.gitlab.keywords import DEFAULTS, GLOBALS, ROOT
from loom.workflow.messages import Problems

MAX_LEVELS = 10


def merge(base: Node, over: Node) -> Node:
    """Merge `over` into `base`: mappings by key, everything else is replaced."""
    if base.kind is not Kind.MAPPING or over.kind is not Kind.MAPPING or base is over:
        return over
    merged = Node(over.file, Kind.MAPPING, dict(base.value), over.line, over.column, over.length)
    merged.keys = base.keys | over.keys
    for key, node in over.value.items():
        below = base.value.get(key)
        merged.value[key] = node if below is None else merge(below, node)
    return merged


def without(node: Node, keys: Iterable[str]) -> Node:
    """Return the mapping without these keys."""
    if not any(key in node.value for key in keys):
        return node
    return _mapping(node, {key: value for key, value in node.value.items() if key not in keys})


def _mapping(like: Node, value: Mapping[str, Node]) -> Node:
    copy = Node(like.file, Kind.MAPPING, dict(value), like.line, like.column, like.length)
    copy.keys = like.keys
    return copy


def entry_names(root: Node) -> list[str]:
    """Return the root keys that are jobs or hidden."""
    return [name for name in root.value if name not in ROOT]


def extended(root: Node, problems: Problems) -> Node:
    """Replace each entry with `extends` by its merge with what it extends: parents in order, then its own keys."""
    entries = {name: root.value[name] for name in entry_names(root)}
    parents = {name: _parents(name, node, entries, problems) for name, node in entries.items()}
    try:
        in_order = order(entries, parents)
    except CycleError as error:
        own = entries[error.cycle[0]]
        why = f"extends forms a cycle: {' -> '.join(error.cycle)}; remove one"
        problems.say(own.get("extends") or own, pointer(error.cycle[0], "extends"), why)
        return root
    levels: dict[str, int] = {}
    for name in in_order:
        levels[name] = 1 + max((levels[parent] for parent in parents[name]), default=-1)
        own = entries[name]
        if levels[name] > MAX_LEVELS:
            why = f"extends goes deeper than {MAX_LEVELS} levels, which GitLab refuses"
            problems.say(own.get("extends") or own, pointer(name, "extends"), why)
        elif parents[name]:
            inherited = entries[parents[name][0]]
            for parent in parents[name][1:]:
                inherited = merge(inherited, entries[parent])
            entries[name] = merge(without(inherited, ("extends",)), own)
    return _mapping(root, {name: entries.get(name, node) for name, node in root.value.items()})


def _parents(name: str, node: Node, entries: Mapping[str, Node], problems: Problems) -> list[str]:
    found = []
    for parent in one_or_more(node.get("extends")):
        if not isinstance(parent.value, str):
            continue  # the shape of `extends` is reported elsewhere
        if parent.value in entries and entries[parent.value].kind is Kind.MAPPING:
            found.append(parent.value)
        else:
            close = nearest(parent.value, entries)
            meant = f"; did you mean {close}?" if close else ""
            problems.say(parent, pointer(name, "extends"), f"extends: unknown job {parent.value}{meant}")
    return found


def defaults_of(root: Node) -> dict[str, tuple[Node, Node]]:
    """Return the keywords that jobs inherit, with the nodes of their keys: `default`, else the deprecated root keywords."""
    found: dict[str, tuple[Node, Node]] = {}
    for owner, keys in ((root, GLOBALS), (root.get("default"), DEFAULTS)):
        for key in keys:
            node = fields_of(owner).get(key)
            if owner is not None and node is not None and not _nothing(node):
                found[key] = (node, owner.keys[key])
    return found


def with_defaults(job: Node, defaults: Mapping[str, tuple[Node, Node]]) -> Node:
    """Add the defaults that the job lacks and lets through; `null` counts as lacking, as in GitLab."""
    inherit = job.find("inherit", "default")
    if inherit is not None and inherit.value is False:
        return job
    wanted = {node.value for node in items_of(inherit)} if inherit is not None and inherit.kind is Kind.LIST else None
    added = {
        key: node for key, (node, _) in defaults.items() if (wanted is None or key in wanted) and _nothing(job.get(key))
    }
    if not added:
        return job
    merged = _mapping(job, {**job.value, **added})
    merged.keys = job.keys | {key: defaults[key][1] for key in added}
    return merged


def _nothing(node: Node | None) -> bool:
    return node is None or (node.kind is Kind.SCALAR and node.value is None)
