"""Conditions of both dialects, written from random trees, hold what a model of the tree's meaning says."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loom.workflow import expressions
from loom.workflow.gitlab import conditions
from loom.workflow.parser import InvalidExpression
from tests.support.effort import fuzzed

Environment = Mapping[str, str]
Meaning = Callable[[Environment], Any]
Written = tuple[str, Meaning]
"""A text, and its value: a text, None or a truth value."""

NAMES = ("A", "B", "_c1")
VALUES = st.none() | st.sampled_from(("", " ", "x", "main", "true", "a/b", "/ma/", "/MA/i", "(", "a\nmain"))
PATTERNS = ("/^ma/", "/MA/i", r"/a\/b/", "/^x$|n$/", "/^main$/m", r"/\s/")
LETTERS = st.text(alphabet="xa/ n=&|!()$", max_size=4)


class Loom:
    """The workflow language: an operand holds when it is a text that is not empty; a part that holds has the value `true`."""

    parse, holds = staticmethod(expressions.parse), staticmethod(expressions.holds)
    braces, chained = True, False

    @staticmethod
    def quoted(text: str) -> str:
        return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'

    @staticmethod
    def value(truth: bool) -> Any:
        return "true" if truth else None

    @staticmethod
    def present(value: Any) -> bool:
        return bool(value)

    def joined(self, operator: str, values: list[Any]) -> Any:
        return self.value((all if operator == "&&" else any)(map(self.present, values)))

    @staticmethod
    def found(left: Any, right: Any) -> bool:
        if left is None or right is None:
            return False
        written = right if re.fullmatch(r"/.+/[a-z]*", right, re.DOTALL) else f"/{right}/"
        try:
            return searched(written, left)
        except re.error:
            return False


class GitLab(Loom):
    """GitLab: a blank text does not hold, `&&` and `||` return an operand, and comparisons are chained."""

    parse, holds = staticmethod(conditions.parse), staticmethod(conditions.holds)
    braces, chained = False, True

    @staticmethod
    def quoted(text: str) -> str:
        return f'"{text}"'

    @staticmethod
    def value(truth: bool) -> Any:
        return truth

    @staticmethod
    def present(value: Any) -> bool:
        return bool(value.strip()) if isinstance(value, str) else bool(value)

    def joined(self, operator: str, values: list[Any]) -> Any:
        first, *others = values
        for value in others:
            goes_on = (first is not None and first is not False) is (operator == "&&")
            first = value if goes_on else first
        return first

    @staticmethod
    def found(left: Any, right: Any) -> bool:
        text = "" if left is None else left if isinstance(left, str) else str(left).lower()
        if not isinstance(right, str):
            return False
        if not re.fullmatch(r"/(?:[^/\\]|\\.)+/[ismU]*", right, re.DOTALL):
            return text in right
        try:
            return searched(right, text)
        except re.error:
            return text in right


def searched(written: str, text: str) -> bool:
    source, _, flags = written[1:].rpartition("/")
    if "m" not in flags:
        source = source.replace("$", r"\Z")
    given = [getattr(re, flag.upper()) for flag in flags]
    return re.search(source, text, sum(map(int, given))) is not None


@st.composite
def operands(draw: st.DrawFn, dialect: Loom, depth: int) -> Written:
    match draw(st.integers(0, 3 if depth else 2)):
        case 0:
            name = draw(st.sampled_from(NAMES))
            braced = dialect.braces and draw(st.booleans())
            return f"${{{name}}}" if braced else f"${name} ", lambda values: values.get(name)
        case 1:
            text = draw(LETTERS)
            return dialect.quoted(text), lambda _: text
        case 2:
            return "null", lambda _: None
        case _:
            text, value = draw(conditions_of(dialect, depth - 1))
            return f"({text})", value


@st.composite
def comparisons(draw: st.DrawFn, dialect: Loom, depth: int) -> Written:
    text, value = draw(operands(dialect, depth))
    for _ in range(draw(st.integers(0, 2 if dialect.chained else 1))):
        operator = draw(st.sampled_from(("==", "!=", "=~", "!~")))
        if operator in ("==", "!="):
            other, right = draw(operands(dialect, depth))
            equal = lambda values, left=value, right=right: left(values) == right(values)  # noqa: E731
        elif draw(st.booleans()):
            other = draw(st.sampled_from(PATTERNS))
            equal = lambda values, left=value, pattern=other: dialect.found(left(values), pattern)  # noqa: E731
        else:
            name = draw(st.sampled_from(NAMES))
            other = f"${name}"
            equal = lambda values, left=value, name=name: dialect.found(left(values), values.get(name))  # noqa: E731
        positive = operator[0] == "="
        text = f"{text} {operator}{other}"
        value = lambda values, equal=equal, positive=positive: dialect.value(equal(values) is positive)  # noqa: E731
    return text, value


@st.composite
def unaries(draw: st.DrawFn, dialect: Loom, depth: int) -> Written:
    negations = draw(st.integers(0, 2))
    if not negations:
        return draw(comparisons(dialect, depth))
    text, value = draw(operands(dialect, depth))
    wanted = negations % 2 == 0
    return "!" * negations + text, lambda values: dialect.value(dialect.present(value(values)) is wanted)


@st.composite
def conditions_of(draw: st.DrawFn, dialect: Loom, depth: int = 2) -> Written:
    """Without parentheses, && binds more strongly than ||."""
    either = []
    for _ in range(draw(st.integers(1, 3))):
        both = draw(st.lists(unaries(dialect, depth), min_size=1, max_size=3))
        either.append((" && ".join(text for text, _ in both), [value for _, value in both]))

    def value(values: Environment) -> Any:
        parts = [
            found[0] if len(found) == 1 else dialect.joined("&&", found)
            for found in ([each(values) for each in both] for _, both in either)
        ]
        return parts[0] if len(parts) == 1 else dialect.joined("||", parts)

    return "||".join(text for text, _ in either), value


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [Loom(), GitLab()], ids=["loom", "gitlab"])
@fuzzed(40, 5000)
@given(data=st.data(), values=st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)))
def test_a_condition_holds_what_its_tree_means(
    dialect: Loom, data: st.DataObject, values: dict[str, str | None]
) -> None:
    text, value = data.draw(conditions_of(dialect))
    given = {name: value for name, value in values.items() if value is not None}
    try:
        dialect.parse(text)
    except InvalidExpression as error:
        assume("has more than 99 names" not in str(error))
        raise
    assert dialect.holds(text, given) is dialect.present(value(given)), text
