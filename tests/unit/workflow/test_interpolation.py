import pytest

from loom.util.toposort import CycleError
from loom.workflow.interpolation import MAX_LENGTH, ExpansionTooLong, expand, expand_all, names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A", "1"),
        ("${A}", "1"),
        ("$A$B", "12"),
        ("x$A-y", "x1-y"),
        ("$AB", "$AB"),
        ("${A}B", "1B"),
        ("$$A", "$A"),
        ("$$$A", "$1"),
        ("$NONE ${NONE}", "$NONE ${NONE}"),
        ("$(A) $1 ${A:-x} $ $", "$(A) $1 ${A:-x} $ $"),
        ("$EMPTY|", "|"),
    ],
)
def test_expand(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2", "EMPTY": ""}) == expected


def test_a_result_has_a_greatest_length() -> None:
    values = {"A": "x" * (MAX_LENGTH // 2), "B": "x" * (MAX_LENGTH - 2)}
    assert len(expand("$A$A", values)) == len(expand("$B..", values)) == MAX_LENGTH
    for text in ("$A$A.", "$B...", "$A$B"):
        with pytest.raises(ExpansionTooLong, match="exceeds 1024 KiB"):
            expand(text, values)


def test_variables_refer_to_each_other_in_any_order() -> None:
    found = expand_all({"C": "$B!", "B": "$A$K", "A": "1"}, {"K": "k", "A": "hidden"})
    assert found == {"C": "1k!", "B": "1k", "A": "1"}
    assert list(found) == ["C", "B", "A"]


def test_what_a_value_brings_is_not_expanded_again() -> None:
    assert expand_all({"A": "$B", "B": "$$C", "C": "x"}, {}) == {"A": "$C", "B": "$C", "C": "x"}


def test_literal_values_stay() -> None:
    assert expand_all({"A": "$B", "B": "$A $$"}, {}, literal={"B"}) == {"A": "$A $$", "B": "$A $$"}


def test_a_circle_is_named() -> None:
    with pytest.raises(CycleError) as caught:
        expand_all({"X": "$A", "A": "$B", "B": "${A}"}, {})
    assert caught.value.cycle == ("A", "B", "A")


def test_names() -> None:
    assert list(names("$A ${B} $$C $(D)")) == ["A", "B"]
