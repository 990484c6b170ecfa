"""Conditions: the language of `if:` in rules.

    expression = and { "||" and }        and = unary { "&&" unary }        unary = "!" { "!" } operand | comparison
    comparison = operand [ ("==" | "!=") operand | ("=~" | "!~") (/pattern/flags | operand) ]
    operand    = $NAME | ${NAME} | "text" | 'text' | null | "(" expression ")"

A name without a value is null. Alone, an operand holds when it is neither null nor empty. `parse` and `holds` are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import ClassVar, Literal, cast

from msgspec import Struct

from loom.workflow.patterns import Pattern, PatternError, compile_pattern

MAX_LENGTH = 4096
MAX_DEPTH = 50
_COMPARISONS = ("==", "!=", "=~", "!~")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<op>\|\||&&|==|!=|=~|!~|!|\(|\))
    | \$(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\})
    | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<pattern>/(?:[^/\\]|\\.)+/[a-z]*)
    | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<end>$)
    )""",
    re.VERBOSE | re.DOTALL,
)


class ExpressionError(ValueError):
    """An error and its offset in the text (from 0)."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


class VariableReference(Struct, frozen=True, kw_only=True):
    name: str


class Text(Struct, frozen=True, kw_only=True):
    value: str | None


class Compare(Struct, frozen=True, kw_only=True):
    operator: Literal["==", "!=", "=~", "!~"]
    left: Expression
    right: Expression | Pattern


class Not(Struct, frozen=True, kw_only=True):
    operand: Expression


class Both(Struct, frozen=True, kw_only=True):
    operator: Literal["&&", "||"]
    operands: tuple[Expression, ...]


Expression = VariableReference | Text | Compare | Not | Both


@lru_cache(maxsize=1024)  # cached: each job that extends a template has its conditions
def parse(text: str) -> Expression:
    """Parse a condition. ExpressionError names a valid form."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the condition is longer than {MAX_LENGTH} characters", 0)
    return Parser(text).whole()


def holds(expression: Expression, variables: Mapping[str, str]) -> bool:
    """Evaluate the expression with these variables. SearchError when a pattern search takes too long."""
    match expression:
        case Both(operator="&&"):
            return all(holds(operand, variables) for operand in expression.operands)
        case Both():
            return any(holds(operand, variables) for operand in expression.operands)
        case Not():
            return not holds(expression.operand, variables)
        case Compare():
            return _compare(expression, variables)
        case VariableReference() | Text():
            return bool(_value(expression, variables))


def names(expression: Expression | Pattern) -> Iterator[str]:
    """Return every variable that the expression reads."""
    match expression:
        case VariableReference():
            yield expression.name
        case Compare():
            yield from names(expression.left)
            yield from names(expression.right)
        case Not():
            yield from names(expression.operand)
        case Both():
            for operand in expression.operands:
                yield from names(operand)
        case Text() | Pattern():
            return


def _value(expression: Expression, variables: Mapping[str, str]) -> str | None:
    match expression:
        case VariableReference():
            return variables.get(expression.name)
        case Text():
            return expression.value
        case _:
            return "true" if holds(expression, variables) else None


def _compare(expression: Compare, variables: Mapping[str, str]) -> bool:
    left = _value(expression.left, variables)
    if isinstance(expression.right, Pattern):
        matches = left is not None and expression.right.found_in(left)
    else:
        right = _value(expression.right, variables)
        if expression.operator in ("==", "!="):
            return (left == right) == (expression.operator == "==")
        matches = left is not None and right is not None and _pattern_in(right, left)
    return matches == (expression.operator == "=~")


def _pattern_in(text: str, value: str) -> bool:
    """Match a pattern held by a variable: `/pattern/flags`, or the pattern alone. An invalid pattern matches nothing."""
    source = text if re.fullmatch(r"/.+/[a-z]*", text, re.DOTALL) else f"/{text}/"
    try:
        pattern = compile_pattern(source)
    except PatternError:
        return False
    return pattern.found_in(value)


