"""Apply inheritance: `default`, and templates and jobs by `extends`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from loom.util.yaml_file import Kind, Node, mapping
from loom.workflow import loaded, merge
from loom.workflow.messages import Problems
from loom.workflow.native.shapes import Fields, Shapes

MAX_LEVELS = 32


class Entry(loaded.Entry, frozen=True, kw_only=True):
    """`fields` are the values of the merged node."""

    fields: Fields


class Written(Struct, frozen=True, kw_only=True):
    """An entry as its file defines it. `fields` is None when its shape is invalid."""

    key: Node
    node: Node
    fields: Fields | None


def _image(base: Node, over: Node) -> Node:
    """An image with `name` or `build`, or just a name, replaces the inherited one: its properties do not apply to another."""
    if over.kind is not Kind.MAPPING or "name" in over.value or "build" in over.value:
        return over
    if base.kind is Kind.SCALAR:
        named = mapping(base, {"name": base})
        named.keys = {"name": base}
        base = named
    return merge.merge(base, over)


RULES = {"image": _image}


def entries_of(
    written: Mapping[str, Written], default: Node | None, shapes: Shapes, problems: Problems
) -> dict[str, Entry]:
    """Return each entry with its inherited values; entries with an invalid shape or an invalid parent are missing."""
    broken = {name for name, entry in written.items() if entry.fields is None}
    nodes = {name: entry.node for name, entry in written.items()}
    found: dict[str, Entry] = {}
    for name, merged in merge.extended(nodes, problems, most=MAX_LEVELS, rules=RULES, broken=broken).items():
        own, fields = written[name], written[name].fields
        if not broken.isdisjoint(parent.value for parent in merge.parents_of(own.node)):
            broken.add(name)
            continue
        if default is not None and not name.startswith("."):
            merged = merge.merge(default, merged, RULES)
        if merged is not own.node:  # what is wrong only now is reported at the place that it comes from
            fields = shapes.validated("job", merged, (name,), partial=name.startswith("."))
        if fields is None:
            broken.add(name)
        else:
            found[name] = Entry(name=name, key=own.key, node=own.node, merged=merged, fields=fields)
    return {name: found[name] for name in written if name in found}
