"""GitHub's expressions: values as its documentation and its runner's evaluator decide."""

import json
import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.workflow.github.expressions import (
    MAX_LENGTH,
    MAX_RESULT,
    Exact,
    condition,
    contexts_in,
    evaluate,
    filled,
    functions_in,
    json_of,
    number_of,
    parse,
    parts_of,
    property_in,
    text_of,
    truth,
)
from loom.workflow.parser import InvalidExpression
from tests.support.effort import fuzzed

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
        ("github['' || 'ref']", "refs/heads/main"),
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
        ("join(github.event)", ""),
        (f"fromJSON('{'9' * 400}')", math.inf),
        (f"fromJSON('-{'9' * 400}')", -math.inf),
        ("contains('straße', 'SS')", False),
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


OPERANDS = (
    *("null", "true", "false", "0", "1", "-1.5", "NaN", "Infinity", "-Infinity"),
    *("''", "' '", "'1'", "' 0x1F '", "'0o17'", "'-1.5'", "'+1'", "'1.'", "'1_0'", "'a'", "'A'", "'b'", "'Array'"),
    *("list", "other", "map", "env", "found"),
)
PAIRS = ("{} == {}", "{} < {}", "contains({}, {})", "startsWith({}, {})", "endsWith({}, {})", "{}[{}]")
SHOWN = {True: "yes", False: "no"}


def test_what_each_operator_makes_of_each_pair() -> None:
    """`LOOM_TEST_ACCEPT=1` writes the present results beside this file; read them before you commit them."""
    contexts = {
        "list": ["a", 1.0, None],
        "other": ["A", 1.0, None],
        "map": {"a": 1.0, "1": "one", "Array": "x", "true": {}},
        "env": Exact(a="lower"),
        "found": evaluate(parse("x.*.y"), {"x": [{"y": "a"}, {"Y": ["b", "c"]}, {"z": 1.0}]}),
    }
    said = ""
    for operand in OPERANDS:
        of = evaluate(parse(operand), contexts)
        written = json.dumps(json_of(of), ensure_ascii=False) if of not in (math.inf, -math.inf) and of == of else ""
        said += f"{operand}: {SHOWN[truth(of)]}, {number_of(of)}, {text_of(of)!r}, {written}, .*: {parsed(f'({operand}).*', contexts)}\n"
        for pair in PAIRS:
            results: dict[str, list[str]] = {}
            for right in OPERANDS:
                results.setdefault(parsed(pair.format(operand, right), contexts), []).append(right)
            shown = [
                f"{result} of {', '.join(found)}" for result, found in results.items() if result not in ("no", "None")
            ]
            said += f"  {pair.format(operand, '_')}: {'; '.join(shown)}\n" if shown else ""
        for right in OPERANDS:
            less, same, either = (parsed(f"{operand} {sign} {right}", contexts) for sign in ("<", "==", "<="))
            assert either == ("yes" if "yes" in (less, same) and operand not in OPERANDS[-5:] else "no"), right
    beside = Path(__file__).with_name("expression_values.txt")
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


def parsed(text: str, contexts: dict[str, object]) -> str:
    found = evaluate(parse(text), contexts)
    return SHOWN[found] if isinstance(found, bool) else repr(found)


def test_limits_are_reached() -> None:
    assert value("'" + "x" * (MAX_LENGTH - 2) + "'") == "x" * (MAX_LENGTH - 2)
    assert value("!" * 49 + "1") is False
    assert value("(" * 49 + "1" + ")" * 49) == 1.0
    assert value(" || ".join(["0"] * 4_000)) == 0.0
    assert value(" && ".join(["1"] * 4_000)) == 1.0
    assert value("github" + ".a" * 49) is None
    for deep in ("github" + ".a" * 50, "1" + " == 1" * 50, "1" + "<1" * 10_000, "github" + "[1]" * 6_000):
        with pytest.raises(InvalidExpression, match="nested more than 50 levels deep"):
            parse(deep)
    assert value(f"((0) || {'(' * 48}1{')' * 48})") == 1.0
    with pytest.raises(InvalidExpression, match="nested more than 50 levels deep"):
        parse(f"((0) || {'(' * 49}1{')' * 49})")
    assert filled("${{ 1 }}".ljust(MAX_LENGTH), {}) == "1" + " " * (MAX_LENGTH - 8)
    with pytest.raises(InvalidExpression, match="a text with expressions has more than 21000 characters") as error:
        filled(" ${{ 1 }}".ljust(MAX_LENGTH + 1), {})
    assert error.value.position == 1
    whole = {"c": {"text": "x" * MAX_RESULT}}
    for text in ("format('{0}', c.text)", "join(c.*, '')"):
        assert evaluate(parse(text), whole) == "x" * MAX_RESULT
    assert filled("${{ c.text }}", whole) == "x" * MAX_RESULT
    for text in ("${{ format('{0}.', c.text) }}", "${{ join(c.*, '') }}.", "${{ c.text }}."):
        with pytest.raises(InvalidExpression, match="the result has more than 1048576 characters"):
            filled(text, whole)


