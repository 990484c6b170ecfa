"""GitHub's expression language: `${{ github.ref == 'refs/heads/main' && inputs.level > 1 }}`.

A text is parsed once, to a tree of nodes, and evaluated as often as its values change: when the plan is made, when a job
starts, when a step starts. `contexts_in` and `functions_in` tell what a tree asks for, and so when it can be evaluated.

Values are None, bool, float, str, list and dict, as JSON has them. Semantics are those of the runner's own evaluator
(actions/runner, src/Sdk/DTExpressions2): comparison of different types goes by numbers, text is compared without case, `&&` and
`||` return one of their operands.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from msgspec import Struct

from loom.workflow.parser import MAX_DEPTH, InvalidExpression, Parser

Value: TypeAlias = Any
"""None, bool, float, str, list[Value] or dict[str, Value]."""
Function: TypeAlias = Callable[..., Value]

MAX_LENGTH = 21_000
"""Characters of one expression, as on GitHub."""
MAX_RESULT = 1 << 20
"""Characters of a text that an expression makes."""


class Literal(Struct, frozen=True):
    value: Value


class Context(Struct, frozen=True):
    """A name at the beginning: `github`, `steps`."""

    name: str
    position: int


class Call(Struct, frozen=True):
    name: str
    """In lower case."""
    arguments: tuple[Node, ...]
    position: int


class Operation(Struct, frozen=True):
    operator: str
    """Of `of.name` and `of[index]` `[]`, of `of.*` and `of[*]` `*`."""
    operands: tuple[Node, ...]


Node: TypeAlias = Literal | Context | Call | Operation

STATUS_FUNCTIONS = frozenset({"success", "always", "cancelled", "failure"})
LATE_FUNCTIONS = STATUS_FUNCTIONS | {"hashfiles"}
"""The functions that only a run can evaluate."""
_WORDS: Mapping[str, Value] = {"null": None, "true": True, "false": False, "NaN": math.nan, "Infinity": math.inf}


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """Parse what stands between `${{` and `}}`. Raises InvalidExpression."""
    tree = _Parser(text).whole()
    level = [tree]
    for _ in range(MAX_DEPTH):  # no recursion: a chain of comparisons or names has any length
        if not (level := [below for one in level for below in nodes_below(one)]):
            return tree
    raise InvalidExpression(f"the expression is nested more than {MAX_DEPTH} levels deep")


class _Parser(Parser[Node]):
    CALLED = "expression"
    MAX_LENGTH = MAX_LENGTH
    TOKEN = re.compile(
        r"""\s*(?:
        (?P<number>[-+]?(?:0x[0-9a-fA-F]+|0o[0-7]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|Infinity\b)(?![\w.]))
        |(?P<text>'(?:[^']|'')*')
        |(?P<name>[A-Za-z_][A-Za-z0-9_-]*)
        |(?P<op>&&|\|\||==|!=|<=|>=|[<>!()\[\],.*])
        |(?P<end>$)
        )""",
        re.VERBOSE,
    )
    UNREADABLE: ClassVar[Mapping[str, str]] = {
        "'": "the text that starts here has no closing '",
        '"': "texts stand in single quotes",
        "=": "equality is ==",
        "&": "write &&",
        "|": "write ||",
        **dict.fromkeys("+-*/%", "there is no arithmetic in expressions"),
    }
    RANKS: ClassVar[Mapping[str, int]] = {"||": 0, "&&": 1, "==": 2, "!=": 2, "<": 3, "<=": 3, ">": 3, ">=": 3}

    def operation(self, operator: str, operands: Sequence[Node]) -> Node:
        return Operation(operator, tuple(operands))

    def operand(self) -> Node:
        node = super().operand()
        while (operator := self.token) in (".", "["):
            self.advance()
            if self.take("*"):
                node = Operation("*", (node,))
            elif operator == "[":
                node = Operation("[]", (node, self.binary()))
            elif self.kind == "name":
                node = Operation("[]", (node, Literal(self.token)))
                self.advance()
            else:
                raise self.unexpected("a name after the dot")
            if operator == "[":
                self.expect("]")
        return node

    def value(self) -> Node:
        kind, word, position = self.kind, self.token, self.start
        if kind in ("op", "end"):
            raise self.unexpected("a value")
        self.advance()
        if kind == "number":
            return Literal(number_of(word))
        if kind == "text":
            return Literal(word[1:-1].replace("''", "'"))
        if self.take("("):
            return self.call(word, position)
        return Literal(_WORDS[word]) if word in _WORDS else Context(word.lower(), position)

    def call(self, word: str, position: int) -> Node:
        name = word.lower()
        if name not in _FUNCTIONS:
            raise InvalidExpression(f"there is no function {word}", position)
        arguments: list[Node] = []
        if not self.take(")"):
            arguments.append(self.binary())
            while self.take(","):
                arguments.append(self.binary())
            self.expect(")")
        least, most, _ = _FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            raise InvalidExpression(f"{word} takes {wanted} arguments, not {len(arguments)}", position)
        if name == "case" and len(arguments) % 2 == 0:
            raise InvalidExpression(
                "case takes pairs of a condition and a value, then the value of all others", position
            )
        return Call(name, tuple(arguments), position)


# -- values -----------------------------------------------------------------------------------------------------------


def truth(value: Value) -> bool:
    """Return whether a value counts as true: all but null, false, 0, NaN and an empty text."""
    if isinstance(value, float):
        return value != 0 and not math.isnan(value)
    return isinstance(value, list | dict) or bool(value)


def flag_of(value: Value) -> bool:
    """Return the value of a key that wants a boolean. InvalidExpression for another one, also a text, as on GitHub."""
    if not isinstance(value, bool):
        raise InvalidExpression(
            f"unexpected value '{text_of(value)}'; expected true or false (fromJSON makes it of a text)"
        )
    return value


def number_of(value: Value) -> float:
    """Return a value as a number; NaN for what is none."""
    if value is None:
        return 0.0
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, str):
        return math.nan
    text = value.strip()
    if not text:
        return 0.0
    found = _Parser.TOKEN.fullmatch(text)
    if found is None or found["number"] is None:
        return math.nan
    sign, digits = (-1.0, text[1:]) if text[0] == "-" else (1.0, text.removeprefix("+"))
    if digits[:2] in ("0x", "0o"):
        return sign * int(digits, 0)
    return sign * float(digits)


def text_of(value: Value) -> str:
    """Return a value as text, as it stands in a script."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() | float():
            return _number_text(float(value))
        case str():
            return value
        case list():
            return "Array"
        case _:
            return "Object"


