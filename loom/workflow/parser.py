"""The parser of every language of expressions: a pattern of tokens, a table of operators, and what a language makes of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, TypeVar

MAX_DEPTH = 50
"""Levels of nesting."""
Made = TypeVar("Made")


class InvalidExpression(ValueError):
    """An invalid expression, or one that can't be evaluated; `position` is an offset into its text."""

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


class Parser(ABC, Generic[Made]):
    """Parse by precedence. `token` is the present token, `kind` its group in TOKEN, `start` its offset."""

    CALLED: ClassVar[str]
    MAX_LENGTH: ClassVar[int]
    TOKEN: ClassVar[re.Pattern[str]]
    """Has the groups `op` and `end`, and those of the language's operands."""
    UNREADABLE: ClassVar[Mapping[str, str]]
    """The mistake, by the character that begins no token."""
    RANKS: ClassVar[Mapping[str, int]]
    """The operators between operands, each with its rank: 0 of `||`, 1 of `&&`, 2 or more of those that compare two."""

    def __init__(self, text: str) -> None:
        if len(text) > self.MAX_LENGTH:
            raise InvalidExpression(f"the {self.CALLED} has more than {self.MAX_LENGTH} characters")
        self.text, self.end, self.depth = text.rstrip(), 0, 0
        self.advance()

    def advance(self) -> None:
        found = self.TOKEN.match(self.text, self.end)
        if found is None:
            rest = self.text[self.end :].lstrip()
            why = self.UNREADABLE.get(rest[0], f"{rest[0]!r} can't stand here")
            raise InvalidExpression(why, len(self.text) - len(rest))
        self.kind = str(found.lastgroup)
        self.token, self.start, self.end = found[self.kind], found.start(self.kind), found.end()

    def take(self, operator: str) -> bool:
        """Pass this operator, if it is the present token."""
        found = self.token == operator
        if found:
            self.advance()
        return found

    def expect(self, operator: str) -> None:
        if not self.take(operator):
            raise self.unexpected(operator)

    def unexpected(self, wanted: str) -> InvalidExpression:
        if not self.token:
            return InvalidExpression(f"the {self.CALLED} ends where {wanted} is expected", self.start)
        return InvalidExpression(f"expected {wanted}, found {self.token}", self.start)

    def whole(self) -> Made:
        made = self.binary()
        if self.token:
            raise self.unexpected("&& or || or the end")
        return made

    def binary(self, least: int = 0) -> Made:
        """Parse operands with the operators between them, as far as those have this rank or a higher one."""
        made = self.unary()
        while (rank := self.RANKS.get(self.token, -1)) >= least:
            operator, operands = self.token, [made]
            if rank < 2:
                while self.take(operator):
                    operands.append(self.binary(rank + 1))
            else:
                self.advance()
                operands.append(self.right(operator, rank + 1))
            made = self.operation(operator, operands)
        return made

    def right(self, operator: str, least: int) -> Made:
        """Parse what stands to the right of an operator that compares."""
        return self.binary(least)

    def unary(self) -> Made:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise InvalidExpression(f"the {self.CALLED} is nested more than {MAX_DEPTH} levels deep", self.start)
        made = self.operation("!", [self.unary()]) if self.take("!") else self.operand()
        self.depth -= 1
        return made

    def operand(self) -> Made:
        if not self.take("("):
            return self.value()
        made = self.binary()
        self.expect(")")
        return made

    @abstractmethod
    def operation(self, operator: str, operands: Sequence[Made]) -> Made:
        """Return what an operator makes: `!` of one operand, `||` and `&&` of two or more, the others of two."""

    @abstractmethod
    def value(self) -> Made:
        """Parse an operand that is no expression in parentheses."""
