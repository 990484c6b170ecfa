"""Merge inherited values: mappings by key, other values as a whole; and what entries extend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from loom.util.budget import spend
from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Node, one_or_more
from loom.workflow.messages import Problems

Rules = Mapping[str, Callable[[Node, Node], Node]]
"""Other ways to merge the values of these keys, from the inherited value and the own one."""


def merge(base: Node, over: Node, rules: Rules = MappingProxyType({})) -> Node:
    """Merge `over` into `base`: mappings by key, everything else is replaced."""
    if not base.is_mapping or not over.is_mapping or base is over:
        return over
    spend("values", over, len(base.value))
    merged = over.having({**base.value})
    merged.keys = base.keys | over.keys
    for key, node in over.value.items():
        below = base.value.get(key)
        if below is None:
            merged.value[key] = node
        else:
            merged.value[key] = rules[key](below, node) if key in rules else merge(below, node, rules)
    return merged


def drop_keys(node: Node, keys: Iterable[str]) -> Node:
    if not node.is_mapping or not any(key in node.value for key in keys):
        return node
    return node.having({key: value for key, value in node.value.items() if key not in keys})


def parents_of(node: Node) -> list[Node]:
    """Return the names that an entry extends, as nodes. A wrong shape is reported elsewhere."""
    return [one for one in one_or_more(node, "extends") if isinstance(one.value, str)]


def extended(
    entries: Mapping[str, Node],
    problems: Problems,
    *,
    most: int,
    rules: Rules = MappingProxyType({}),
    broken: Iterable[str] = (),
) -> dict[str, Node]:
    """Merge each entry over what it extends, parents in their order; the result has parents before their children.

    An entry that extends an unknown one, goes deeper than `most` levels or into a cycle is reported and missing, as those
    are that extend it; so are `broken` entries, which are reported already.
    """
    wrong = set(broken)
    for name, node in entries.items():
        for parent in parents_of(node) if name not in wrong else ():
            known = entries.get(parent.value)
            if known is None or (not known.is_mapping and parent.value not in wrong):
                why = f"extends: unknown job or template {parent.value}{problems.meant(parent.value, entries)}"
                problems.say(parent, why)
                wrong.add(name)
    names = {name: [parent.value for parent in parents_of(node)] for name, node in entries.items()}
    levels: dict[str, int] = {}
    found: dict[str, Node] = {}
    for name in _merge_order(entries, names, problems):
        own = entries[name]
        if name in wrong or not wrong.isdisjoint(names[name]):
            wrong.add(name)
            continue
        levels[name] = 1 + max((levels[parent] for parent in names[name]), default=-1)
        if levels[name] > most:
            problems.say(own.value["extends"], f"extends goes deeper than {most} levels")
            wrong.add(name)
            continue
        found[name] = own
        if names[name]:
            inherited, *others = (found[parent] for parent in names[name])
            for other in others:
                inherited = merge(inherited, other, rules)
            found[name] = merge(inherited, own, rules)
    return found


def _merge_order(entries: Mapping[str, Node], parents: Mapping[str, list[str]], problems: Problems) -> list[str]:
    try:
        return order(entries, parents)
    except CycleError as error:
        own = entries[error.cycle[0]]
        why = f"extends forms a cycle: {' -> '.join(error.cycle)}; remove one"
        problems.say(own.value["extends"], why)
        return []
