"""Merge inherited values: mappings by key, other values as a whole."""

from __future__ import annotations

from collections.abc import Iterable

from loom.util.yaml_file import Kind, Node


def merge(base: Node, over: Node) -> Node:
    """Merge `over` into `base`: mappings by key, everything else is replaced.

    An image with `name` or `build` (or just a name) replaces the inherited image entirely, because the properties of
    one image do not apply to another.
    """
    if base.kind is not Kind.MAPPING or over.kind is not Kind.MAPPING or base is over:
        return over
    merged = Node(over.file, Kind.MAPPING, dict(base.value), over.line, over.column, over.length)
    merged.keys = base.keys | over.keys
    for key, node in over.value.items():
        below = base.value.get(key)
        if below is None or (
            key == "image" and ("name" in node.value or "build" in node.value if node.kind is Kind.MAPPING else True)
        ):
            merged.value[key] = node
        elif key == "image" and below.kind is Kind.SCALAR and node.kind is Kind.MAPPING:
            full = Node(below.file, Kind.MAPPING, {"name": below}, below.line, below.column, below.length)
            full.keys = {"name": below}
            merged.value[key] = merge(full, node)
        else:
            merged.value[key] = merge(below, node)
    return merged


def without(node: Node, keys: Iterable[str]) -> Node:
    if node.kind is not Kind.MAPPING or not any(key in node.value for key in keys):
        return node
    copy = Node(
        node.file,
        Kind.MAPPING,
        {k: v for k, v in node.value.items() if k not in keys},
        node.line,
        node.column,
        node.length,
    )
    copy.keys = node.keys
    return copy
