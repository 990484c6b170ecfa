"""Conditions, as a table."""

import time

import pytest

from loom.workflow import patterns
from loom.workflow.expressions import holds, names, parse
from loom.workflow.parser import InvalidExpression
from loom.workflow.patterns import SearchError

VALUES = {
    "A": "x",
    "B": "",
    "BRANCH": "release/1.2",
    "TAG": "v1.2.3",
    "PATTERN": "/^REL/i",
    "PLAIN": "^rel",
    "BROKEN": "/(/",
    "N": "10",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", True),
        ("${A}", True),
        ("$B", False),
        ("$NONE", False),
        ("null", False),
        ('"text"', True),
        ("''", False),
        ('$A == "x"', True),
        ("$A == 'y'", False),
        ('$A != "x"', False),
        ("$NONE == null", True),
        ("null == $NONE", True),
        ("$B == null", False),
        ('$B == ""', True),
        ("$A == $A", True),
        ("$A == $NONE", False),
        ('$N == "10"', True),
        (r"$BRANCH =~ /^release\/\d/", True),
        ("$BRANCH =~ /^RELEASE/", False),
        ("$BRANCH =~ /^RELEASE/i", True),
        ("$BRANCH !~ /^feature/", True),
        ("$NONE =~ /x/", False),
        ("$NONE !~ /x/", True),
        ("$BRANCH =~ $BRANCH", True),
        ("$BRANCH !~ $BRANCH", False),
        ("$BRANCH !~ $NONE", True),
        (r"$TAG =~ /^v\d+(\.\d+)*$/", True),
        ("$TAG =~ /^(v|V)[0-9.]+$/", True),
        ("$BRANCH =~ $PATTERN", True),
        ("$BRANCH =~ $PLAIN", True),
        ("$BRANCH =~ $BROKEN", False),
        ("$BRANCH =~ $NONE", False),
        ("$A && $B", False),
        ("$A || $B", True),
        ("$B && $B || $A", True),
        ("$B && ($B || $A)", False),
        ("$A || $B && $B", True),
        ("!$B", True),
        ("!!$A", True),
        ("!($A && $B)", True),
        ("(($A))", True),
        ('($A == "x") == ($N == "10")', True),
        (r'"a\"b" == "a\"b"', True),
        ("$A\n  && !$B", True),
    ],
)
def test_holds(text: str, expected: bool) -> None:
    assert holds(text, VALUES) is expected


