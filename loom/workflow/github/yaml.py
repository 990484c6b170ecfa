"""YAML as GitHub reads it: the core schema of YAML 1.2, with anchors, and keys of any scalar."""

from __future__ import annotations

from typing import Any

from loom.util.yaml_file import Kind, Node, YamlFile, decoded
from loom.workflow.aliases import AnchorBuilder

CODE = "GH_INVALID"


def parse(data: bytes, name: str) -> YamlFile:
    """Parse a file's bytes; `problems` of the result say what is wrong."""
    file = decoded(data, name, code=CODE)
    if not file.problems:
        _Builder(file, CODE).build()
    return file


class _Builder(AnchorBuilder):
    def tagged(self, tag: str, node: Node) -> None:
        if tag == "tag:yaml.org,2002:str" and node.kind is Kind.SCALAR:
            node.value = node.text
        else:
            node.kind = Kind.REFUSED
            self.say(node, f"tags are not allowed ({tag}); remove it, or quote the text if it starts with !")

    def add(self, top: tuple[Node, list[Any]], node: Node) -> None:
        parent, pending = top
        is_key = not isinstance(parent.value, list) and not pending
        if is_key and node.kind is Kind.SCALAR and not node.style:
            if node.text == "<<":
                self.say(node, "GitHub does not merge with <<; write the keys out")
            node.value = node.text
        super().add(top, node)