@pytest.mark.parametrize("falsy", [None, False, 0.0, -0.0, math.nan, ""])
def test_what_counts_as_false(falsy: object) -> None:
    assert not truth(falsy)


@pytest.mark.parametrize("truthy", [True, 1.0, "0", "false", [], {}])
def test_what_counts_as_true(truthy: object) -> None:
    assert truth(truthy)


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("", "the expression ends where a value is expected", 0),
        ("a b", "expected && or || or the end, found b", 2),
        ('github.ref == "x"', "texts stand in single quotes", 14),
        ("1 == foo(2)", "there is no function foo", 5),
        ("(1", "the expression ends where ) is expected", 2),
        ("1 == )", "expected a value, found )", 5),
        ("'" + "x" * 21_000 + "'", "the expression has more than 21000 characters", 0),
        ("github.", "the expression ends where a name after the dot is expected", 7),
        ("'open", "the text that starts here has no closing '", 0),
        ("1 &&", "the expression ends where a value is expected", 4),
        ("contains('a')", "contains takes 2 arguments, not 1", 0),
        ("case(1, 2)", "case takes 3 to 255 arguments, not 2", 0),
        ("case(1, 2, 3, 4)", "case takes pairs of a condition and a value, then the value of all others", 0),
        ("1 + 1", "there is no arithmetic in expressions", 2),
        ("!" * 60 + "1", "the expression is nested more than 50 levels deep", 50),
    ],
)
def test_mistakes_have_a_position(text: str, message: str, position: int) -> None:
    with pytest.raises(InvalidExpression) as error:
        parse(text)
    assert (str(error.value), error.value.position) == (message, position)


@pytest.mark.parametrize(
    ("text", "message", "position"),
    [
        ("1 == matrix.os", "there is no context matrix here", 5),
        ("!success()", "success() can't be used here", 1),
        ("0 || fromJSON('{')", "fromJSON: not valid JSON: Expecting property name", 5),
        ("0 || format('{1}', 1)", "format: there is no argument {1}", 5),
        ("0 || format('{')", "format: a brace stands alone in '{'; write it twice", 5),
        ("0 || format('{0}}', 1)", "format: a brace stands alone in '{0}}'; write it twice", 5),
        ("0 || case(true, matrix.os, 1)", "there is no context matrix here", 16),
        ("0 || toJSON(matrix.os)", "there is no context matrix here", 5),
    ],
)
def test_what_can_t_be_evaluated(text: str, message: str, position: int) -> None:
    with pytest.raises(InvalidExpression, match="^" + re.escape(message)) as error:
        value(text)
    assert error.value.position == position


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
        ("${{ false }} && ${{ false }}", False, True),
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


PIECES = (
    *("github", "env", ".a", ".*", "[0]", "[*]", "[", "]", ".", "*", "(", ")", ",", "!", "!!", "&&", "||", "==", "!="),
    *(
        "<",
        "<=",
        ">=",
        "'x'",
        "'",
        "1",
        "-.5",
        "0x",
        "null",
        "true",
        "contains(",
        "format(",
        "case(",
        "toJSON(",
        " ",
        "=",
    ),
)


@fuzzed(300)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=40))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        tree = parse(text)
        evaluate(tree, {"github": GITHUB, "env": Exact(a="1")})
    except InvalidExpression:
        return
    assert contexts_in(tree) <= {"github", "env"}


def test_what_a_tree_asks_for() -> None:
    tree = parse("always() && contains(needs.*.result, matrix['os'])")
    assert contexts_in(tree) == {"needs", "matrix"}
    assert functions_in(tree) == {"always", "contains"}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("github.token", "token"),
        ("GITHUB['Token']", "Token"),
        ("inputs.token", None),
        ("github[inputs.token]", None),
        ("github.event.token", None),
        ("github.*", None),
        ("github", None),
    ],
)
def test_a_property_of_a_context_has_its_name(text: str, name: str | None) -> None:
    assert property_in(parse(text), "github") == name


def test_a_result_has_a_limit() -> None:
    long = {"text": "x" * 1_000_000}
    with pytest.raises(InvalidExpression, match="has more than"):
        evaluate(parse("format('{0}{0}', c.text)"), {"c": long})