def test_limits_are_reached() -> None:
    assert holds("(" * 49 + "$A" + ")" * 49, VALUES)
    assert holds("(($B) || " + "(" * 48 + "$A" + ")" * 49, VALUES)
    assert not holds(" || ".join(["($B)"] * 60), VALUES)
    assert holds("$A".ljust(4096), VALUES)
    with pytest.raises(InvalidExpression, match="more than 4096"):
        parse("$A".ljust(4097))


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("$A = 'x'", 3, "compare with == (or =~ for a pattern)"),
        ("$A == ", 5, "the condition ends where a variable, a text in quotes, null or ( is expected"),
        ("$A $B", 3, "expected && or || or the end, found $B"),
        ("A", 0, 'expected a variable, a text in quotes, null or (, found A; a variable is $A, a text "A"'),
        ("($A", 3, "the condition ends where ) is expected"),
        ("$A)", 2, "expected && or || or the end, found )"),
        ("$A ${B}", 3, "expected && or || or the end, found ${B}"),
        ("$A ==  'open", 7, "the text that starts here has no closing '"),
        ("($A || )", 7, "expected a variable, a text in quotes, null or (, found )"),
        ("(($A) || " + "(" * 49 + "$A" + ")" * 50, 58, "the condition is nested more than 50 levels deep"),
        ("/x/", 0, "a pattern needs =~ or !~ before it"),
        ("$A == !$B", 6, "expected a variable, a text in quotes, null or (, found !"),
        ("$A == $B == $C", 9, "expected && or || or the end, found =="),
        ("$A == (" * 51 + "$B" + ")" * 51, 350, "the condition is nested more than 50 levels deep"),
        ("!" * 51 + "$A", 50, "the condition is nested more than 50 levels deep"),
        ("$A != /x/", 6, "a pattern is compared with !~"),
        ("$A =~ 'x'", 6, "a pattern stands between slashes: /^release/"),
        ("$A =~ /x", 6, "the pattern that starts here has no closing /"),
        ("$A =~ /[/", 6, "not a pattern: unterminated character set at position 0"),
        ("$A =~ /x/g", 6, "unknown pattern flag g; the flags are i, m and s"),
        ("!$A == 'x'", 4, "put what ! applies to in parentheses: !(... == ...)"),
        ("$A | $B", 3, "write ||"),
        ("$A == 1", 6, "'1' can't stand here"),
        ("$1", 0, "'$' can't stand here"),
        ("`x`", 0, "'`' can't stand here"),
        ("(" * 60 + "$A" + ")" * 60, 50, "the condition is nested more than 50 levels deep"),
        ("$A || " * 1000 + "$A", 0, "the condition has more than 4096 characters"),
    ],
)
def test_mistakes(text: str, position: int, message: str) -> None:
    with pytest.raises(InvalidExpression) as caught:
        parse(text)
    assert (str(caught.value), caught.value.position) == (message, position)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("(a+)+$", "a" * 10_000 + "!"),
        ("(a|a)*b+c*$|(x+x+)+y", "a" * 40 + "!"),
        (r"(\w+\s?)*$", "1" * 1_000 + "!"),
        ("([a-z]+)*$", "a" * 10_000 + "!"),
        ("(?>(a+)+c)", "a" * 10_000 + "!"),
        ("(?i:(xX*)+y)", "x" * 5_000),
        ("(.*a){20}b", "a" * 10_000),
    ],
)
def test_a_search_that_takes_too_long_is_an_error(pattern: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patterns.MAX_SEARCH_S == 1
    monkeypatch.setattr(patterns, "MAX_SEARCH_S", 0.01)
    start = time.thread_time()
    for text, variables in ((f"$A =~ /{pattern}/", {}), ("$A !~ $P", {"P": pattern})):
        with pytest.raises(SearchError, match=f"a value of {len(value)} characters took longer than 0.01 s"):
            holds(text, {"A": value, **variables})
    assert time.thread_time() - start < 2


@pytest.mark.parametrize(
    "pattern", ["(?:a*)*", r"(a)\1", "(.+)+", r"^(\d+|x)+$", "(.*a){20}", ".*.*.*x", "a?a?a?a?a?a?a?a?aaaa"]
)
@pytest.mark.parametrize("value", ["a" * 10_000 + "!", "a" * 100_000, "x" * 5_000])
def test_a_search_that_has_an_early_answer_is_not_cut_short(pattern: str, value: str) -> None:
    holds(f"$A =~ /{pattern}/", {"A": value})


def test_a_pattern_has_a_greatest_length() -> None:
    parse(f"$A =~ /{'x' * 1000}/")
    with pytest.raises(InvalidExpression, match="the pattern is longer than 1000 characters"):
        parse(f"$A =~ /{'x' * 1001}/")
    assert not holds("$A =~ $P", {"A": "x" * 2000, "P": "x" * 1001})


@pytest.mark.parametrize(
    "pattern", [r"\[skip (ci|tests)\]", r"^release/.*", "JIRA-.*done", r"^v\d+(\.\d+)*$", "^(?!main).*-hotfix$", "wip"]
)
def test_what_people_write_is_looked_for_in_long_values(pattern: str) -> None:
    holds("$A =~ /" + pattern.replace("/", r"\/") + "/i", {"A": "JIRA-1 a" + "b" * 1_000_000})


@pytest.mark.parametrize(
    "pattern",
    [
        r"^v\d+(\.\d+)*$",
        "(a|b)+",
        "([a-z]+,)*",
        r"^(feature|fix)-[0-9]+$",
        "a{2,5}",
        "(ab)+",
        r"^[\w.]+$",
        "(?:x/y)+",
        "(ab?)*",
        "(foo|bar|[0-9])+",
        r"(v?\d+\.)+",
    ],
)
def test_patterns_that_people_write_are_fine_and_quick(pattern: str) -> None:
    expression = "$A =~ /" + pattern.replace("/", r"\/") + "/"
    start = time.thread_time()
    holds(expression, {"A": "a" * 10_000 + "!"})
    holds(expression, {"A": "v1" + ".1" * 5_000 + "!"})
    assert time.thread_time() - start < 2


def test_names() -> None:
    assert list(names("$A && (!$B || ${C} =~ /x/) && $D == $A")) == ["A", "B", "C", "D", "A"]
