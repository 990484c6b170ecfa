"""Check values against the keyword table; report what GitLab refuses, what loom refuses, and what has no effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from msgspec import Struct, field

from loom.errors import Problem
from loom.util.units import nearest
from loom.util.yaml_file import Kind, Node, pointer
from loom.workflow.gitlab import yaml
from loom.workflow.gitlab.durations import seconds
from loom.workflow.gitlab.keywords import (
    DEFAULTS,
    GLOBALS,
    JOB,
    ROOT,
    ROOT_KEYWORDS,
    Keyword,
    Support,
    by_name,
    runner_variable,
)
from loom.workflow.messages import NO_EFFECT

UNSUPPORTED = "GL_UNSUPPORTED"
MAX_LISTS = 10
MAX_NODES = 500_000
"""Aliases may make a small file a big value; nobody writes so many."""


class Shape(Struct, frozen=True):
    """The alternatives of a keyword's value."""

    kinds: tuple[str, ...]
    words: tuple[str, ...] = ()
    items: Shape | None = None


@lru_cache(maxsize=256)
def shape_of(text: str) -> Shape:
    kinds: list[str] = []
    words: tuple[str, ...] = ()
    items: Shape | None = None
    for part in re.findall(r"\[.*\]|\([^)]*\)|\w+", text):
        if part.startswith("["):
            items = shape_of(part[1:-1])
        elif part.startswith("("):
            words = tuple(part[1:-1].split())
        else:
            kinds.append(part)
    return Shape(tuple(kinds), words, items)


_FITS: Mapping[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "scalar": lambda value: value is not None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "duration": lambda value: isinstance(value, str),
}
_NAMES = {"map": "a mapping", "open": "a mapping", "scalar": "text", "integer": "a number", "boolean": "true or false"}


