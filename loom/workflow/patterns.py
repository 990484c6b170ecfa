"""The patterns of conditions: Python's own, and what it may cost to look for one.

Python's matcher goes back and tries again, so that a pattern can take very long on a value that is made for it. What could
take exponential time is refused when it is read. What is left takes polynomial time, and where that would be too much for the
value at hand, the match is refused before it begins. (A matcher that never goes back, such as RE2, needs neither; but it
has no lookaround, and no binaries for every system that the rest of loom runs on.)
"""

from __future__ import annotations

import re
import re._constants as c  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import comb, prod
from typing import Any

from msgspec import Struct

MAX_STEPS = 100_000_000
"""Ways to lay a pattern over a value that may have to be tried. To try them all takes a second, or a few."""

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}
_FEW = 8
"""A repeat of at most so many rounds is as good as its rounds written one after the other."""
_SAMPLES = (9, 10, 13, *range(0x20, 0x7F), 0xA0, 0xC4, 0xDF, 0xE9, 0x3BB, 0x416, 0x661, 0x2028, 0x4E2D, 0x1F600)
"""Characters to try whether two parts of a pattern have one in common."""

Item = tuple[Any, Any]


class PatternError(ValueError):
    """What is wrong with a pattern as written."""


class ValueTooLong(ValueError):
    """A value for which it could take very long to tell whether the pattern is in it."""


class Pattern(Struct, frozen=True, kw_only=True):
    source: str
    """As written: `/pattern/flags`."""
    regex: re.Pattern[str]
    open_ended: int
    """How many parts may take any amount of the value while nothing says where one ends."""
    choices: int
    """In how many ways the parts of limited length can be chosen."""
    begins_with: str | None
    """Every match begins with this text, in lower case; None: at the value's beginning only."""

    def found_in(self, value: str) -> bool:
        """ValueTooLong when finding out could take very long."""
        if self.steps(value) > MAX_STEPS:
            raise ValueTooLong(
                f"looking for {self.source} in a value of {len(value)} characters could take very long; "
                "begin the pattern with ^, or use fewer of .* and the like"
            )
        return self.regex.search(value) is not None

    def steps(self, value: str) -> int:
        """In how many ways the pattern can be laid over the value, at most."""
        length, parts = len(value), self.open_ended
        if self.begins_with == "":
            ways = comb(length + parts + 1, parts + 1)
        else:
            starts = 1 if self.begins_with is None else value.lower().count(self.begins_with)
            ways = starts * comb(length + parts, parts)
        return ways * self.choices


@lru_cache(maxsize=256)
def compile_pattern(token: str) -> Pattern:
    """The pattern of `/pattern/flags`. PatternError for what is none, and for what could take exponential time."""
    source, _, letters = token[1:].rpartition("/")
    flags = re.RegexFlag(0)
    for letter in letters:
        if letter not in _FLAGS:
            raise PatternError(f"there is no pattern flag {letter}; the flags are i, m and s")
        flags |= _FLAGS[letter]
    source = source.replace("\\/", "/")
    try:
        items = list(parser.parse(source, flags))
        cost = _Cost(any_case=bool(flags & re.IGNORECASE) or "(?" in source, lines=bool(flags & re.MULTILINE))
        if cost.may_explode(items):
            raise PatternError("repeats inside repeats, such as (a+)+, can take forever; write the pattern without")
        vague, exact, limited = cost.of(items, [])
        return Pattern(
            source=token,
            regex=re.compile(source, flags),
            open_ended=vague + bool(exact),
            choices=prod(limited),
            begins_with=cost.begin(items),
        )
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a pattern: {error}") from error