def _number_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = format(value + 0.0, ".15g")
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}E{exponent[0]}{exponent[1:].zfill(2)}" if e else ("0" if text == "-0" else text)


def json_of(value: Value) -> str:
    """Return a value as JSON with two spaces of indentation, as `toJSON` writes it."""
    return json.dumps(_plain(value), indent=2, ensure_ascii=False)


def _plain(value: Value) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return value


def equal(left: Value, right: Value) -> bool:
    """Compare loosely: texts without case, different types as numbers, lists and mappings by identity."""
    if isinstance(left, list | dict) or isinstance(right, list | dict):
        return left is right
    return bool(operator.eq(*_sides(left, right)))


def _sides(left: Value, right: Value) -> tuple[Any, Any]:
    if isinstance(left, str) and isinstance(right, str):
        return left.upper(), right.upper()
    return number_of(left), number_of(right)


class Exact(dict[str, Value]):
    """A mapping whose keys have a case: the context `env`."""


class _Filtered(list[Value]):
    """The elements that `*` has found: a property of it is the list of that property of each element that has it."""


def _indexed(value: Value, index: Value) -> Value:
    if isinstance(value, _Filtered):
        found = _Filtered()
        for one in value:
            if isinstance(one, Mapping):
                key = _key(one, index)
                if key is not None:
                    found.append(one[key])
            elif isinstance(one, list) and (item := _indexed(one, index)) is not None:
                found.append(item)
        return found
    if isinstance(value, list):
        number = number_of(index)
        at = int(number) if math.isfinite(number) and number >= 0 else len(value)
        return value[at] if at < len(value) else None
    if isinstance(value, Mapping):
        key = _key(value, index)
        return None if key is None else value[key]
    return None


def _key(mapping: Mapping[str, Value], index: Value) -> str | None:
    """Find a key without regard to case; the exact one first."""
    if isinstance(index, list | dict):
        return None
    name = text_of(index)
    if name in mapping or isinstance(mapping, Exact):
        return name if name in mapping else None
    folded = name.lower()
    return next((key for key in mapping if key.lower() == folded), None)