class Shapes(Struct, kw_only=True):
    """Check the root's keywords and jobs. `problems` are errors, `notices` one for each keyword without effect."""

    problems: list[Problem] = field(default_factory=list)
    notices: dict[str, Problem] = field(default_factory=dict)
    _checked: dict[tuple[int, str], tuple[Node, Node]] = field(default_factory=dict)
    """Values by the ids of the nodes that they come from; both nodes are kept, so that an id stays taken."""
    _left: int = MAX_NODES

    def root(self, root: Node) -> Node:
        """Check all but the jobs; return the root without what is not valid."""
        table, jobs = by_name(ROOT_KEYWORDS), by_name(JOB)
        found: dict[str, Node] = {}
        for key, node in root.value.items():
            if key == "default":
                value = self._default(node, jobs)
            elif key in GLOBALS:
                value = self._value(node, jobs[key], jobs, (key,))
            elif key in ROOT and key in table:
                value = self._value(node, table[key], table, (key,))
            else:
                value = node
            if value is not None:
                found[key] = value
        return _copy(root, found)

    def _default(self, node: Node, jobs: Mapping[str, Keyword]) -> Node | None:
        if node.kind is not Kind.MAPPING:
            self._wrong(node, ("default",), "default", shape_of("map"))
            return None
        allowed = {name: one for name, one in jobs.items() if name.split(":")[0] in DEFAULTS}
        return self._map(node, "", allowed, ("default",))

    def job(self, name: str, node: Node) -> Node:
        """Check a merged job; return it without empty keywords and with flat lists."""
        return self._map(node, "", by_name(JOB), (name,))

    def _say(self, node: Node, at: tuple[str | int, ...], message: str, code: str = yaml.CODE) -> None:
        self.problems.append(node.file.problem(node, pointer(*at), message, code=code))

    def _map(self, node: Node, prefix: str, table: Mapping[str, Keyword], at: tuple[str | int, ...]) -> Node:
        found: dict[str, Node] = {}
        for key, child in node.value.items():
            keyword = table.get(f"{prefix}{key}")
            if keyword is None:
                self._unknown(node.keys.get(key, child), prefix, key, table, (*at, key))
            elif (value := self._value(child, keyword, table, (*at, key), node.keys.get(key))) is not None:
                found[key] = value
        return _copy(node, found)

    def _unknown(
        self, node: Node, prefix: str, key: str, table: Mapping[str, Keyword], at: tuple[str | int, ...]
    ) -> None:
        known = [name[len(prefix) :] for name in table if name.startswith(prefix) and ":" not in name[len(prefix) :]]
        close = nearest(key, known)
        where = f" in {prefix.rstrip(':')}" if prefix else ""
        meant = f"did you mean {close}?" if close else f"the keywords are {', '.join(known)}"
        self._say(node, at, f"unknown keyword {key}{where}; {meant}")

    def _value(
        self,
        node: Node,
        keyword: Keyword,
        table: Mapping[str, Keyword],
        at: tuple[str | int, ...],
        key: Node | None = None,
    ) -> Node | None:
        """Return the checked value; None for an empty or a wrong one."""
        if node.kind is Kind.REFUSED or (node.kind is Kind.SCALAR and node.value is None):
            return None
        known = self._checked.get((id(node), keyword.name))
        if known is not None:
            return known[1]
        self._supported(key or node, keyword, at)
        value = self._fitting(node, shape_of(keyword.shape), keyword, table, at)
        if value is not None:
            self._checked[id(node), keyword.name] = node, value
        return value

    def _supported(self, node: Node, keyword: Keyword, at: tuple[str | int, ...]) -> None:
        if keyword.support is Support.REFUSED:
            self._say(node, at, f"{keyword.name} is not supported: {keyword.about}", UNSUPPORTED)
        elif keyword.support is Support.NO_EFFECT and keyword.name not in self.notices:
            message = f"{keyword.name} has no effect here: {keyword.about}"
            self.notices[keyword.name] = node.file.problem(
                node, pointer(*at), message, code=NO_EFFECT, severity="notice"
            )

    def _fitting(
        self, node: Node, shape: Shape, keyword: Keyword, table: Mapping[str, Keyword], at: tuple[str | int, ...]
    ) -> Node | None:
        self._left -= 1
        if self._left == 0:
            self._say(node, at, f"the file has more than {MAX_NODES} values, with those that aliases repeat")
        if self._left <= 0 or "any" in shape.kinds:
            return node if self._left > 0 else None
        match node.kind:
            case Kind.MAPPING if "map" in shape.kinds:
                return self._map(node, f"{keyword.name}:", table, at)
            case Kind.MAPPING if "open" in shape.kinds:
                return self._open(node, keyword, table, at)
            case Kind.LIST if shape.items is not None:
                if yaml.depth(node) > MAX_LISTS:
                    self._say(node, at, f"{keyword.name}: lists are nested deeper than {MAX_LISTS} levels")
                    return None
                items = yaml.items(node.value)
                checked = [self._item(item, shape.items, keyword, table, (*at, n)) for n, item in enumerate(items)]
                there = [one for one in checked if one is not None]
                return Node(node.file, Kind.LIST, there, node.line, node.column, node.length)
            case Kind.SCALAR if self._is_scalar(node, shape):
                return node
        self._wrong(node, at, keyword.name, shape)
        return None

    def _item(
        self, node: Node, shape: Shape, keyword: Keyword, table: Mapping[str, Keyword], at: tuple[str | int, ...]
    ) -> Node | None:
        if node.kind is Kind.REFUSED:
            return None
        return self._fitting(node, shape, keyword, table, at)

    def _open(self, node: Node, keyword: Keyword, table: Mapping[str, Keyword], at: tuple[str | int, ...]) -> Node:
        below = table[f"{keyword.name}:NAME"]
        found = {}
        for key, child in node.value.items():
            if keyword.name.endswith("variables") and (known := runner_variable(key)) is not None:
                self._supported(node.keys.get(key, child), known, (*at, key))
            if child.kind is Kind.SCALAR and child.value is None:
                found[key] = child  # an empty variable
            elif (value := self._value(child, below, table, (*at, key))) is not None:
                found[key] = value
        return _copy(node, found)

    def _is_scalar(self, node: Node, shape: Shape) -> bool:
        if node.value in shape.words or any(kind in _FITS and _FITS[kind](node.value) for kind in shape.kinds):
            return "duration" not in shape.kinds or _is_duration(str(node.value))
        return False

    def _wrong(self, node: Node, at: tuple[str | int, ...], name: str, shape: Shape) -> None:
        expected = " or ".join(dict.fromkeys(_expected(shape)))
        text = node.text if len(node.text) <= 40 else f"{node.text[:37]}..."
        found = {Kind.MAPPING: "a mapping", Kind.LIST: "a list"}.get(node.kind, repr(text))
        close = nearest(node.text, shape.words) if node.kind is Kind.SCALAR and shape.words else None
        meant = f"; did you mean {close}?" if close else ""
        quote = f'; write it in quotes: "{text}"' if "text" in shape.kinds and node.kind is Kind.SCALAR else ""
        self._say(node, at, f"{name}: expected {expected}, found {found}{meant}{quote}")


def _is_duration(text: str) -> bool:
    try:
        return text.strip() == "never" or seconds(text) >= 0
    except ValueError:
        return False


def _expected(shape: Shape) -> Iterator[str]:
    for kind in shape.kinds:
        yield "a duration such as 1h 30m" if kind == "duration" else _NAMES.get(kind, kind)
    if shape.words:
        yield f"one of {', '.join(shape.words)}" if len(shape.words) <= 8 else "one of the documented words"
    if shape.items is not None:
        yield "a list"


def _copy(node: Node, value: dict[str, Node]) -> Node:
    copy = Node(node.file, Kind.MAPPING, value, node.line, node.column, node.length)
    copy.keys = node.keys
    return copy
