"""YAML as GitHub reads it: the core schema of YAML 1.2, with anchors, and keys of any scalar."""

from __future__ import annotations

from typing import Any

from loom.util.yaml_file import Kind, Node, NodeBuilder, YamlFile, decoded
from loom.workflow.gitlab.yaml import Shared

CODE = "GH_INVALID"
MAX_DEPTH = 50


def parse(data: bytes, name: str) -> YamlFile:
    """Parse a file's bytes; `problems` of the result say what is wrong."""
    file = decoded(data, name, code=CODE)
    if not file.problems:
        _Builder(file, CODE).build()
    return file


class _Builder(NodeBuilder):
    max_depth = MAX_DEPTH

    def __init__(self, file: YamlFile, code: str) -> None:
        super().__init__(file, code)
        self._anchors: dict[str, Node] = {}
        self._shared = Shared()

    def alias(self, event: Any, within: list[Node]) -> Node:
        node = self._anchors.get(event.anchor)
        why = "is unknown; its anchor must stand before it, in the same file"
        if node is not None:
            inside = any(node is parent for parent in within)
            why = "stands inside its own anchor" if inside else self._shared.too_much(node, len(within))
            if not why:
                return node
        width = event.end_mark.column - event.start_mark.column
        found = Node(self.file, Kind.REFUSED, None, *self.place(event.start_mark), width)
        self.say(found, f"the alias *{event.anchor} {why}")
        return found

    def decorated(self, event: Any, node: Node) -> None:
        if event.anchor:
            self._anchors[event.anchor] = node
        if event.tag and event.tag not in ("!", "tag:yaml.org,2002:str"):
            super().decorated(event, node)

    def add(self, top: tuple[Node, list[Any]], node: Node) -> None:
        parent, pending = top
        is_key = not isinstance(parent.value, list) and not pending
        if is_key and node.kind is Kind.SCALAR and not node.style:
            if node.text == "<<":
                self.say(node, "GitHub does not merge with <<; write the keys out")
            node.value = node.text
        super().add(top, node)
