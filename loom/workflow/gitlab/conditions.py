"""Conditions as GitLab reads them: `rules:if`, `workflow:rules:if`, `include:rules:if`, `only:variables`.

The grammar is loom's (`loom.workflow.expressions`) with GitLab's tokens: `$NAME` without braces, texts without escapes,
comparisons that can be chained, the flags i, s, m and U. What differs is the meaning, which this module has: an operand
is a text, null or a truth value, `&&` and `||` return an operand, and only a text that is not blank holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from loom.workflow import patterns
from loom.workflow.expressions import Condition, ConditionParser, Value
from loom.workflow.parser import InvalidExpression, Parser
from loom.workflow.patterns import Pattern, PatternError

MOST_TOKENS = 99
"""The limit for a condition; GitLab refuses one with more."""

_WRITTEN = re.compile(r"/(?P<source>(?:[^/\\]|\\.)+)/(?P<flags>[ismU]*)", re.DOTALL)
_NOT_RE2 = re.compile(
    r"\\(?:(?P<reference>[1-9])|.)|\[\^?\]?(?:\[:|\\.|[^\]\\])*\]|\(\?(?P<around><?[=!]|>|[(|])|(?P<possessive>[*+?}]\+)",
    re.DOTALL,
)
_ENDS = re.compile(r"\\.|\[\^?\]?(?:\[:|\\.|[^\]\\])*\]|\$", re.DOTALL)


class Anything(str):
    """A value that no condition can tell from the one it asks for: equal to every text, found by every pattern."""


class _Parser(ConditionParser):
    TOKEN = re.compile(
        r"""\s*(?:
          (?P<op>\|\||&&|==|!=|=~|!~|!|\(|\))
        | (?P<name>\$[A-Za-z0-9_]+)
        | (?P<text>"[^"\n]*"|'[^'\n]*')
        | (?P<pattern>/(?:[^/\\]|\\.)+/[A-Za-z]*)
        | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
        | (?P<end>$)
        )""",
        re.VERBOSE | re.DOTALL,
    )
    WORDS: ClassVar[Mapping[str, Value]] = {"null": None, "true": True, "false": False}
    unary = Parser.unary

    def right(self, operator: str, least: int) -> Condition:
        if self.kind != "pattern":
            return self.binary(least)
        if self.token[2:].startswith("/"):
            why = f"GitLab refuses {self.token}: a pattern has two characters or more, such as /[v]/ for /v/"
            raise InvalidExpression(why, self.start)
        return self.pattern(compile_pattern)

    def unquoted(self, token: str) -> str:
        return token[1:-1]

    def truth(self, holds: bool) -> Value:
        return holds

    @staticmethod
    def present(value: Value) -> bool:
        return bool(value.strip()) if isinstance(value, str) else bool(value)

    def joined(self, operator: str, operands: Sequence[Condition]) -> Condition:
        """Return the operand that decides, as Ruby does: also an empty text is true."""
        goes_on = operator == "&&"

        def value(variables: Mapping[str, str]) -> Value:
            found: Value = goes_on
            for operand in operands:
                found = operand(variables)
                if (found is not None and found is not False) is not goes_on:
                    break
            return found

        return value

    def equal(self, left: Value, right: Value) -> bool:
        """Compare two values; a truth value and a text by their texts."""
        if isinstance(left, Anything) or isinstance(right, Anything):
            return bool(left and right)
        if isinstance(left, bool) and isinstance(right, str):
            return str(left).lower() == right
        if isinstance(left, str) and isinstance(right, bool):
            return left == str(right).lower()
        return left == right

    def found(self, left: Value, right: Value) -> bool:
        """Search what a variable holds: a `/pattern/flags`, or a text that has the value in it."""
        if isinstance(left, Anything) or isinstance(right, Anything):
            return True
        text = left if isinstance(left, str) else "" if left is None else str(left).lower()
        try:
            pattern = compile_pattern(right) if isinstance(right, str) else right
        except PatternError:
            return text in str(right)
        return isinstance(pattern, Pattern) and pattern.found_in(text)


@lru_cache(maxsize=1024)  # cached: each job that extends a template has its conditions
def parse(text: str) -> Condition:
    """Parse a condition. InvalidExpression names a valid form."""
    parser = _Parser(text)
    if sum(1 for _ in parser.TOKEN.finditer(parser.text)) > MOST_TOKENS + 1:  # the last one is the end
        why = f"the condition has more than {MOST_TOKENS} names, texts, operators and parentheses; write several rules"
        raise InvalidExpression(why)
    return parser.whole()


def holds(text: str, variables: Mapping[str, str]) -> bool:
    """Evaluate a condition with these variables. SearchError when a pattern search takes too long."""
    return _Parser.present(parse(text)(variables))


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
    return patterns.pattern_of(source, given, written, wider=True)


_CALLED = {"reference": "back-references", "around": "lookaround", "possessive": "possessive repeats"}