def _all(value: Value) -> _Filtered:
    if isinstance(value, _Filtered):
        return _Filtered(item for one in value for item in _all(one))
    if isinstance(value, list):
        return _Filtered(value)
    return _Filtered(value.values()) if isinstance(value, Mapping) else _Filtered()


_OPERATORS: Mapping[str, Function] = {
    "[]": _indexed,
    "*": _all,
    "!": lambda value: not truth(value),
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": lambda left, right: operator.lt(*_sides(left, right)),
    "<=": lambda left, right: operator.le(*_sides(left, right)),
    ">": lambda left, right: operator.gt(*_sides(left, right)),
    ">=": lambda left, right: operator.ge(*_sides(left, right)),
}


# -- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(node: Node, contexts: Mapping[str, Value], functions: Mapping[str, Function] | None = None) -> Value:
    """Return the value of a tree.

    `contexts`: by name in lower case; a name that is not there raises InvalidExpression. `functions`: `hashfiles` and the status
    functions, where they exist, by name in lower case.
    """
    if isinstance(node, Literal):
        return node.value
    if isinstance(node, Operation):
        if (function := _OPERATORS.get(node.operator)) is not None:
            return function(*[evaluate(one, contexts, functions) for one in node.operands])
        value: Value = None
        for one in node.operands:
            value = evaluate(one, contexts, functions)
            if truth(value) is (node.operator == "||"):
                break
        return value
    if isinstance(node, Call):
        return _called(node, contexts, functions or {})
    if node.name not in contexts:
        raise InvalidExpression(f"there is no context {node.name} here", node.position)
    return contexts[node.name]


def _called(call: Call, contexts: Mapping[str, Value], functions: Mapping[str, Function]) -> Value:
    if call.name == "case":
        *pairs, other = call.arguments
        for condition, value in zip(pairs[::2], pairs[1::2], strict=True):
            if truth(evaluate(condition, contexts, functions)):
                return evaluate(value, contexts, functions)
        return evaluate(other, contexts, functions)
    function = _FUNCTIONS[call.name][2] or functions.get(call.name)
    if function is None:
        raise InvalidExpression(f"{call.name}() can't be used here", call.position)
    try:
        return function(*(evaluate(one, contexts, functions) for one in call.arguments))
    except InvalidExpression as error:
        raise InvalidExpression(str(error), call.position) from error


def _ignore_case(compare: Callable[[str, str], bool]) -> Callable[[Value, Value], bool]:
    def compared(whole: Value, part: Value) -> bool:
        texts = [text_of(one).lower() for one in (whole, part) if not isinstance(one, list | Mapping)]
        return len(texts) == 2 and compare(*texts)

    return compared


_in_text = _ignore_case(str.__contains__)


def _contains(search: Value, item: Value) -> bool:
    return any(equal(one, item) for one in search) if isinstance(search, list) else _in_text(search, item)


def _format(template: Value, *values: Value) -> str:
    def filled(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] is None:
            raise InvalidExpression(f"format: a brace stands alone in {text_of(template)!r}; write it twice")
        if int(found[1]) >= len(values):
            raise InvalidExpression(f"format: there is no argument {{{found[1]}}}")
        return text_of(values[int(found[1])])

    return _bounded(re.sub(r"\{\{|\}\}|\{(\d{1,3})\}|[{}]", filled, text_of(template)))


def _join(items: Value, separator: Value = ",") -> str:
    if not isinstance(items, list):
        return "" if isinstance(items, Mapping) else text_of(items)
    return _bounded(text_of(separator).join(text_of(one) for one in items))


def _parse_json(text: Value) -> Value:
    try:
        return json_value(json.loads(text_of(text)))
    except (ValueError, RecursionError) as error:
        raise InvalidExpression(f"fromJSON: not valid JSON: {error}") from error