class Parser:
    """Recursive descent over the tokens of TOKEN; a dialect overrides what it writes otherwise."""

    TOKEN: ClassVar[re.Pattern[str]] = _TOKEN

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.start = 0
        self.depth = 0
        self.kind = ""
        self.token = ""
        self.advance()

    def advance(self) -> None:
        match = self.TOKEN.match(self.text, self.position)
        if match is None:
            blank = re.compile(r"\s*").match(self.text, self.position)
            at = blank.end() if blank else self.position
            raise ExpressionError(self.unreadable(at), at)
        self.kind = match.lastgroup or "end"
        self.token = match[self.kind]
        self.start = match.start(self.kind) - {"name": 1, "braced": 2}.get(self.kind, 0)
        self.position = match.end()

    def unreadable(self, at: int) -> str:
        rest = self.text[at:]
        if rest[0] in "\"'":
            return f"the text that starts here has no closing {rest[0]}"
        if rest[0] == "/":
            return "the pattern that starts here has no closing /"
        if rest[0] == "=":
            return "compare with == (or =~ for a pattern)"
        if rest[0] in "&|":
            return f"write {rest[0] * 2}"
        return f"{rest[0]!r} is not part of a condition"

    def whole(self) -> Expression:
        expression = self.either()
        if self.kind != "end":
            raise ExpressionError(self.unexpected("&& or || or the end"), self.start)
        return expression

    def unexpected(self, wanted: str) -> str:
        if self.kind == "end":
            return f"the condition ends where {wanted} is expected"
        if self.kind == "word":
            return f'expected {wanted}, found {self.token}; a variable is ${self.token}, a text "{self.token}"'
        return f"expected {wanted}, found {self.token}"

    def either(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH} levels", self.start)
        operands = [self.both()]
        while self.kind == "op" and self.token == "||":
            self.advance()
            operands.append(self.both())
        self.depth -= 1
        return operands[0] if len(operands) == 1 else Both(operator="||", operands=tuple(operands))

    def both(self) -> Expression:
        operands = [self.unary()]
        while self.kind == "op" and self.token == "&&":
            self.advance()
            operands.append(self.unary())
        return operands[0] if len(operands) == 1 else Both(operator="&&", operands=tuple(operands))

    def unary(self) -> Expression:
        negations = 0
        while self.kind == "op" and self.token == "!":
            negations += 1
            self.advance()
        if not negations:
            return self.comparison()
        expression = self.operand()
        if self.kind == "op" and self.token in _COMPARISONS:
            raise ExpressionError(f"put what ! applies to in parentheses: !(... {self.token} ...)", self.start)
        return Not(operand=expression) if negations % 2 else Not(operand=Not(operand=expression))

    def comparison(self) -> Expression:
        left, operator = self.operand(), cast(Literal["==", "!=", "=~", "!~"], self.token)
        if self.kind != "op" or operator not in _COMPARISONS:
            return left
        self.advance()
        if operator in ("==", "!=") and self.kind == "pattern":
            raise ExpressionError(f"a pattern is compared with {operator[0]}~", self.start)
        if operator in ("=~", "!~") and self.kind == "text":
            raise ExpressionError("a pattern stands between slashes: /^release/", self.start)
        right = self.pattern(compile_pattern) if self.kind == "pattern" else self.operand()
        return Compare(operator=operator, left=left, right=right)

    def pattern(self, compile_: Callable[[str], Pattern]) -> Pattern:
        try:
            pattern = compile_(self.token)
        except PatternError as error:
            raise ExpressionError(str(error), self.start) from error
        self.advance()
        return pattern

    def operand(self) -> Expression:
        kind, token, start = self.kind, self.token, self.start
        if kind == "op" and token == "(":
            self.advance()
            inner = self.either()
            if self.token != ")" or self.kind != "op":
                raise ExpressionError(self.unexpected("a closing parenthesis"), self.start)
            self.advance()
            return inner
        if kind in ("name", "braced"):
            self.advance()
            return VariableReference(name=token)
        if kind == "text":
            self.advance()
            return Text(value=self.unquoted(token))
        if kind == "word" and token == "null":
            self.advance()
            return Text(value=None)
        if kind == "pattern":
            raise ExpressionError("a pattern needs =~ or !~ before it", start)
        raise ExpressionError(self.unexpected("a variable, a text in quotes, null or ("), start)

    def unquoted(self, token: str) -> str:
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)
