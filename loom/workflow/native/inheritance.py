"""Apply inheritance: `default`, and templates and jobs by `extends`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from loom.util.yaml_file import Kind, Node
from loom.workflow import loaded, merge
from loom.workflow.native.shapes import Fields, Shapes

MAX_LEVELS = 32


class Entry(loaded.Entry):
    """`fields` are the values of the merged node."""

    fields: Fields

    @property
    def stage(self) -> str | None:
        node = self.merged.get("stage")
        return node.value if node is not None and isinstance(node.value, str) else None


def _image(base: Node, over: Node) -> Node:
    """Merge images: one with `name` or `build`, or just a name, replaces the inherited one with all its properties."""
    if not over.is_mapping or "name" in over.value or "build" in over.value:
        return over
    if base.is_scalar:
        named = base.having({"name": base}, Kind.MAPPING)
        named.keys = {"name": base}
        base = named
    return merge.merge(base, over)


RULES = {"image": _image}


def entries_of(
    written: Mapping[str, Entry], broken: set[str], default: Node | None, problems: Shapes
) -> dict[str, Entry]:
    """Return each entry with its inherited values; those with an invalid shape, and what extends `broken` ones, are missing."""
    nodes = {name: entry.node for name, entry in written.items()}
    found: dict[str, Entry] = {}
    for name, merged in merge.extended(nodes, problems, most=MAX_LEVELS, rules=RULES, broken=broken).items():
        own = written[name]
        fields: Fields | None = own.fields
        if default is not None and not name.startswith("."):
            merged = merge.merge(default, merged, RULES)
        if merged is not own.node:  # mistakes that only merging makes are reported at their origin
            fields = problems.validated("job", merged, partial=name.startswith("."))
        if fields is not None:
            found[name] = replace(own, merged=merged, fields=fields)
    return {name: found[name] for name in written if name in found}