def json_value(value: Any) -> Value:
    """Convert a value of JSON or YAML to this language, which has one kind of numbers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1 << 1023 else math.inf if value > 0 else -math.inf
    if isinstance(value, list):
        return [json_value(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): json_value(one) for name, one in value.items()}
    return value


def _bounded(text: str) -> str:
    if len(text) > MAX_RESULT:
        raise InvalidExpression(f"the result has more than {MAX_RESULT} characters")
    return text


_FUNCTIONS: Mapping[str, tuple[int, int, Function | None]] = {
    "contains": (2, 2, _contains),
    "startswith": (2, 2, _ignore_case(str.startswith)),
    "endswith": (2, 2, _ignore_case(str.endswith)),
    "format": (1, 255, _format),
    "join": (1, 2, _join),
    "tojson": (1, 1, json_of),
    "fromjson": (1, 1, _parse_json),
    "hashfiles": (1, 255, None),
    "case": (3, 255, None),
    "success": (0, 255, None),
    "always": (0, 0, None),
    "cancelled": (0, 0, None),
    "failure": (0, 255, None),
}
"""The least and most arguments of each function, and what it does where that depends on these alone."""


# -- what a tree asks for ---------------------------------------------------------------------------------------------


def nodes_in(node: Node) -> Iterator[Node]:
    yield node
    for one in nodes_below(node):
        yield from nodes_in(one)


def nodes_below(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Call):
        return node.arguments
    return node.operands if isinstance(node, Operation) else ()


def property_in(node: Node, context: str) -> str | None:
    """Return the name in `context.name`, None for another node."""
    match node:
        case Operation("[]", (Context(name), Literal(value))) if name == context:
            return str(value)
    return None


def contexts_in(node: Node) -> frozenset[str]:
    """Return the names of the contexts that a tree reads."""
    return frozenset(one.name for one in nodes_in(node) if isinstance(one, Context))


def functions_in(node: Node) -> frozenset[str]:
    """Return the names of the functions that a tree calls, in lower case."""
    return frozenset(one.name for one in nodes_in(node) if isinstance(one, Call))


# -- texts with expressions -------------------------------------------------------------------------------------------


class Part(Struct, frozen=True):
    """An expression in a text. `start` is the offset of its `${{`."""

    node: Node
    start: int


@lru_cache(maxsize=4096)
def parts_of(text: str) -> tuple[str | Part, ...]:
    """Split a text into plain text and expressions. Raises InvalidExpression, with positions in the text."""
    parts: list[str | Part] = []
    at = 0
    while (start := text.find("${{", at)) >= 0:
        end = _end_of(text, start + 3)
        if end < 0:
            raise InvalidExpression("`${{` has no `}}`", start)
        if len(text) > MAX_LENGTH:  # GitHub makes them one expression
            raise InvalidExpression(f"a text with expressions has more than {MAX_LENGTH} characters", start)
        if start > at:
            parts.append(text[at:start])
        try:
            parts.append(Part(parse(text[start + 3 : end]), start))
        except InvalidExpression as error:
            raise InvalidExpression(str(error), start + 3 + error.position) from error
        at = end + 2
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


def _end_of(text: str, at: int) -> int:
    """Find the `}}` of an expression, which may hold one in a text of its own."""
    quoted = False
    while at < len(text):
        if text[at] == "'":
            quoted = not quoted
        elif not quoted and text.startswith("}}", at):
            return at
        at += 1
    return -1


def filled(text: str, contexts: Mapping[str, Value], functions: Mapping[str, Function] | None = None) -> Value:
    """Return a text with its expressions replaced; one expression alone keeps its type. Raises InvalidExpression."""
    parts = parts_of(text)
    values = [one if isinstance(one, str) else evaluate(one.node, contexts, functions) for one in parts]
    if len(parts) == 1 and not isinstance(parts[0], str):
        return values[0]
    return _bounded("".join(text_of(value) for value in values))


def condition(text: str) -> Node:
    """Parse an `if`: with or without `${{ }}`; `success()` holds too unless it asks for a status. Raises InvalidExpression."""
    stripped = text.strip()
    if stripped.startswith("${{") and _end_of(stripped, 3) == len(stripped) - 2:
        node = parse(stripped[3:-2])
    elif "${{" in stripped:
        # A text around an expression is a text, and true unless it is empty.
        pieces = [Literal(one) if isinstance(one, str) else one.node for one in parts_of(stripped)]
        node = Call("format", (Literal("".join(f"{{{n}}}" for n in range(len(pieces)))), *pieces), 0)
    else:
        node = parse(stripped) if stripped else Literal(True)
    return node if functions_in(node) & STATUS_FUNCTIONS else Operation("&&", (Call("success", (), 0), node))
