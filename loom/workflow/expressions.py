"""Conditions: the language of `if:` in rules.

    expression = and { "||" and }        and = unary { "&&" unary }        unary = "!" { "!" } operand | comparison
    comparison = operand [ ("==" | "!=") operand | ("=~" | "!~") (/pattern/flags | operand) ]
    operand    = $NAME | ${NAME} | "text" | 'text' | null | "(" expression ")"

A name without a value is null. Alone, an operand holds when it is neither null nor empty; a part that holds has the value
`true`, else null. `parse` and `holds` are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import ClassVar

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


Value = str | bool | None
Condition = Callable[[Mapping[str, str]], Value]
"""Return the value of a condition, or of a part of it, with these variables. SearchError when a pattern search takes too long."""


@lru_cache(maxsize=1024)  # cached: each job that extends a template has its conditions
def parse(text: str) -> Condition:
    """Parse a condition. ExpressionError names a valid form."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the condition is longer than {MAX_LENGTH} characters", 0)
    return Parser(text).whole()


def holds(text: str, variables: Mapping[str, str]) -> bool:
    """Evaluate a condition with these variables. SearchError when a pattern search takes too long."""
    return Parser.present(parse(text)(variables))


def names(text: str) -> Iterator[str]:
    """Return every variable that a condition reads."""
    return (name for found in _TOKEN.finditer(text) if (name := found["name"] or found["braced"]))


def _pattern_in(text: str, value: str) -> bool:
    """Match a pattern held by a variable: `/pattern/flags`, or the pattern alone. An invalid pattern matches nothing."""
    source = text if re.fullmatch(r"/.+/[a-z]*", text, re.DOTALL) else f"/{text}/"
    try:
        pattern = compile_pattern(source)
    except PatternError:
        return False
    return pattern.found_in(value)


class Parser:
    """Recursive descent over the tokens of TOKEN; a dialect overrides the parts in which it differs."""

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

    def whole(self) -> Condition:
        condition = self.either()
        if self.kind != "end":
            raise ExpressionError(self.unexpected("&& or || or the end"), self.start)
        return condition

    def unexpected(self, wanted: str) -> str:
        if self.kind == "end":
            return f"the condition ends where {wanted} is expected"
        if self.kind == "word":
            return f'expected {wanted}, found {self.token}; a variable is ${self.token}, a text "{self.token}"'
        return f"expected {wanted}, found {self.token}"

    def either(self) -> Condition:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH} levels", self.start)
        operands = [self.both()]
        while self.kind == "op" and self.token == "||":
            self.advance()
            operands.append(self.both())
        self.depth -= 1
        return operands[0] if len(operands) == 1 else self.joined("||", operands)

    def both(self) -> Condition:
        operands = [self.unary()]
        while self.kind == "op" and self.token == "&&":
            self.advance()
            operands.append(self.unary())
        return operands[0] if len(operands) == 1 else self.joined("&&", operands)

    def unary(self) -> Condition:
        negations = 0
        while self.kind == "op" and self.token == "!":
            negations += 1
            self.advance()
        if not negations:
            return self.comparison()
        operand = self.operand()
        if self.kind == "op" and self.token in _COMPARISONS:
            raise ExpressionError(f"put what ! applies to in parentheses: !(... {self.token} ...)", self.start)
        return self.negated(operand, odd=negations % 2 == 1)

    def comparison(self) -> Condition:
        left, operator = self.operand(), self.token
        if self.kind != "op" or operator not in _COMPARISONS:
            return left
        self.advance()
        if operator in ("==", "!=") and self.kind == "pattern":
            raise ExpressionError(f"a pattern is compared with {operator[0]}~", self.start)
        if operator in ("=~", "!~") and self.kind == "text":
            raise ExpressionError("a pattern stands between slashes: /^release/", self.start)
        return self.compared(
            operator, left, self.pattern(compile_pattern) if self.kind == "pattern" else self.operand()
        )

    def pattern(self, compile_: Callable[[str], Pattern]) -> Pattern:
        try:
            pattern = compile_(self.token)
        except PatternError as error:
            raise ExpressionError(str(error), self.start) from error
        self.advance()
        return pattern

    def operand(self) -> Condition:
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
            return lambda variables: variables.get(token)
        if kind == "text":
            self.advance()
            text = self.unquoted(token)
            return lambda _: text
        if kind == "word" and token == "null":
            self.advance()
            return lambda _: None
        if kind == "pattern":
            raise ExpressionError("a pattern needs =~ or !~ before it", start)
        raise ExpressionError(self.unexpected("a variable, a text in quotes, null or ("), start)

    def unquoted(self, token: str) -> str:
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)

    # -- the meaning --------------------------------------------------------------------------------------------------

    def truth(self, holds: bool) -> Value:
        return "true" if holds else None

    @staticmethod
    def present(value: Value) -> bool:
        return bool(value)

    def negated(self, operand: Condition, *, odd: bool) -> Condition:
        return lambda variables: self.truth(self.present(operand(variables)) is not odd)

    def joined(self, operator: str, operands: list[Condition]) -> Condition:
        all_or_any = all if operator == "&&" else any
        return lambda variables: self.truth(all_or_any(self.present(operand(variables)) for operand in operands))

    def compared(self, operator: str, left: Condition, right: Condition | Pattern) -> Condition:
        matches, wanted = self.equal if operator in ("==", "!=") else self.found, operator in ("==", "=~")

        def value(variables: Mapping[str, str]) -> Value:
            other = right if isinstance(right, Pattern) else right(variables)
            return self.truth(matches(left(variables), other) is wanted)

        return value

    def equal(self, left: Value, right: Value | Pattern) -> bool:
        return left == right

    def found(self, left: Value, right: Value | Pattern) -> bool:
        if not isinstance(left, str):
            return False
        return (
            right.found_in(left) if isinstance(right, Pattern) else isinstance(right, str) and _pattern_in(right, left)
        )
