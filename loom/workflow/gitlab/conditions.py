"""Conditions as GitLab reads them: `rules:if`, `workflow:rules:if`, `include:rules:if`, `only:variables`.

The grammar is loom's (`loom.workflow.expressions`) with GitLab's tokens: `$NAME` without braces, texts without escapes,
comparisons that can be chained, the flags i, s, m and U. What differs is the meaning, which this module has: an operand
is a text, null or a truth value, `&&` and `||` return an operand, and only a text that is not blank holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, cast

from loom.workflow import patterns
from loom.workflow.expressions import (
    MAX_LENGTH,
    Both,
    Compare,
    Expression,
    ExpressionError,
    Not,
    Parser,
    Text,
    VariableReference,
)
from loom.workflow.patterns import Pattern, PatternError

Value = str | bool | None
MOST_TOKENS = 99
"""Of a condition; GitLab refuses one with more."""

_WRITTEN = re.compile(r"/(?P<source>(?:[^/\\]|\\.)+)/(?P<flags>[ismU]*)", re.DOTALL)
_NOT_RE2 = re.compile(
    r"\\(?:(?P<reference>[1-9])|.)|\[\^?\]?(?:\[:|\\.|[^\]\\])*\]|\(\?(?P<around><?[=!]|>|[(|])|(?P<possessive>[*+?}]\+)",
    re.DOTALL,
)
_ENDS = re.compile(r"\\.|\[\^?\]?(?:\[:|\\.|[^\]\\])*\]|\$", re.DOTALL)


class _Parser(Parser):
    TOKEN = re.compile(
        r"""\s*(?:
          (?P<op>\|\||&&|==|!=|=~|!~|!|\(|\))
        | \$(?P<name>[A-Za-z0-9_]+)
        | (?P<text>"[^"\n]*"|'[^'\n]*')
        | (?P<pattern>/(?:[^/\\]|\\.)+/[A-Za-z]*)
        | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
        | (?P<end>$)
        )""",
        re.VERBOSE | re.DOTALL,
    )

    def unary(self) -> Expression:
        return self.comparison()

    def comparison(self) -> Expression:
        left = self.negated()
        while self.kind == "op" and self.token in ("==", "!=", "=~", "!~"):
            operator = cast(Literal["==", "!=", "=~", "!~"], self.token)
            self.advance()
            if self.kind == "pattern" and self.token[2:].startswith("/"):
                why = f"GitLab refuses {self.token}: a pattern has two characters or more, such as /[v]/ for /v/"
                raise ExpressionError(why, self.start)
            right = self.pattern(compile_pattern) if self.kind == "pattern" else self.negated()
            left = Compare(operator=operator, left=left, right=right)
        return left

    def negated(self) -> Expression:
        """Parse an operand. `!` binds closer than a comparison, which then compares a truth value."""
        if self.kind != "op" or self.token != "!":
            return self.operand()
        odd = False
        while self.kind == "op" and self.token == "!":
            odd = not odd
            self.advance()
        negated = Not(operand=self.operand())
        return negated if odd else Not(operand=negated)

    def operand(self) -> Expression:
        if self.kind == "word" and self.token in ("true", "false"):
            absent = Text(value=None) if self.token == "true" else Text(value="present")
            self.advance()
            return Not(operand=absent)
        return super().operand()

    def unquoted(self, token: str) -> str:
        return token[1:-1]


@lru_cache(maxsize=1024)  # cached: each job that extends a template has its conditions
def parse(text: str) -> Expression:
    """Parse a condition. ExpressionError names a valid form."""
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"the condition is longer than {MAX_LENGTH} characters", 0)
    if sum(1 for _ in _Parser.TOKEN.finditer(text.strip())) > MOST_TOKENS + 1:  # the last one is the end
        why = f"the condition has more than {MOST_TOKENS} names, texts, operators and parentheses; write several rules"
        raise ExpressionError(why, 0)
    return _Parser(text).whole()


def holds(expression: Expression, variables: Mapping[str, str]) -> bool:
    """Evaluate a condition with these variables. SearchError when a pattern search takes too long."""
    return _present(_value(expression, variables))


def matches(written: str, value: str) -> bool:
    """Search a `/pattern/flags` in a value. PatternError for another text, SearchError when it takes too long."""
    return compile_pattern(written).found_in(value)


@lru_cache(maxsize=256)
def compile_pattern(written: str) -> Pattern:
    """Parse `/pattern/flags` in RE2's syntax. PatternError names what RE2 does not have."""
    parts = _WRITTEN.fullmatch(written)
    if parts is None:
        letters = written.rpartition("/")[2]
        wrong = re.sub(r"[ismU]", "", letters)
        raise PatternError(
            f"unknown pattern flag {wrong[:1]}; GitLab's flags are i, s, m and U"
            if wrong and written.startswith("/")
            else f"{written} is no pattern; one stands between slashes: /^release/"
        )
    source, flags = parts["source"].replace("\\/", "/"), parts["flags"]
    for found in _NOT_RE2.finditer(source):
        if what := next((name for name, part in found.groupdict().items() if part), None):
            raise PatternError(f"{found[0]}: GitLab's patterns are RE2's, which has no {_CALLED[what]}")
    if "m" not in flags and not re.search(r"\(\?[a-zA-Z]*m", source):
        source = _ENDS.sub(lambda found: r"\Z" if found[0] == "$" else found[0], source)
    source = re.sub(r"\\(.)", lambda found: r"\Z" if found[1] == "z" else found[0], source, flags=re.DOTALL)
    given = sum(int(patterns.FLAGS[letter]) for letter in set(flags) if letter != "U")  # U: greed does not decide
    return patterns.pattern_for_search(written, source, given)


_CALLED = {"reference": "back-references", "around": "lookaround", "possessive": "possessive repeats"}


def _present(value: Value) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _true(value: Value) -> bool:
    """Return whether `&&` and `||` take a value for true: also an empty text is."""
    return value is not None and value is not False


def _value(expression: Expression, variables: Mapping[str, str]) -> Value:
    match expression:
        case VariableReference():
            return variables.get(expression.name)
        case Text():
            return expression.value
        case Not():
            return not _present(_value(expression.operand, variables))
        case Compare():
            return _compare(expression, variables)
        case Both():
            goes_on = expression.operator == "&&"
            value: Value = goes_on
            for operand in expression.operands:
                value = _value(operand, variables)
                if _true(value) is not goes_on:
                    break
            return value


def _compare(expression: Compare, variables: Mapping[str, str]) -> bool:
    left = _value(expression.left, variables)
    right = expression.right if isinstance(expression.right, Pattern) else _value(expression.right, variables)
    holds = _equal(left, right) if expression.operator in ("==", "!=") else _found(left, right)
    return holds is (expression.operator in ("==", "=~"))


def _equal(left: Value, right: Value | Pattern) -> bool:
    """Compare two values; a truth value and a text by their texts."""
    if isinstance(left, bool) and isinstance(right, str):
        return str(left).lower() == right
    if isinstance(left, str) and isinstance(right, bool):
        return left == str(right).lower()
    return left == right


def _found(left: Value, right: Value | Pattern) -> bool:
    """Search what a variable holds: a `/pattern/flags`, or a text that has the value in it."""
    text = left if isinstance(left, str) else "" if left is None else str(left).lower()
    if isinstance(right, Pattern):
        return right.found_in(text)
    if not isinstance(right, str):
        return False
    try:
        return compile_pattern(right).found_in(text)
    except PatternError:
        return text in right