class _Cost(Struct, frozen=True):
    any_case: bool
    """A letter stands for both of its cases (or may, for all that one can tell)."""
    lines: bool
    """`^` and `$` are at every line."""

    # -- exponential: never

    def may_explode(self, items: Iterable[Item], *, inside_repeat: bool = False) -> bool:
        """Whether matching may take exponential time: an open-ended repeat inside a repeat, or a back reference.

        `(\\.[0-9]+)*` is fine: a literal that nothing else in the repeat can match marks where each round begins (or ends).
        """
        for operator, argument in items:
            match operator:
                case c.GROUPREF | c.GROUPREF_EXISTS:
                    return True
                case c.MAX_REPEAT | c.MIN_REPEAT | c.POSSESSIVE_REPEAT:
                    least, most, body = argument
                    if inside_repeat and least != most:
                        return True
                    inside = (inside_repeat or most > _FEW) and not self.delimited(list(body))
                    if self.may_explode(body, inside_repeat=inside):
                        return True
                case c.BRANCH:
                    if inside_repeat and not self.distinct(argument[1]):
                        return True
                    if any(self.may_explode(branch, inside_repeat=inside_repeat) for branch in argument[1]):
                        return True
                case c.SUBPATTERN | c.ASSERT | c.ASSERT_NOT | c.ATOMIC_GROUP:
                    if self.may_explode(_inner(operator, argument), inside_repeat=inside_repeat):
                        return True
                case _:
                    pass
        return False

    def delimited(self, body: list[Item]) -> bool:
        if len(body) == 1 and body[0][0] is c.SUBPATTERN:
            return self.delimited(list(body[0][1][-1]))
        for edge, others in ((body[:1], body[1:]), (body[-1:], body[:-1])):
            if edge and edge[0][0] is c.LITERAL and not any(self.can_match(item, edge[0][1]) for item in others):
                return True
        return False

    def distinct(self, branches: Any) -> bool:
        """Whether the first character tells which branch a text takes."""
        firsts: list[Item] = [branch[0] for branch in branches if len(branch)]
        literals = [argument for operator, argument in firsts if operator is c.LITERAL]
        if len(literals) < len(firsts) - 1 or len(firsts) < len(branches):
            return False
        return all(sum(self.can_match(first, code) for first in firsts) == 1 for code in literals)

    # -- polynomial: as long as the value is short enough

    def of(self, items: Sequence[Item], rest: list[Item]) -> tuple[int, int, list[int]]:
        """What can be laid over a value in several ways: how many parts that end anywhere, how many whose end the next
        character tells (all of them together cost as much as one), and the numbers of choices of limited parts.

        `rest` is what follows. What nothing follows costs nothing: it has matched, and is never asked for less.
        """
        vague, exact, limited = 0, 0, list[int]()
        for number, (operator, argument) in enumerate(items):
            after = [*items[number + 1 :], *rest]
            match operator:
                case c.MAX_REPEAT | c.MIN_REPEAT | c.POSSESSIVE_REPEAT:
                    least, most, body = argument
                    again = [(c.MAX_REPEAT, (0, 1, body)), *after] if most > 1 else after
                    inner = self.of(list(body), again)
                    rounds = most if most <= _FEW else 1
                    vague, exact, limited = vague + inner[0] * rounds, exact + inner[1], limited + inner[2] * rounds
                    if least == most or not after:
                        continue
                    if self.tells(body, after):
                        exact += most > _FEW
                    elif most > _FEW:
                        vague += 1
                    else:
                        limited.append(most - least + 1)
                case c.BRANCH:
                    inners = [self.of(list(branch), after) for branch in argument[1]]
                    vague += max(inner[0] for inner in inners)
                    exact += max(inner[1] for inner in inners)
                    limited.append(
                        max(prod(inner[2]) for inner in inners) * (1 if self.distinct(argument[1]) else len(inners))
                    )
                case c.SUBPATTERN:
                    inner = self.of(list(argument[-1]), after)
                    vague, exact, limited = vague + inner[0], exact + inner[1], limited + inner[2]
                case c.ASSERT | c.ASSERT_NOT | c.ATOMIC_GROUP:
                    inner = self.of(list(_inner(operator, argument)), [])
                    vague, exact, limited = vague + inner[0], exact + inner[1], limited + inner[2]
                case _:
                    pass
        return vague, exact, limited

    def tells(self, body: Iterable[Item], after: list[Item]) -> bool:
        """Whether the next character tells that a repeat of `body` is over, since no other round begins with that one."""
        own = [code for code in _SAMPLES if self.can_begin(body, code)]
        for item in after:
            if item[0] is c.AT and item[1] in (c.AT_END, c.AT_END_STRING):
                return not self.lines
            if any(self.can_begin([item], code) for code in own):
                return False
            if not _may_be_empty(item):
                return True
        return True

    def can_begin(self, items: Iterable[Item], code: int) -> bool:
        """Whether what these match may begin with this character."""
        for item in items:
            operator, argument = item
            match operator:
                case c.AT | c.ASSERT | c.ASSERT_NOT:
                    found = False
                case c.MAX_REPEAT | c.MIN_REPEAT | c.POSSESSIVE_REPEAT:
                    found = self.can_begin(argument[2], code)
                case c.SUBPATTERN | c.ATOMIC_GROUP:
                    found = self.can_begin(_inner(operator, argument), code)
                case c.BRANCH:
                    found = any(self.can_begin(branch, code) for branch in argument[1])
                case _:
                    found = self.can_match(item, code)
            if found:
                return True
            if not _may_be_empty(item):
                return False
        return False

    def begin(self, items: list[Item]) -> str | None:
        """The text that every match begins with, in lower case; None: each is at the value's beginning."""
        if items and items[0][0] is c.AT and items[0][1] in (c.AT_BEGINNING, c.AT_BEGINNING_STRING):
            return "" if self.lines and items[0][1] is c.AT_BEGINNING else None
        text = ""
        for operator, argument in items:
            if operator is not c.LITERAL or argument > 0x7F:
                break
            text += chr(argument).lower()
        return text

    # -- characters

    def can_match(self, item: Item, code: int) -> bool:
        """Whether a part of a pattern may match a text that holds this character."""
        if self.any_case:
            cases = {ord(one) for one in (chr(code), chr(code).lower(), chr(code).upper()) if len(one) == 1}
            return any(_can_match(item, one) for one in cases)
        return _can_match(item, code)


