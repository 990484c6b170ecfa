"""Check values against a table of keywords; report what is wrong, what loom refuses, and what has no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from msgspec.structs import replace

from loom.errors import Problem
from loom.util.budget import spend
from loom.util.yaml_file import Kind, Node, depth, flat
from loom.workflow import wording
from loom.workflow.keywords import Keyword, Shape, Support, Table, shape_of
from loom.workflow.messages import NO_EFFECT, Problems
from loom.workflow.parser import InvalidExpression
from loom.workflow.words import UnshownValue, WrongType, text_in

MAX_LISTS = 10
MAX_NODES = 500_000
"""Aliases may make a small file a big value; nobody writes so many."""
Parser = Callable[[Any], Any]
"""Return the value for a node's one. WrongType for one of another type, ValueError with a text for users."""


def type_parser(what: str, *types: type) -> Parser:
    def parse(value: Any) -> Any:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise WrongType(what)
        return value

    return parse


PARSERS: Mapping[str, Parser] = {
    "text": text_in,
    "scalar": type_parser("text", str, bool, int, float),
    "integer": type_parser("a whole number", int),
    "boolean": type_parser("true or false", bool),
}


class Shapes(Problems, kw_only=True):
    """One check of a language's files. What is made of the values is for the language: here they stay nodes."""

    parsers: ClassVar[Mapping[str, Parser]] = PARSERS
    """The types of single values, by the names that shapes have for them."""
    refused_code: str = ""
    idle_code: str = NO_EFFECT
    partial: bool = False
    """Merging may add keywords that are required."""
    notices: dict[str, Problem] = {}
    """One for each keyword without effect."""
    _checked: dict[tuple[Node, str, bool], Any] = {}
    """Values by the nodes that they come from."""
    _left: int = MAX_NODES

    def fields(self, node: Node, name: str, table: Table, key: Node | None = None) -> Any:
        """Return a mapping, which has this name in the table, without wrong and empty keywords."""
        known, found, sound = table.get(name, {}), {}, True
        spend("values", node, 0)
        for written, child in node.value.items():
            at, keyword = node.keys.get(written), known.get(written)
            if keyword is not None:
                found[written] = self.value(child, keyword, table, at)
            elif child.kind is not Kind.REFUSED:
                self.unknown(at or child, written, known)
        for one, row in known.items() if not self.partial else ():
            child = node.value.get(one)
            if row.required and (child is None or self._is_nothing(child, row)):
                advice = f": write `{one}: {row.example}`" if row.example else "; add it"
                self.say(node.keys.get(one) or key or node, f"the key {one} is missing{advice}")
                sound = False
        found = {written: value for written, value in found.items() if value is not None}
        return self.made(node, found, name, sound=sound and len(found) == len(node.value))

    def _is_nothing(self, node: Node, keyword: Keyword) -> bool:
        return node.is_scalar and node.value is None and self.may_lack(keyword)

    def may_lack(self, keyword: Keyword) -> bool:
        """Return whether the keyword without a value is as good as no keyword; else it is wrong."""
        return True

    def unknown(self, node: Node, name: str, known: Mapping[str, Keyword]) -> None:
        advice = self.meant(name, known, f"; the keys are {', '.join(known)}" if known else "; there are none here")
        self.say(node, f"unknown key {name}{advice}")

    def value(self, node: Node, keyword: Keyword, table: Table, key: Node | None = None) -> Any:
        """Return the checked value; None for an empty or a wrong one."""
        if self._is_nothing(node, keyword):
            return None
        if (known := self._checked.get((node, keyword.name, self.partial))) is not None:
            return known
        self.supported(key or node, keyword)
        before = len(self.found)
        value = self._fitting(node, shape_of(keyword.shape), keyword, table, key)
        self._name_elsewhere(keyword.name, before)
        if value is not None:
            self._checked[node, keyword.name, self.partial] = value
        return value

    def _name_elsewhere(self, name: str, before: int) -> None:
        """Begin problems with the keyword where they point to a value that an alias or a reference has brought there."""
        last = name.rpartition(":")[2]
        for at, problem in enumerate(self.found[before:] if last != "NAME" else (), before):
            if last.lower() not in problem.pointer.lower().split("/") and not problem.message.startswith(name):
                self.found[at] = replace(problem, message=f"{name}: {problem.message}")

    def supported(self, node: Node, keyword: Keyword) -> None:
        if keyword.support is Support.REFUSED:
            self.say(node, f"{keyword.name} is not supported: {keyword.about}", code=self.refused_code)
        elif keyword.support is Support.NO_EFFECT and keyword.name not in self.notices:
            message = f"{keyword.name} has no effect here: {keyword.about}"
            self.notices[keyword.name] = node.file.problem(node, message, code=self.idle_code, severity="notice")

    def _fitting(self, node: Node, shape: Shape, keyword: Keyword, table: Table, key: Node | None = None) -> Any:
        self._left -= 1
        if self._left == 0:
            self.say(node, f"the file has more than {MAX_NODES} values, with those that aliases repeat")
        if self._left <= 0 or "any" in shape.kinds:
            return node if self._left > 0 else None
        fits = shape.items is not None if node.is_list else not {"map", "open"}.isdisjoint(shape.kinds)
        match node.kind:
            case Kind.REFUSED:
                return None
            case Kind.MAPPING | Kind.LIST if fits and keyword.filled and not node.value:
                advice = "" if keyword.required else " or remove the key"
                self.say(node, f"expected at least one entry, found none; add one{advice}")
                return None
            case Kind.MAPPING if "map" in shape.kinds:
                value = self.fields(node, keyword.name, table, key)
            case Kind.MAPPING if "open" in shape.kinds:
                value = self._open(node, keyword, table)
            case Kind.LIST if shape.items is not None:
                value = self._list(node, shape.items, keyword, table)
            case _:
                value = self.single(node, shape, keyword)
        return None if value is None else self.formed(value, node, shape, keyword)

    def _list(self, node: Node, items: Shape, keyword: Keyword, table: Table) -> Any:
        nests = self.nests(keyword)
        if nests and depth(node) > MAX_LISTS:
            self.say(node, f"{keyword.name}: lists are nested deeper than {MAX_LISTS} levels")
            return None
        values = [self._fitting(item, items, keyword, table) for item in (flat(node.value) if nests else node.value)]
        found = [one for one in values if one is not None]
        return self.made(node, found, sound=len(found) == len(values))

    def _open(self, node: Node, keyword: Keyword, table: Table) -> Any:
        below, found, sound = table[keyword.name], {}, True
        for name, child in node.value.items():
            own, at = below.get(name) if name != "NAME" else None, node.keys.get(name, child)
            if own is None:  # `include` of a matrix is a keyword; all others are names, also NAME
                sound &= self.named(keyword, name, at)
            if own is None and self._is_nothing(child, below["NAME"]):
                found[name] = child  # an empty variable
            elif (value := self.value(child, own or below["NAME"], table, at)) is not None:
                found[name] = value
        return self.made(node, found, keyword.name, sound=sound and len(found) == len(node.value))

    def single(self, node: Node, shape: Shape, keyword: Keyword) -> Any:
        """Return a value that the table doesn't lead into."""
        value, types = [item.value for item in node.value] if node.is_list else node.value, []
        if node.is_scalar and value in shape.words:
            return self.made(node, value, sound=True)
        for parse in [self.parsers[kind] for kind in shape.kinds if kind in self.parsers and value is not None]:
            try:
                return self.made(node, parse(value), sound=True)
            except WrongType as error:
                types.append(str(error))
            except ValueError as error:
                hidden = isinstance(error, UnshownValue)
                why = str(error) if hidden else wording.refused(str(error), node)
                offset = error.position if isinstance(error, InvalidExpression) else 0
                self.say(node, why, offset=offset, hidden=hidden)
                return None
        self.say(node, wording.unfit(node, shape, types, keyword.form if "map" in shape.kinds else ""))
        return None

    def named(self, keyword: Keyword, name: str, node: Node) -> bool:
        """Check a name in a mapping of any names; False after reporting it."""
        return True

    def nests(self, keyword: Keyword) -> bool:
        """Return whether lists inside of lists become flat."""
        return False

    def made(self, node: Node, value: Any, name: str = "", *, sound: bool) -> Any:
        """Return what a value becomes, of a mapping with its name in the table; not `sound`: parts of it are wrong."""
        return node if node.is_scalar else node.having(value)

    def formed(self, value: Any, node: Node, shape: Shape, keyword: Keyword) -> Any:
        """Return a sound value in the one form that later passes read."""
        return value
