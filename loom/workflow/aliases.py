"""YAML with anchors: aliases are the nodes themselves, and an expansion bomb is refused before anything walks it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from loom.util.yaml_file import Kind, Node, NodeBuilder, YamlFile, fields_of

MAX_DEPTH = 100
MAX_SHARED = 100_000


class Shared:
    """The values that a file has by alias or reference: the nodes themselves, so many and so deep that all may be walked."""

    def __init__(self) -> None:
        self._left = MAX_SHARED
        self._weights: dict[Node, tuple[int, int]] = {}

    def too_much(self, node: Node, depth: int) -> str:
        """Take a finished value at a depth once more; return why it can't be taken, else nothing."""
        size, levels = self._weight(node)
        self._left -= size
        if depth + levels > MAX_DEPTH:
            return f"leads deeper than {MAX_DEPTH} levels"
        return f"brings more than {MAX_SHARED} values; share less" if self._left < 0 else ""

    def _weight(self, node: Node) -> tuple[int, int]:
        """Return the number of values and levels of a node; shared nodes count each time."""
        known = self._weights.get(node)
        if known is None:
            is_list = node.kind in (Kind.LIST, Kind.REFERENCE)
            below = [self._weight(child) for child in (node.value if is_list else fields_of(node).values())]
            known = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
            self._weights[node] = known
        return known


class AnchorBuilder(NodeBuilder):
    max_depth = MAX_DEPTH

    def __init__(self, file: YamlFile, code: str) -> None:
        super().__init__(file, code)
        self._shared = Shared()
        self.anchors: dict[str, Node] = {}

    def alias(self, event: Any, within: list[Node]) -> Node:
        node = self.anchors.get(event.anchor)
        inside = any(node is parent for parent in within)
        why = "is unknown; its anchor must stand before it, in the same file"
        if node is not None:
            why = "stands inside its own anchor" if inside else self._shared.too_much(node, len(within))
            if not why:
                return node
        width = event.end_mark.column - event.start_mark.column
        found = Node(self.file, Kind.REFUSED, None, *self.position(event.start_mark), width)
        self.say(found, f"the alias *{event.anchor} {why}")
        return found

    def decorated(self, event: Any, node: Node) -> None:
        if event.anchor:
            self.anchors[event.anchor] = node
        if event.tag and event.tag != "!":
            self.tagged(event.tag, node)

    @abstractmethod
    def tagged(self, tag: str, node: Node) -> None:
        """Take a node with a tag."""
