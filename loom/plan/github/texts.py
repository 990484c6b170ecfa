"""Values of a workflow as far as the plan can know them; the others stay as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Literal

from msgspec import Struct

from loom.util.yaml_file import Kind, Node
from loom.workflow.github import expressions
from loom.workflow.github.expressions import Value, json_value, text_of, truth
from loom.workflow.github.keywords import JOB
from loom.workflow.messages import Problems
from loom.workflow.parser import InvalidExpression


class _Late(Enum):
    LATE = "late"


LATE: Final = _Late.LATE
"""The value of a text that needs what only a run has."""
Late = Literal[_Late.LATE]
_OF_RUN = frozenset({"run_id", "run_number", "run_attempt", "token", "workspace", "job_workflow_sha", "retention_days"})
"""Properties of `github` that only a run has."""


def is_ready(node: expressions.Node, known: Mapping[str, Value]) -> bool:
    """Return whether an expression reads nothing but these contexts."""
    if not expressions.contexts_in(node) <= known.keys() or expressions.functions_in(node) & expressions.LATE_FUNCTIONS:
        return False
    return not any(expressions.property_in(one, "github") in _OF_RUN for one in expressions.nodes_in(node))


_WHOLE = {one.name for one in JOB if "expression" in one.shape and not one.name.startswith("strategy")}
"""The keys whose mapping or list may be one expression, beside the matrix."""
_TEXTS = {"container", "services:NAME"}
"""Those that may be a text too."""
_AROUND = {name.rpartition(":")[0] for name in (*_WHOLE, *_TEXTS, "services:NAME:")}


class Texts(Struct):
    """Evaluates with these contexts. An expression that can't be evaluated is a problem at its position."""

    contexts: Mapping[str, Value]
    problems: Problems

    def having(self, **more: Value) -> Texts:
        return Texts({**self.contexts, **more}, self.problems)

    def value(self, node: Node | None) -> Value | Late:
        """Return the value of a scalar, None for no node."""
        if node is None or not isinstance(node.value, str) or "${{" not in node.value:
            return None if node is None else json_value(node.value)
        try:
            parts = expressions.parts_of(node.value)
            if not all(isinstance(part, str) or is_ready(part.node, self.contexts) for part in parts):
                return LATE
            return expressions.filled(node.value, self.contexts)
        except InvalidExpression as error:
            self._say(node, error)
            return None

    def text(self, node: Node | None) -> str | Late:
        value = self.value(node)
        return LATE if value is LATE else text_of(value)

    def deep(self, node: Node | None) -> Value | Late:
        """Return the value of a node with all below it; LATE if a part of it is."""
        if node is None or node.is_scalar:
            return self.value(node)
        if node.is_list:
            items: list[Any] = []
            for one in node.value:
                value = self.deep(one)
                items += value if one.is_scalar and isinstance(value, list) else [value]
            return LATE if any(one is LATE for one in items) else items
        if any("${{" in key for key in node.value):
            return LATE  # a name is rarely an expression, so only a run evaluates it
        fields = {key: self.deep(one) for key, one in node.value.items()}
        return LATE if any(one is LATE for one in fields.values()) else fields

    def written_out(self, node: Node, unknown: list[Node], name: str = "") -> Node:
        """Return a job, or what it has at a key of the table, with the mappings and lists that expressions make.

        `unknown` gets the expressions of which a mapping or list is not known yet.
        """
        if node.is_scalar:
            if name not in _WHOLE | _TEXTS or "${{" not in text_of(node.value):
                return node
            value = self.value(node)
            if isinstance(value, Mapping | list):
                return node_of(value, node)
            if name in _WHOLE:
                unknown.append(node)
            return node
        if name not in _AROUND:
            return node
        if node.is_list:
            items = [self.written_out(one, unknown, name) for one in node.value]
            return node.having(items)
        below = {key: "services:NAME" if name == "services" else f"{name}:{key}".lstrip(":") for key in node.value}
        return node.having({key: self.written_out(one, unknown, below[key]) for key, one in node.value.items()})

    def condition(self, node: Node | None) -> bool | None:
        """Return the result of an `if`; None if it is known only in the run."""
        if node is None:
            return None
        try:
            tree = expressions.condition(text_of(node.value))
            success = expressions.Call("success", (), 0)
            if isinstance(tree, expressions.Operation) and (tree.operator, tree.operands[0]) == ("&&", success):
                tree = expressions.Operation("&&", tree.operands[1:])  # the run decides that one
            return truth(expressions.evaluate(tree, self.contexts)) if is_ready(tree, self.contexts) else None
        except InvalidExpression as error:
            self._say(node, error)
            return None

    def _say(self, node: Node, error: InvalidExpression) -> None:
        found = node.file.problem(node, str(error), code=self.problems.code, offset=error.position)
        if found not in self.problems.found:
            self.problems.found.append(found)


def literal(value: Value) -> Value:
    """Return a value for a text that is evaluated once more: there it stays as it is."""
    return value.replace("${{", "${{ '${{' }}") if isinstance(value, str) else value


def node_of(value: Value, at: Node) -> Node:
    """Return a value as a node at the position of another one. Texts in it are not evaluated again."""
    content: Any = literal(value)
    if isinstance(value, Mapping):
        content = {name: node_of(one, at) for name, one in value.items()}
    elif isinstance(value, list):
        content = [node_of(one, at) for one in value]
    kind = Kind.MAPPING if isinstance(value, Mapping) else Kind.LIST if isinstance(value, list) else Kind.SCALAR
    return at.having(content, kind)


def as_written(node: Node) -> Any:
    """Return a node as JSON has it, with its expressions."""
    return json_value(node.plain())
