"""Check values against a table of keywords; report what is wrong, what loom refuses, and what has no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msgspec import field

from loom.errors import Problem
from loom.util.units import duration, meant
from loom.util.yaml_file import Kind, Node, depth, flat, mapping
from loom.workflow.keywords import Keyword, Shape, Support, shape_of
from loom.workflow.messages import NO_EFFECT, Problems

MAX_LISTS = 10
MAX_NODES = 500_000
"""Aliases may make a small file a big value; nobody writes so many."""
_FITS: Mapping[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "scalar": lambda value: value is not None,
    "alphanumeric": lambda value: isinstance(value, str | int) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "duration": lambda value: isinstance(value, str),
}
_NAMES = {"map": "a mapping", "open": "a mapping", "scalar": "text", "integer": "a number", "boolean": "true or false"}
_NAMES |= {"expression": "an expression", "alphanumeric": "text or a whole number"}


Table = Mapping[str, Keyword]


class Shapes(Problems, kw_only=True):
    """`notices`: one for each keyword without effect."""

    refused_code: str
    idle_code: str = NO_EFFECT
    notices: dict[str, Problem] = field(default_factory=dict)
    _checked: dict[tuple[Node, str], Node] = field(default_factory=dict)
    """Values by the nodes that they come from."""
    _left: int = MAX_NODES

    def fields(self, node: Node, prefix: str, table: Table) -> Node:
        """Check a mapping, whose keywords begin with `prefix` in the table; return it without wrong and empty ones.

        Lists inside of lists become flat, where a keyword may have them.
        """
        found: dict[str, Node] = {}
        for key, child in node.value.items():
            keyword = table.get(f"{prefix}{key}")
            if keyword is None:
                self._unknown(node.keys.get(key, child), prefix, key, table)
            elif (value := self.value(child, keyword, table, node.keys.get(key))) is not None:
                found[key] = value
        return mapping(node, found)

    def _unknown(self, node: Node, prefix: str, key: str, table: Table) -> None:
        known = [name[len(prefix) :] for name in table if name.startswith(prefix) and ":" not in name[len(prefix) :]]
        where = f" in {prefix.rstrip(':')}" if prefix else ""
        advice = meant(key, known) or f"; the keywords are {', '.join(known)}"
        self.say(node, f"unknown keyword {key}{where}{advice}")

    def value(self, node: Node, keyword: Keyword, table: Table, key: Node | None = None) -> Node | None:
        """Return the checked value; None for an empty or a wrong one."""
        if node.kind is Kind.REFUSED or (node.kind is Kind.SCALAR and node.value is None):
            return None
        if (known := self._checked.get((node, keyword.name))) is not None:
            return known
        self.supported(key or node, keyword)
        value = self._fitting(node, shape_of(keyword.shape), keyword, table)
        if value is not None:
            self._checked[node, keyword.name] = value
        return value

    def supported(self, node: Node, keyword: Keyword) -> None:
        if keyword.support is Support.REFUSED:
            self.say(node, f"{keyword.name} is not supported: {keyword.about}", code=self.refused_code)
        elif keyword.support is Support.NO_EFFECT and keyword.name not in self.notices:
            message = f"{keyword.name} has no effect here: {keyword.about}"
            self.notices[keyword.name] = node.file.problem(node, message, code=self.idle_code, severity="notice")

    def _fitting(self, node: Node, shape: Shape, keyword: Keyword, table: Table) -> Node | None:
        self._left -= 1
        if self._left == 0:
            self.say(node, f"the file has more than {MAX_NODES} values, with those that aliases repeat")
        if self._left <= 0 or "any" in shape.kinds:
            return node if self._left > 0 else None
        match node.kind:
            case Kind.MAPPING if "map" in shape.kinds:
                return self.fields(node, f"{keyword.name}:", table)
            case Kind.MAPPING if "open" in shape.kinds:
                return self._open(node, keyword, table)
            case Kind.LIST if shape.items is not None:
                if depth(node) > MAX_LISTS:
                    self.say(node, f"{keyword.name}: lists are nested deeper than {MAX_LISTS} levels")
                    return None
                items = flat(node.value) if self.nests(keyword) else node.value
                checked = [
                    self._fitting(item, shape.items, keyword, table) for item in items if item.kind is not Kind.REFUSED
                ]
                there = [one for one in checked if one is not None]
                return Node(node.file, Kind.LIST, there, node.line, node.column, node.length)
            case Kind.SCALAR if self._is_scalar(node, shape):
                return node
        self.wrong(node, keyword.name, shape)
        return None

    def _open(self, node: Node, keyword: Keyword, table: Table) -> Node:
        below = table[f"{keyword.name}:NAME"]
        found = {}
        for key, child in node.value.items():
            self.named(keyword, key, node.keys.get(key, child))
            if child.kind is Kind.SCALAR and child.value is None:
                found[key] = child  # an empty variable
            elif (value := self.value(child, below, table)) is not None:
                found[key] = value
        return mapping(node, found)

    def named(self, keyword: Keyword, name: str, node: Node) -> None:
        """Look at a name in a mapping of any names."""

    def _is_scalar(self, node: Node, shape: Shape) -> bool:
        if node.value in shape.words:
            return True
        fits = any(kind in _FITS and _FITS[kind](node.value) for kind in shape.kinds)
        return fits and ("duration" not in shape.kinds or self._is_duration(str(node.value)))

    def nests(self, keyword: Keyword) -> bool:
        return True

    def seconds(self, text: str) -> float:
        """Parse a duration. ValueError for another text."""
        return duration(text)

    def _is_duration(self, text: str) -> bool:
        try:
            return self.seconds(text) > 0
        except ValueError:
            return False

    def wrong(self, node: Node, name: str, shape: Shape) -> None:
        expected = " or ".join(dict.fromkeys(_expected(shape)))
        text = node.text if len(node.text) <= 40 else f"{node.text[:37]}..."
        found = {Kind.MAPPING: "a mapping", Kind.LIST: "a list"}.get(node.kind, repr(text))
        close = meant(node.text, shape.words) if node.kind is Kind.SCALAR and shape.words else ""
        quote = f'; write it in quotes: "{text}"' if "text" in shape.kinds and node.kind is Kind.SCALAR else ""
        self.say(node, f"{name}: expected {expected}, found {found}{close}{quote}")


def _expected(shape: Shape) -> Iterator[str]:
    for kind in shape.kinds:
        yield "a duration such as 1h 30m" if kind == "duration" else _NAMES.get(kind, kind)
    if shape.words:
        one_of = "one of " if len(shape.words) > 1 else ""
        yield f"{one_of}{', '.join(shape.words)}" if len(shape.words) <= 8 else "one of the documented words"
    if shape.items is not None:
        yield "a list"
