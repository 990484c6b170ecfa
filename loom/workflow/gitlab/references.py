"""Replace each `!reference [job, key, ...]` by the value at that path of the merged file."""

from __future__ import annotations

from msgspec import Struct, field

from loom.util.yaml_file import Kind, Node
from loom.workflow.aliases import Shared
from loom.workflow.messages import Problems

MAX_DEPTH = 10


class Resolver(Struct):
    """Resolves `!reference`. Each value is resolved once, so that shared ones (aliases, `extends`) cost nothing again."""

    root: Node
    problems: Problems
    _shared: Shared = field(default_factory=Shared)
    _done: dict[Node, Node] = {}

    def resolved(self) -> Node:
        return self._value(self.root, ())

    def _value(self, node: Node, trail: tuple[tuple[str, ...], ...], depth: int = 0) -> Node:
        if node.is_scalar or node.kind is Kind.REFUSED:
            return node
        known = self._done.get(node)
        if known is not None:
            return known
        if node.kind is Kind.REFERENCE:
            found = self._target(node, trail, depth)
        elif node.is_list:
            found = self._rebuilt(node, [self._value(item, trail, depth + 1) for item in node.value])
        else:
            found = self._rebuilt(node, {key: self._value(item, trail, depth + 1) for key, item in node.value.items()})
        self._done[node] = found
        return found

    def _rebuilt(self, node: Node, value: list[Node] | dict[str, Node]) -> Node:
        new, old = (value.values(), node.value.values()) if isinstance(value, dict) else (value, node.value)
        if all(one is other for one, other in zip(new, old, strict=True)):
            return node
        return node.having(value)

    def _target(self, node: Node, trail: tuple[tuple[str, ...], ...], depth: int) -> Node:
        path = tuple(str(item.value) for item in node.value)
        shown = f"!reference [{', '.join(path)}]"
        if path in trail:
            cycle = " -> ".join(f"[{', '.join(step)}]" for step in (*trail[trail.index(path) :], path))
            return self._refused(node, f"{shown} is part of a cycle: {cycle}; remove one")
        if len(trail) >= MAX_DEPTH:
            return self._refused(node, f"{shown}: references are nested deeper than {MAX_DEPTH} levels")
        found: Node | None = self.root
        for number, key in enumerate(path):
            if found is not None and found.kind is Kind.REFERENCE:
                found = self._value(found, (*trail, path), depth)
            found = found.get(int(key) if found.is_list and key.isdecimal() else key) if found is not None else None
            if found is None:
                missing = f"there is no {key} in {'.'.join(path[:number])}" if number else f"there is no {key}"
                return self._refused(node, f"{shown}: {missing}; name a job and a key of it")
        assert found is not None  # an empty path gives the root
        found = self._value(found, (*trail, path), depth)
        why = self._shared.too_much(found, depth)
        return self._refused(node, f"{shown} {why}") if why else found

    def _refused(self, node: Node, message: str) -> Node:
        self.problems.say(node, message)
        return node.having(None, Kind.REFUSED)