def _can_match(item: Item, code: int) -> bool:
    operator, argument = item
    match operator:
        case c.LITERAL:
            return bool(argument == code)
        case c.NOT_LITERAL:
            return bool(argument != code)
        case c.RANGE:
            return bool(argument[0] <= code <= argument[1])
        case c.CATEGORY:
            known = {
                c.CATEGORY_DIGIT: chr(code).isdigit(),
                c.CATEGORY_WORD: chr(code).isalnum() or code == ord("_"),
                c.CATEGORY_SPACE: chr(code).isspace(),
            }
            return known.get(argument, True)
        case c.IN:
            if argument[0][0] is c.NEGATE:
                return not any(_can_match(part, code) for part in argument[1:])
            return any(_can_match(part, code) for part in argument)
        case c.MAX_REPEAT | c.MIN_REPEAT | c.POSSESSIVE_REPEAT:
            return any(_can_match(part, code) for part in argument[2])
        case c.SUBPATTERN:
            return any(_can_match(part, code) for part in argument[-1])
        case c.ATOMIC_GROUP:
            return any(_can_match(part, code) for part in argument)
        case c.BRANCH:
            return any(_can_match(part, code) for branch in argument[1] for part in branch)
        case c.AT:
            return False
        case _:
            return True


def _inner(operator: Any, argument: Any) -> Any:
    return argument if operator is c.ATOMIC_GROUP else argument[-1]


def _may_be_empty(item: Item) -> bool:
    operator, argument = item
    match operator:
        case c.MAX_REPEAT | c.MIN_REPEAT | c.POSSESSIVE_REPEAT:
            return argument[0] == 0 or all(_may_be_empty(part) for part in argument[2])
        case c.BRANCH:
            return any(all(_may_be_empty(part) for part in branch) for branch in argument[1])
        case c.SUBPATTERN | c.ATOMIC_GROUP:
            return all(_may_be_empty(part) for part in _inner(operator, argument))
        case c.AT | c.ASSERT | c.ASSERT_NOT:
            return True
        case _:
            return False
