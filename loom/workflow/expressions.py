"""Conditions: the language of `if:` in rules.

    expression = and { "||" and }        and = unary { "&&" unary }        unary = "!" { "!" } operand | comparison
    comparison = operand [ ("==" | "!=") operand | ("=~" | "!~") (/pattern/flags | operand) ]
    operand    = $NAME | ${NAME} | "text" | 'text' | null | "(" expression ")"

A name without a value is null. Alone, an operand holds when it is neither null nor empty; a part that holds has the value
`true`, else null. `parse` and `holds` are pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

from loom.workflow.parser import InvalidExpression, Parser
from loom.workflow.patterns import Pattern, PatternError, compile_pattern

MAX_LENGTH = 4096
_OPERAND = "a variable, a text in quotes, null or ("

Value = str | bool | Pattern | None
Condition = Callable[[Mapping[str, str]], Value]
"""Return the value of a condition, or of a part of it, with these variables. SearchError when a pattern search takes too long."""


@lru_cache(maxsize=1024)  # cached: each job that extends a template has its conditions
def parse(text: str) -> Condition:
    """Parse a condition. InvalidExpression names a valid form."""
    return ConditionParser(text).whole()


def holds(text: str, variables: Mapping[str, str]) -> bool:
    """Evaluate a condition with these variables. SearchError when a pattern search takes too long."""
    return ConditionParser.present(parse(text)(variables))


def names(text: str) -> Iterator[str]:
    """Return every variable that a condition reads."""
    return (found["name"].strip("${}") for found in ConditionParser.TOKEN.finditer(text) if found["name"])


class ConditionParser(Parser[Condition]):
    """The conditions of loom and of GitLab, which overrides the parts in which it differs."""

    CALLED = "condition"
    MAX_LENGTH = MAX_LENGTH
    TOKEN = re.compile(
        r"""\s*(?:
          (?P<op>\|\||&&|==|!=|=~|!~|!|\(|\))
        | (?P<name>\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\}))
        | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
        | (?P<pattern>/(?:[^/\\]|\\.)+/[a-z]*)
        | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
        | (?P<end>$)
        )""",
        re.VERBOSE | re.DOTALL,
    )
    UNREADABLE: ClassVar[Mapping[str, str]] = {
        '"': 'the text that starts here has no closing "',
        "'": "the text that starts here has no closing '",
        "/": "the pattern that starts here has no closing /",
        "=": "compare with == (or =~ for a pattern)",
        "&": "write &&",
        "|": "write ||",
    }
    RANKS: ClassVar[Mapping[str, int]] = {"||": 0, "&&": 1, "==": 2, "!=": 2, "=~": 2, "!~": 2}
    WORDS: ClassVar[Mapping[str, Value]] = {"null": None}

    def unexpected(self, wanted: str) -> InvalidExpression:
        error = super().unexpected(wanted)
        hint = f'; a variable is ${self.token}, a text "{self.token}"' if self.kind == "word" else ""
        return InvalidExpression(f"{error}{hint}", error.position)

    def unary(self) -> Condition:
        negated = self.token == "!"
        made = super().unary()
        if negated and self.RANKS.get(self.token) == 2:
            why = f"put what ! applies to in parentheses: !(... {self.token} ...)"
            raise InvalidExpression(why, self.start)
        return made

    def right(self, operator: str, least: int) -> Condition:
        if self.kind == "pattern" and operator in ("==", "!="):
            raise InvalidExpression(f"a pattern is compared with {operator[0]}~", self.start)
        if self.kind == "text" and operator in ("=~", "!~"):
            raise InvalidExpression("a pattern stands between slashes: /^release/", self.start)
        if self.token == "!":
            raise self.unexpected(_OPERAND)
        made = self.pattern(compile_pattern) if self.kind == "pattern" else self.binary(least)
        if self.RANKS.get(self.token) == 2:
            raise self.unexpected("&& or || or the end")
        return made

    def pattern(self, compiled: Callable[[str], Pattern]) -> Condition:
        try:
            pattern = compiled(self.token)
        except PatternError as error:
            raise InvalidExpression(str(error), self.start) from error
        self.advance()
        return lambda _: pattern

    def value(self) -> Condition:
        kind, token = self.kind, self.token
        if kind == "pattern":
            raise InvalidExpression("a pattern needs =~ or !~ before it", self.start)
        if kind not in ("name", "text") and token not in self.WORDS:
            raise self.unexpected(_OPERAND)
        self.advance()
        if kind == "name":
            name = token.strip("${}")
            return lambda variables: variables.get(name)
        value = self.unquoted(token) if kind == "text" else self.WORDS[token]
        return lambda _: value

    def unquoted(self, token: str) -> str:
        return re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL)

    # -- the meaning --------------------------------------------------------------------------------------------------

    def operation(self, operator: str, operands: Sequence[Condition]) -> Condition:
        if operator in ("&&", "||"):
            return self.joined(operator, operands)
        if operator == "!":
            (operand,) = operands
            return lambda variables: self.truth(not self.present(operand(variables)))
        left, right = operands
        matches, wanted = self.equal if operator[1] == "=" else self.found, operator[0] == "="
        return lambda variables: self.truth(matches(left(variables), right(variables)) is wanted)

    def truth(self, holds: bool) -> Value:
        return "true" if holds else None

    @staticmethod
    def present(value: Value) -> bool:
        return bool(value)

    def joined(self, operator: str, operands: Sequence[Condition]) -> Condition:
        all_or_any = all if operator == "&&" else any
        return lambda variables: self.truth(all_or_any(self.present(operand(variables)) for operand in operands))

    def equal(self, left: Value, right: Value) -> bool:
        return left == right

    def found(self, left: Value, right: Value) -> bool:
        """Search a pattern. A variable holds `/pattern/flags`, or the pattern alone; an invalid one matches nothing."""
        if isinstance(right, str):
            try:
                right = compile_pattern(right if re.fullmatch(r"/.+/[a-z]*", right, re.DOTALL) else f"/{right}/")
            except PatternError:
                return False
        return isinstance(left, str) and isinstance(right, Pattern) and right.found_in(left)
