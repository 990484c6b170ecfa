"""Check values against a table of keys, and parse them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from loom.util.yaml_file import Kind, Node
from loom.workflow import shapes, wording
from loom.workflow.keywords import Keyword, Shape
from loom.workflow.native.values import NAMES, TYPES

Check = Callable[[Mapping[str, Any], bool], "str | None"]
"""Return the problem in the combination of a mapping's values; the second: whether merging may still add some."""


class Checker(shapes.Shapes):
    """Values become what they are parsed to, short forms mappings, and single values lists; None where something is wrong."""

    parsers: ClassVar[Mapping[str, shapes.Parser]] = {name: kind.parse for name, kind in TYPES.items()}
    checks: ClassVar[Mapping[str, Check]] = {}

    def may_lack(self, keyword: Keyword) -> bool:
        return False

    def made(self, node: Node, value: Any, name: str = "", *, sound: bool) -> Any:
        wrong = self.checks[name](value, self.partial) if sound and name in self.checks else None
        if wrong is not None:
            self.say(node, wording.refused(wrong, node))
        return value if sound and wrong is None else None

    def named(self, keyword: Keyword, name: str, node: Node) -> bool:
        try:
            TYPES[NAMES.get(keyword.name.rpartition(":")[2], "variable")].parse(name)
        except ValueError as error:
            self.say(node, str(error))
            return False
        return True

    def formed(self, value: Any, node: Node, shape: Shape, keyword: Keyword) -> Any:
        may_be_map, items = "map" in shape.kinds, shape.items
        lists_are_short = may_be_map and items is not None and "map" not in items.kinds
        if node.kind is Kind.MAPPING and lists_are_short:
            return value
        if node.kind is Kind.SCALAR and may_be_map and keyword.short and not lists_are_short:
            value = {keyword.short: value}
        if node.kind is not Kind.LIST and items is not None:
            value = [value]
        return {keyword.short: value} if lists_are_short else value
