"""Conditions of rules: what GitLab documents, and what its parser does at the edges."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.workflow.expressions import MAX_LENGTH
from loom.workflow.gitlab import conditions
from loom.workflow.parser import InvalidExpression
from loom.workflow.patterns import PatternError
from tests.support.effort import fuzzed

HOLDS = [
    # a variable alone
    ("$A", {"A": "x"}, True),
    ("$A", {"A": ""}, False),
    ("$A", {"A": " \t"}, False),
    ("$A", {}, False),
    ("$A", {"A": "false"}, True),
    ('"text"', {}, True),
    ("null", {}, False),
    # comparison
    ('$A == "x"', {"A": "x"}, True),
    ("$A == 'x'", {"A": "y"}, False),
    ('"x" == $A', {"A": "x"}, True),
    ("$A == $B", {"A": "1", "B": "1"}, True),
    ("$A == $B", {}, True),
    ("$A == null", {}, True),
    ("$A == null", {"A": ""}, False),
    ('$A == ""', {"A": ""}, True),
    ('$A == ""', {}, False),
    ('$A != "x"', {}, True),
    ("$A != null", {"A": "x"}, True),
    (r'$A == "a\b"', {"A": r"a\b"}, True),
    ('$A=="x"&&$B=="y"', {"A": "x", "B": "y"}, True),
    ("$A == $B == $C", {"A": "1", "B": "1", "C": "true"}, True),
    # truth values, which are compared with texts by their texts
    ("true", {}, True),
    ("false", {}, False),
    ("$A == true", {"A": "true"}, True),
    ("false != $A", {"A": "false"}, False),
    ("$A == false", {}, False),
    ('!$A == "false"', {"A": "x"}, True),
    ('($A) == "x"', {"A": "x"}, True),
    ("$A != !!$A", {"A": "true"}, False),
    ("$A =~ /x+/ == true", {"A": "x"}, True),
    ("!$A =~ /^tr/", {}, True),
    ("$A == /x+/", {"A": "x"}, False),
    ("$1A == null", {}, True),
    # patterns
    ("$A =~ /^feat/", {"A": "feature"}, True),
    ("$A =~ /^feat/", {"A": "a\nfeature"}, False),
    ("$A =~ /^feat/m", {"A": "a\nfeature"}, True),
    ("$A =~ /FEAT/i", {"A": "feature"}, True),
    ("$A =~ /a.b/", {"A": "a\nb"}, False),
    ("$A =~ /a.b/s", {"A": "a\nb"}, True),
    ("$A =~ /a+/Ui", {"A": "A"}, True),
    ("$A !~ /x+/", {"A": "y"}, True),
    ("$A =~ /x+/", {}, False),
    ("$A !~ /x+/", {}, True),
    ("$A =~ /^$/", {}, True),
    (r"$A =~ /^v\d+$/", {"A": "v1\n"}, False),
    (r"$A =~ /v\d+\z/", {"A": "v1"}, True),
    (r"$A =~ /^a\/b$/", {"A": "a/b"}, True),
    ("$A =~ /[$]$/", {"A": "x$"}, True),
    (r"$A =~ /\$/", {"A": "x$"}, True),
    ("$A =~ /^[[:alpha:]]+$/", {"A": "abc"}, True),
    ("$A =~ /(?i)^MAIN$/", {"A": "main"}, True),
    (r"$A =~ /^\p{Lu}/", {"A": "Ä"}, True),
    ("$A =~ /^b$/", {"A": "a\nb\nc"}, False),
    ("$A =~ /^b$/m", {"A": "a\nb\nc"}, True),
    ("$A =~ /(?m)^b$/", {"A": "a\nb\nc"}, True),
    ("$A =~ /(?im)^B$/", {"A": "a\nb\nc"}, True),
    ("$A =~ /a.b/", {"A": "a\nb"}, False),
    ("$A =~ /a.b/s", {"A": "a\nb"}, True),
    ("$A =~ /^A$/iU", {"A": "a"}, True),
    ("$A =~ /^A$/U", {"A": "a"}, False),
    # a pattern in a variable; a text that is no pattern must be in the value
    ("$A =~ $P", {"A": "main", "P": "/^MA/i"}, True),
    ("$A !~ $P", {"A": "main", "P": "/^x/"}, True),
    ("$A =~ $P", {"A": "main", "P": "^ma"}, False),
    ("$A =~ $P", {"A": "main", "P": "xxmainxx"}, True),
    ("$A =~ $P", {"A": "main"}, False),
    ("$A =~ true", {"A": "true"}, False),
    ("$A !~ !$A", {"A": "main"}, True),
    ("$A !~ $P", {"A": "main"}, True),
    ("$A =~ $P", {"A": "a", "P": "/(/"}, False),
    # and, or, not, parentheses
    ("$A && $B || $C", {"C": "1"}, True),
    ("$A && ($B || $C)", {"C": "1"}, False),
    ("$A || $B && $C", {"A": "1"}, True),
    ("$A == null && $B == null", {}, True),
    ("$A || $B", {"A": "", "B": "x"}, False),  # an empty text is true for ||, which returns it
    ("$A && $B", {"A": "", "B": "x"}, True),
    ("!$A", {}, True),
    ("!($A == 'x')", {"A": "x"}, False),
    ("((($A)))", {"A": "1"}, True),
    ('$A == "x"\n  && $B', {"A": "x", "B": "1"}, True),
]


@pytest.mark.parametrize(("text", "variables", "expected"), HOLDS)
def test_a_condition_holds_as_in_gitlab(text: str, variables: dict[str, str], expected: bool) -> None:
    assert conditions.holds(text, variables) is expected


@pytest.mark.parametrize(
    ("position", "text", "message"),
    [
        (0, "", "ends where"),
        (0, "${A}", "can't stand here"),
        (3, "$A = 1", "compare with =="),
        (3, "$A & $B", "write &&"),
        (6, "$A == yes", 'a text "yes"'),
        (5, "$A ==", "ends where"),
        (3, "$A $B", "expected && or ||"),
        (3, "($A", "ends where ) is expected"),
        (2, "$A)", "&& or || or the end"),
        (6, '$A == "x', "no closing"),
        (6, "$A =~ /x", "no closing /"),
        (6, "$A =~ /xy/gi", "unknown pattern flag g"),
        (6, "$A =~ /xy/igh", "unknown pattern flag g; GitLab's flags are i, s, m and U"),
        (6, "$A =~ /(?!x)/", "no lookaround"),
        (6, r"$A =~ /(a)\1/", "no back-references"),
        (6, "$A =~ /a++/", "no possessive repeats"),
        (6, "$A =~ /x(/", "not a pattern"),
        (6, "$A == 1", "can't stand here"),
        (0, "/x/", "needs =~"),
        (0, "$" + "A" * 5000, "more than 4096"),
        (0, "(" * 50 + "$A" + ")" * 50, "the condition has more than 99 names"),
        (6, "$A =~ /x/", "GitLab refuses /x/: a pattern has two characters or more"),
        (0, " || ".join(["$A"] * 51), "the condition has more than 99 names"),
    ],
)
def test_a_condition_that_gitlab_refuses_is_refused_with_a_valid_form(position: int, text: str, message: str) -> None:
    with pytest.raises(InvalidExpression, match=re.escape(message)) as refused:
        conditions.parse(text)
    assert refused.value.position == position


def test_a_condition_may_be_so_long() -> None:
    text = '$A == "' + "x" * (MAX_LENGTH - 8) + '"'
    assert conditions.holds(text, {"A": text[7:-1]})


PIECES = [
    "$A",
    "$",
    "${A}",
    "==",
    "!=",
    "=~",
    "!~",
    "&&",
    "||",
    "!",
    "(",
    ")",
    '"x"',
    "'",
    "/a/",
    "/",
    "null",
    "i",
    " ",
]


@fuzzed(300)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40), st.text(max_size=10))
def test_any_text_is_a_condition_or_is_refused(text: str, value: str) -> None:
    try:
        conditions.parse(text)
    except InvalidExpression:
        return
    assert conditions.holds(text, {"A": value}) in (True, False)


@fuzzed(200)
@given(st.text(alphabet="ab.*+?()[]{}|^$\\/1dzPp<>:=!im", max_size=20), st.text(alphabet="ab/\n", max_size=8))
def test_any_pattern_of_a_variable_searches_or_is_a_text(pattern: str, value: str) -> None:
    assert conditions.holds("$V =~ $P", {"V": value, "P": f"/{pattern}/"}) in (True, False)


def test_a_text_without_slashes_is_no_pattern() -> None:
    with pytest.raises(PatternError, match="between slashes"):
        conditions.compile_pattern("main")
