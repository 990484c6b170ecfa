"""The message about a value that its key does not take."""

import pytest

from loom.util.yaml_file import parse
from loom.workflow import wording
from loom.workflow.keywords import shape_of
from loom.workflow.native.shapes import Shapes


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("alwas", ("always", "never"), "expected one of always, never, found the text 'alwas'; did you mean always?"),
        ("v2", ("v1",), "expected v1, found the text 'v2'"),
        ("nothing", ("always", "never"), "expected one of always, never, found the text 'nothing'"),
        ("5", ("always", "never"), "expected one of always, never, found the number 5"),
        ("true", ("always", "never"), "expected one of always, never, found true"),
        ("~", ("always", "never"), "expected a value, found nothing; give one or remove the key"),
        ("[a]", ("always", "never"), "expected one of always, never, found a list"),
        ("{a: b}", ("always", "never"), "expected one of always, never, found a mapping"),
    ],
)
def test_one_of_some_words(text: str, words: tuple[str, ...], said: str) -> None:
    node = parse(f"a: {text}\n".encode(), "f").root
    assert node is not None
    assert wording.unfit(node.value["a"], shape_of(f"({' '.join(words)})"), ()) == said


LONG = "x" * 41


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", 'expected text, found the number 5; write it in quotes: "5"'),
        ("true", 'expected text, found true; write it in quotes: "true"'),
        ("[a]", "expected text, found a list"),
        (
            "{a: b}",
            "expected text, found a mapping: YAML parses 'a: b' as a key and a value; quote the whole text, or write it below a `|`",
        ),
        (
            "{a: [b]}",
            "expected text, found a mapping: YAML parses 'a: ...' as a key and a value; quote the whole text, or write it below a `|`",
        ),
        ("{a: b, c: d}", "expected text, found a mapping"),
        (f"1{'0' * 39}", f'expected text, found the number 1{"0" * 39}; write it in quotes: "1{"0" * 39}"'),
        (f"1{'0' * 40}", f"expected text, found the number 1{'0' * 36}...; write it in quotes"),
        (
            f"{{a: {LONG}}}",
            f"expected text, found a mapping: YAML parses 'a: {LONG[:34]}...' as a key and a value; quote the whole text, or write it below a `|`",
        ),
    ],
)
def test_how_a_value_becomes_text(text: str, said: str) -> None:
    node = parse(f"a: {text}\n".encode(), "f").root
    assert node is not None
    assert wording.unfit(node.value["a"], shape_of("line"), ["text"]) == said


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("[]", "expected at least one entry, found none; add one or remove the key"),
        ("{}", "expected text or a list, found a mapping"),
        ("[[]]", "expected text, found a list"),
        ("[{}]", "expected text, found a mapping"),
    ],
)
def test_an_empty_value_of_another_type_is_no_list_without_entries(script: str, said: str) -> None:
    node = parse(f"stage: test\nscript: {script}\n".encode(), "f").root
    assert node is not None
    shapes = Shapes()
    assert shapes.validated("job", node) is None
    assert [one.message for one in shapes.found] == [said]
