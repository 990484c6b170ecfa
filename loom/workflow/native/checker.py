"""Check values against a table of keys, and parse them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from loom.util.yaml_file import Kind, Node
from loom.workflow.keywords import Shape, shape_of
from loom.workflow.messages import Problems
from loom.workflow.native import wording
from loom.workflow.native.keywords import TABLES, Key, Table
from loom.workflow.native.values import NAMES, NotA, Type, Unrepeated
from loom.workflow.parser import InvalidExpression
from loom.workflow.words import NotText

_REFERENCE = "a reference such as env://NAME or keyring://service/name"
Check = Callable[[Mapping[str, Any], bool], "str | None"]
"""Return the problem in the combination of a mapping's values; the second: whether merging may still add some."""


class Checker:
    """One check of one value. `fits` becomes False when something is wrong, which `problems` has."""

    def __init__(
        self,
        table: Table,
        types: Mapping[str, Type],
        checks: Mapping[str, Check],
        problems: Problems,
        *,
        partial: bool = False,
    ) -> None:
        self._table = table
        self._types = types
        self._checks = checks
        self._problems = problems
        self._partial = partial
        self.fits = True

    def _say(self, node: Node, message: str, offset: int = 0, *, hidden: bool = False) -> None:
        self.fits = False
        problem = node.file.problem(node, message, offset=offset)
        self._problems.found.append(replace(problem, source_line=None) if hidden else problem)

    def fields(self, node: Node, name: str = "", key: Node | None = None) -> dict[str, Any]:
        """Return the values of a mapping, short forms as mappings and single values as lists; without wrong ones."""
        known, found = self._table[name], {}
        before, self.fits = self.fits, True
        for one, wanted in known.items():
            if wanted.required and one not in node.value and not self._partial:
                example = {"version": ": write `version: v1`", "stages": ": write `stages: [build, test]`"}.get(one, "")
                self._say(key or node, f"the key {one} is missing{example}")
        for written, child in node.value.items():
            row = known.get(written)
            if row is None and child.kind is Kind.REFUSED:
                self.fits = False  # the parser has said why
            elif row is None:
                why = wording.unknown_key(written, known, in_default=not name and self._table is TABLES["default"])
                self._say(node.keys[written], why)
            else:
                found[written] = self._value(child, row, shape_of(row.shape), node.keys[written])
        wrong = self._checks[name](found, self._partial) if self.fits and name in self._checks else None
        if wrong is not None:
            self._say(node, wording.refused(wrong, node))
        self.fits = self.fits and before
        return found

    def _value(self, node: Node, row: Key, shape: Shape, key: Node | None = None) -> Any:
        items = shape.items
        if node.kind is Kind.REFUSED or (node.kind is Kind.SCALAR and node.value is None):
            if node.kind is Kind.SCALAR:
                self._say(node, "expected a value, found nothing; give one or remove the key")
            self.fits = False
            return None
        if items is None:
            return self._single(node, row, shape, key)
        short_is_list = "map" in shape.kinds and "map" not in items.kinds
        if short_is_list and node.kind is Kind.MAPPING:
            return self._single(node, row, shape, key)
        if node.kind is Kind.LIST:
            found = [self._value(item, row, items) for item in node.value]
            self._filled(node, row)
        elif not shape.kinds and not shape.words:
            self._say(node, wording.expected("a list", node))
            return None
        else:
            found = [self._single(node, row, items if short_is_list else shape, key)]
        return {row.short: found} if short_is_list else found

    def _filled(self, node: Node, row: Key) -> None:
        if row.filled and not node.value:
            self._say(node, "expected at least one entry, found none; add one or remove the key")

    def _single(self, node: Node, row: Key, shape: Shape, key: Node | None) -> Any:
        if node.kind is Kind.MAPPING and "map" in shape.kinds:
            return self.fields(node, row.name, key)
        if node.kind is Kind.MAPPING and "open" in shape.kinds:
            return self._open(node, row)
        if shape.words:
            if node.value not in shape.words:
                self._say(node, wording.one_of(shape.words, node))
            return node.value
        is_map = "map" in shape.kinds
        kind = next((kind for kind in shape.kinds if kind in self._types), None)
        if kind is None:
            self._say(node, wording.expected(row.form, node))
            return None
        try:
            value = self._types[kind].parse(node.plain())
        except (NotText, NotA) as error:
            if kind == "reference":
                why = f"expected {row.form if is_map else _REFERENCE}; a secret's value is never written here"
            elif is_map:
                why = wording.expected(row.form, node)
            else:
                why = wording.expected(str(error), node) if isinstance(error, NotA) else wording.no_text(node)
            self._say(node, why, hidden=kind == "reference")
            return None
        except ValueError as error:
            offset = error.position if isinstance(error, InvalidExpression) else 0
            hidden = isinstance(error, Unrepeated)
            self._say(node, str(error) if hidden else wording.refused(str(error), node), offset, hidden=hidden)
            return None
        return {row.short: value} if is_map and row.short else value

    def _open(self, node: Node, row: Key) -> dict[str, Any]:
        below, name_of = self._table[row.name]["NAME"], self._types[NAMES.get(row.name.rpartition(":")[2], "variable")]
        self._filled(node, row)
        found = {}
        for name, child in node.value.items():
            try:
                name_of.parse(name)
            except ValueError as error:
                self._say(node.keys[name], str(error))
            found[name] = self._value(child, below, shape_of(below.shape), node.keys[name])
        return found
