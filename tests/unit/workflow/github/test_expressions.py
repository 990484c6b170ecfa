"""GitHub's expressions: values as its documentation and its runner's evaluator decide."""

import math

import pytest

from loom.workflow.github.expressions import (
    InvalidExpression,
    condition,
    contexts_in,
    evaluate,
    filled,
    functions_in,
    parse,
    parts_of,
    text_of,
    truth,
)

GITHUB = {
    "ref": "refs/heads/main",
    "event": {"labels": [{"name": "bug"}, {"name": "p1"}, {"id": 3.0}], "number": 7.0, "Deep": {"x-y": "z"}},
}


def value(text: str, **contexts: object) -> object:
    return evaluate(parse(text), {"github": GITHUB, **contexts})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # literals
        ("null", None),
        ("true", True),
        ("711", 711.0),
        ("-9.2", -9.2),
        ("0xff", 255.0),
        ("0o17", 15.0),
        ("-2.99e-2", -0.0299),
        ("'It''s open source!'", "It's open source!"),
        ("+.5", 0.5),
        # loose comparison
        ("null == 0", True),
        ("'' == 0", True),
        ("'  ' == 0", True),
        ("true == 1", True),
        ("'1' == 1", True),
        ("'0x10' == 16", True),
        ("'one' == 1", False),
        ("'one' != 1", True),
        ("null == ''", True),
        ("null == null", True),
        ("null == false", True),
        ("'A' == 'a'", True),
        ("'a' < 'B'", True),
        ("'10' < '9'", True),
        ("10 < '9'", False),
        ("'x' < 1", False),
        ("'x' >= 1", False),
        ("NaN == NaN", False),
        ("'a' <= 'B'", True),
        ("'b' <= 'A'", False),
        ("'b' >= 'B'", True),
        ("'B' > 'a'", True),
        ("2 <= '2'", True),
        ("github.event < 1", False),
        ("github.event >= 1", False),
        ("github.event == github.event", True),
        ("github.event.labels == 'Array'", False),
        ("fromJSON('[1]') == fromJSON('[1]')", False),
        # operators give an operand, and their precedence
        ("1 && 'a'", "a"),
        ("0 && 'a'", 0.0),
        ("'' || 'b'", "b"),
        ("github.none || 'fallback'", "fallback"),
        ("true || false && false", True),
        ("!true == false", True),
        ("!(1 > 2) && 3 >= 3", True),
        ("1 < 2 == true", True),
        ("!!'x'", True),
        # indexing
        ("github.REF", "refs/heads/main"),
        ("github['event']['number']", 7.0),
        ("github.event.deep.x-y", "z"),
        ("github.event.labels[1].name", "p1"),
        ("github.event.labels['1'].name", "p1"),
        ("github.event.labels[9].name", None),
        ("github.event.labels[-1]", None),
        ("github.event.labels.*.name", ["bug", "p1"]),
        ("github.event.labels[*].id", [3.0]),
        ("github.nothing.at.all", None),
        ("github.ref.x", None),
        ("github[github.event]", None),
        ("github.event.labels[fromJSON('[1]')]", None),
        ("github.event.labels[2].ID", 3.0),
        ('fromJSON(\'{"Array": 1, "Object": 2}\')[github.event.labels]', None),
        ('fromJSON(\'{"Array": 1, "Object": 2}\')[github.event]', None),
        ("fromJSON('[[1, 2], [3], [], 4]').*[0]", [1.0, 3.0]),
        ('fromJSON(\'[{"a": [1, 2]}, {"A": [3]}, {"a": 4}]\').*.a.*', [1.0, 2.0, 3.0]),
        ('fromJSON(\'{"a": 1, "A": 2}\').A', 2.0),
        ("github.event.deep.*", ["z"]),
        ("github.ref.*", []),
        ("join(github.event.labels.*.name, '|')", "bug|p1"),
        ("contains(github.event.labels.*.name, 'BUG')", True),
        # functions
        ("contains('Hello world', 'LLO')", True),
        ("contains(fromJSON('[\"push\", 2]'), 2)", True),
        ("contains(github.event, 'x')", False),
        ("startsWith('Hello world', 'he')", True),
        ("endsWith('Hello world', 'LD')", True),
        ("format('Hello {0} {1} {0}', 'Mona', 3)", "Hello Mona 3 Mona"),
        ("format('{{Hello {0}}}', null)", "{Hello }"),
        ("join(fromJSON('[1, null, true, \"x\"]'))", "1,,true,x"),
        ("join('alone', '-')", "alone"),
        ('fromJSON(\'{"A": {"b": [1.5]}}\').a.b[0]', 1.5),
        ("toJSON(fromJSON('{\"a\":[1,2.5,null]}'))", '{\n  "a": [\n    1,\n    2.5,\n    null\n  ]\n}'),
        ("case(false, 1, true, 2, 3)", 2.0),
        ("case(github.none, 1, 'other')", "other"),
    ],
)
def test_values(text: str, expected: object) -> None:
    found = value(text)
    assert found == expected
    assert isinstance(found, bool) == isinstance(expected, bool)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (-0.0, "0"),
        (0.1, "0.1"),
        (1e15, "1E+15"),
        (123456789012345.0, "123456789012345"),
        (1e-7, "1E-07"),
        (math.inf, "Infinity"),
        (math.nan, "NaN"),
        (None, ""),
        (True, "true"),
        ([], "Array"),
        ({}, "Object"),
    ],
)
def test_texts_of_values(number: object, text: str) -> None:
    assert text_of(number) == text


