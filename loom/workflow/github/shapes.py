"""Check a file of GitHub's against the tables of its keys, and the expressions in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from loom.util.yaml_file import Node, scalars_of
from loom.workflow import shapes
from loom.workflow.github import expressions, yaml
from loom.workflow.github.keywords import CONTEXTS, JOB, ROOT_KEYWORDS
from loom.workflow.keywords import Keyword, Shape, shape_of, tabled
from loom.workflow.messages import GITHUBS_NO_EFFECT, Problems
from loom.workflow.parser import InvalidExpression
from loom.workflow.words import WrongType

UNSUPPORTED = "GH_UNSUPPORTED"
ROOT_TABLE, JOB_TABLE = tabled(ROOT_KEYWORDS), tabled(JOB)


def _nonempty(value: Any) -> Any:
    if shapes.PARSERS["scalar"](value) == "":
        raise WrongType("a text that is not empty")
    return value


class GitHubShapes(shapes.Shapes, kw_only=True):
    """An expression may stand for a scalar, and where the table says `expression`, for a mapping or list."""

    parsers: ClassVar[Mapping[str, shapes.Parser]] = {
        **shapes.PARSERS,
        "number": shapes.type_parser("a number", int, float),
        "expression": shapes.type_parser("an expression"),
        "nonempty": _nonempty,
    }
    code: str = yaml.CODE
    refused_code: str = UNSUPPORTED
    idle_code: str = GITHUBS_NO_EFFECT

    def may_lack(self, keyword: Keyword) -> bool:
        is_of_event = (
            keyword.name.startswith("on:") and keyword.name.count(":") != 2
        )  # an event alone, and an input of one
        return is_of_event or not {"any", "text", "scalar"}.isdisjoint(shape_of(keyword.shape).kinds)

    def single(self, node: Node, shape: Shape, keyword: Keyword) -> Any:
        if isinstance(node.value, str) and "${{" in node.value and (shape.words or {*shape.kinds} - {"map", "open"}):
            return node
        return super().single(node, shape, keyword)


def check_expressions(node: Node, problems: Problems, *, of_job: bool) -> None:
    """Parse the expressions below the root of a file, or below a job; report what is invalid, or not there where it is read."""
    for path, scalar in scalars_of(node):
        if not isinstance(scalar.value, str) or (not of_job and path[:1] == ("jobs",)):
            continue
        name = _name(path if of_job else ("root", *path))
        is_condition = name in ("if", "steps:if")
        try:
            if is_condition or "${{" in scalar.value:
                for message, position in faults(scalar.value, allowed_at(name), is_condition=is_condition):
                    problems.say(scalar, message, offset=position)
        except InvalidExpression as error:
            problems.say(scalar, f"invalid expression: {error}", offset=error.position)


def _name(path: tuple[str | int, ...]) -> str:
    """Return the key in the table for a path: without positions in lists, with NAME for that of a service."""
    parts = [part for part in path if isinstance(part, str)]
    if parts[:1] == ["services"]:
        parts[1:2] = ["NAME"]
    return ":".join(parts)


def allowed_at(name: str) -> frozenset[str]:
    """Return the contexts and functions (with `()`) that expressions at a key may use."""
    while name and name not in CONTEXTS:
        name = name.rpartition(":")[0]
    return frozenset(CONTEXTS.get(name, "").split())


def faults(text: str, allowed: frozenset[str], *, is_condition: bool) -> Iterator[tuple[str, int]]:
    """Yield the forbidden names and functions in a text's expressions, with their positions. Raises InvalidExpression."""
    if is_condition:
        nodes = [(expressions.condition(text), 0)]
    else:
        nodes = [(part.node, part.start) for part in expressions.parts_of(text) if not isinstance(part, str)]
    if nodes and not allowed:
        yield "there are no expressions here; write the value itself", nodes[0][1]
        return
    for node, start in nodes:
        for name in sorted(expressions.contexts_in(node) - allowed):
            there = ", ".join(sorted(one for one in allowed if not one.endswith("()")))
            advice = "; give it to `env`, and read that" if name == "secrets" and "env" in allowed else ""
            yield f"there is no context {name} here; there are {there}{advice}", start
        for name in sorted(
            expressions.functions_in(node)
            & expressions.LATE_FUNCTIONS - {one[:-2] for one in allowed if one[-2:] == "()"}
        ):
            yield f"{name}() can't be used here", start
        calls = (one for one in expressions.nodes_in(node) if isinstance(one, expressions.Call) and one.arguments)
        for name in sorted({one.name for one in calls} & expressions.STATUS_FUNCTIONS if "steps" in allowed else ()):
            yield f"{name} takes 0 arguments in a step, not more", start  # in a job's, names of others
