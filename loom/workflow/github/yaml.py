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
    def __init__(self, file: YamlFile, code: str) -> None:
        super().__init__(file, code)
        self._keys: dict[Node, dict[str, Node]] = {}
        """The keys of each mapping in upper case."""

    def tagged(self, tag: str, node: Node) -> None:
        if tag == "tag:yaml.org,2002:str" and node.is_scalar:
            node.value = node.text
        else:
            node.kind = Kind.REFUSED
            self.say(node, f"tags are not allowed ({tag}); remove it, or quote the text if it starts with !")

    def add(self, top: tuple[Node, list[Any]], node: Node) -> None:
        parent, pending = top
        is_key = not isinstance(parent.value, list) and not pending
        if is_key and node.is_scalar:
            if node.text == "<<" and not node.style:
                self.say(node, "GitHub does not merge with <<; write the keys out")
            node.value = node.text
            same = self._keys.setdefault(parent, {}).setdefault(node.text.upper(), node)
            if same.text != node.text:
                self.say(
                    node, f"{node.text} is {same.text} of line {same.line} again, for case does not count; keep one"
                )
        super().add(top, node)