@pytest.mark.parametrize("falsy", [None, False, 0.0, -0.0, math.nan, ""])
def test_what_counts_as_false(falsy: object) -> None:
    assert not truth(falsy)


@pytest.mark.parametrize("truthy", [True, 1.0, "0", "false", [], {}])
def test_what_counts_as_true(truthy: object) -> None:
    assert truth(truthy)


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("", "the expression is empty", 0),
        ("a b", "unexpected b", 2),
        ('github.ref == "x"', 'unexpected "; texts stand in single quotes', 14),
        ("1 == foo(2)", "there is no function foo", 5),
        ("(1", "expected ), found the end", 2),
        ("1 == )", "unexpected )", 5),
        ("'" + "x" * 21_000 + "'", "the expression has more than 21000 characters", 0),
        ("github.", "expected a name after the dot, found the end", 7),
        ("'open", "the text has no closing quote", 0),
        ("1 &&", "the expression ends too early", 4),
        ("contains('a')", "contains takes 2 arguments, not 1", 0),
        ("case(1, 2)", "case takes 3 to 255 arguments, not 2", 0),
        ("case(1, 2, 3, 4)", "case takes pairs of a condition and a value, then the value of all others", 0),
        ("1 + 1", "unexpected +; there is no arithmetic in expressions", 2),
        ("!" * 60 + "1", "the expression is nested more than 50 levels deep", 50),
    ],
)
def test_mistakes_have_a_position(text: str, message: str, position: int) -> None:
    with pytest.raises(InvalidExpression) as error:
        parse(text)
    assert (str(error.value), error.value.position) == (message, position)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("matrix.os", "there is no context matrix here"),
        ("success()", "success() can't be used here"),
        ("fromJSON('{')", "fromJSON: not valid JSON"),
        ("format('{1}', 1)", "format: there is no argument {1}"),
        ("format('{')", "format: a brace stands alone"),
    ],
)
def test_what_can_t_be_evaluated(text: str, message: str) -> None:
    with pytest.raises(
        InvalidExpression, match="^" + message.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{")
    ):
        value(text)


def test_an_operand_that_does_not_count_is_not_evaluated() -> None:
    assert value("true || matrix.os") is True
    assert value("false && fromJSON('{')") is False


def test_texts_around_expressions() -> None:
    assert filled("a ${{ github.event.number }} b ${{ 'it''s }}' }}", {"github": GITHUB}) == "a 7 b it's }}"
    assert filled("${{ github.event.number }}", {"github": GITHUB}) == 7.0
    assert filled("no expression", {}) == "no expression"
    with pytest.raises(InvalidExpression, match="has no") as error:
        parts_of("x ${{ 1 ")
    assert error.value.position == 2
    with pytest.raises(InvalidExpression) as error:
        parts_of("ab ${{ 1 2 }}")
    assert error.value.position == 9


@pytest.mark.parametrize(
    ("text", "failed", "runs"),
    [
        ("github.ref == 'refs/heads/main'", False, True),
        ("github.ref == 'refs/heads/main'", True, False),
        ("${{ github.ref == 'refs/heads/main' }}", True, False),
        ("always()", True, True),
        ("failure()", True, True),
        ("failure()", False, False),
        ("!cancelled() && github.event.number == 7", True, True),
        ("", False, True),
        ("", True, False),
        ("${{ false }} || true", False, True),
        ("!success()", True, True),
    ],
)
def test_a_condition_holds_after_success_unless_it_asks_for_a_status(text: str, failed: bool, runs: bool) -> None:
    functions = {
        "success": lambda: not failed,
        "failure": lambda: failed,
        "always": lambda: True,
        "cancelled": lambda: False,
    }
    assert truth(evaluate(condition(text), {"github": GITHUB}, functions)) is runs


def test_what_a_tree_asks_for() -> None:
    tree = parse("always() && contains(needs.*.result, matrix['os'])")
    assert contexts_in(tree) == {"needs", "matrix"}
    assert functions_in(tree) == {"always", "contains"}


def test_a_result_has_a_limit() -> None:
    long = {"text": "x" * 1_000_000}
    with pytest.raises(InvalidExpression, match="has more than"):
        evaluate(parse("format('{0}{0}', c.text)"), {"c": long})
