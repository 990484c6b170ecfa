"""Patterns: what is refused before anybody searches with them, at its limit."""

import pytest

from loom.workflow.patterns import (
    Pattern,
    PatternError,
    Search,
    SearchError,
    compile_pattern,
    pattern_of,
)

REPEATED = "the counts in braces repeat more than 100000 parts; write smaller ones, or a star or plus"


@pytest.mark.parametrize(
    ("most", "beyond"),
    [
        ("x" * 1000, "x" * 1001),
        ("a{99992}", "a{99993}"),
        ("a{2}b{99986}", "a{2}b{99987}"),
        ("(a){10000}", "(a){10001}"),
        ("(a){2,10000}", "(a){10001,}"),
        ("(a{0}){8333}", "(a{1}){8333}"),
        ("(a){0}b{99986}", "(a){0}b{99987}"),
        ("(?x)a {6666}", "(?x)a {9999}"),
    ],
)
def test_counts_in_braces_have_a_limit(most: str, beyond: str) -> None:
    for check in (pattern_of, lambda source: pattern_of(source, wider=True)):
        assert check(most).source == most
        with pytest.raises(PatternError) as refused:
            check(beyond)
        longer = "the pattern is longer than 1000 characters"
        assert str(refused.value) == (longer if len(beyond) > 1000 else REPEATED)


def test_a_pattern_keeps_what_was_written() -> None:
    assert compile_pattern("/a\\/b/im") == Pattern(written="/a\\/b/im", source="a/b", flags=2 | 8)
    assert pattern_of("a") == Pattern(written="a", source="a", flags=0)
    assert pattern_of("a", 2, "/a/") == Pattern(written="/a/", source="a", flags=2)
    assert pattern_of("a", 2, "/a/", wider=True) == Pattern(written="/a/", source="a", flags=2)
    for check in (pattern_of, lambda source: pattern_of(source, wider=True)):
        with pytest.raises(PatternError, match=r"^not a pattern: "):
            check("(")


def test_a_pattern_that_only_the_search_refuses_says_so() -> None:
    with pytest.raises(SearchError, match=r"^/\(/ is not a valid pattern: "):
        Search(Pattern(written="/(/", source="(", flags=0))


def test_matches_come_with_their_groups() -> None:
    pattern = pattern_of("(?P<a>x)|(?P<b>y)")
    assert pattern.groups_in("zyx") == {"a": None, "b": "y"}
    assert pattern.groups_in("z") is None
    assert [found[0] for found in Search(pattern).all_in("xzy")] == ["x", "y"]
    with pytest.raises(
        SearchError, match=r"^the search for .* in a value of 3 characters took longer than 0 s in all; "
    ):
        Search(pattern, most_s=0).first_in("xzy")
