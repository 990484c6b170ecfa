"""Variables: reading, levels, expansion in two passes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from loom.errors import RequestError, WorkflowError
from loom.util.toposort import CycleError
from loom.workflow.facts import Variable
from loom.workflow.gitlab import variables
from loom.workflow.gitlab.variables import Scope, expand, expand_all, expand_existing, layers, read
from tests.support.effort import fuzzed
from tests.support.gitlab import node

KNOWN = {"CI": "true", "BRANCH": "main", "URL_DEV": "https://dev", "EMPTY": ""}


def of(**values: str) -> dict[str, Variable]:
    return {name: Variable(value=value) for name, value in values.items()}


def test_values_become_the_texts_of_gitlab() -> None:
    found = read(
        node("{A: text, B: 1, C: 1.50, D: true, E: '', F: ~, G: {value: 7, description: d, expand: false}, H: 1e20}")
    )
    assert {name: variable.value for name, variable in found.items()} == {
        "A": "text",
        "B": "1",
        "C": "1.5",
        "D": "true",
        "E": "",
        "F": "",
        "G": "7",
        "H": "1.0e+20",
    }
    assert [name for name, variable in found.items() if not variable.expand] == ["G"]
    assert read(None) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"A": "$B", "B": "b"}, {"A": "b"}),
        ({"A": "${B}-$BRANCH", "B": "$C", "C": "c"}, {"A": "c-main"}),
        ({"A": "$NOWHERE/x"}, {"A": "/x"}),
        ({"A": "[$EMPTY]"}, {"A": "[]"}),
        ({"A": "$$HOME ${B}", "B": "$$"}, {"A": "$HOME $"}),
        ({"A": "$(date +%H) `x`"}, {"A": "$(date +%H) `x`"}),
        ({"A": "${X:-default}"}, {"A": ""}),
        ({"A": "a$"}, {"A": "a$"}),
        ({"A": "a$ b"}, {"A": "a$ b"}),
        ({"A": "$1 $@ $?"}, {"A": "  "}),
        ({"A": "%BRANCH% 50% %Y%"}, {"A": "main 50% %Y%"}),
        ({"A": "${URL_${ENV}}", "ENV": "DEV"}, {"A": "https://dev"}),
        ({"BRANCH": "x-$BRANCH"}, {"BRANCH": "x-main"}),
        ({"A": "$A:x"}, {"A": "$A:x:x"}),
    ],
)
def test_variables_are_expanded_as_by_the_server_and_then_the_runner(
    values: dict[str, str], expected: dict[str, str]
) -> None:
    found = expand_all(of(**values), KNOWN)
    assert {name: found[name] for name in expected} == expected


def test_a_variable_that_is_not_expanded_reaches_others_as_it_is() -> None:
    layered = {**of(A="1", C="see $B"), "B": Variable(value="raw $A $$", expand=False)}
    assert expand_all(layered, {}) == {"A": "1", "B": "raw $A $$", "C": "see raw $A $$"}


def test_references_to_what_only_the_job_knows_stay() -> None:
    layered = {**of(A="$DYNAMIC/$BRANCH", B="$FILE", C="$GONE"), "FILE": Variable(value="text", file=True)}
    found = expand_all(layered, KNOWN, late=lambda name: name == "DYNAMIC")
    assert found == {"A": "${DYNAMIC}/main", "B": "${FILE}", "C": "", "FILE": "text"}


def test_variables_in_a_cycle_are_named() -> None:
    with pytest.raises(CycleError, match="A -> B -> A"):
        expand_all(of(A="$B", B="${A}"), {})
    assert Scope(layered=of(A="$B", B="$A"), known=KNOWN).expanded["A"] == "$B"


def test_one_text() -> None:
    assert expand("registry/$BRANCH:${TAG}-$$x", KNOWN) == "registry/main:-$x"
    assert expand("$LATER", KNOWN, late=lambda _: True) == "${LATER}"
    assert expand("$$$LATER$BRANCH", KNOWN, late=lambda name: name == "LATER") == "$${LATER}main"
    assert expand_existing("$BRANCH/**/%CI%/${NOWHERE}", KNOWN) == "main/**/true/${NOWHERE}"


def test_the_names_in_a_text() -> None:
    assert [list(variables.names(text)) for text in ("%A%", "$A${B}%C%$$D", "A")] == [["A"], ["A", "B", "C"], []]


def test_the_users_file_of_variables_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    with pytest.raises(RequestError) as missing:
        variables.own(path, "group/project")
    assert (str(missing.value), missing.value.code) == (
        f"{path}: no such file or directory\n{variables._HINT}",
        "CONFIG_INVALID",
    )
    path.write_text(
        "A: x\nB: {ref: 'env://B', file: true}\nC: {environments: {'*': a, prod: {value: $A, expand: false}}}\n"
        "group/*: {A: y, D: 1}\nother/project: {A: z}\n"
    )
    found = variables.own(path, "group/project")
    assert {
        name: replace(
            one, node=None, environments={glob: replace(each, node=None) for glob, each in one.environments.items()}
        )
        for name, one in found.items()
    } == {
        "A": Variable(value="y"),
        "B": Variable(value=variables.SECRET, expand=False, file=True, ref="env://B"),
        "C": Variable(value="", environments={"*": Variable(value="a"), "prod": Variable(value="$A", expand=False)}),
        "D": Variable(value="1"),
    }
    for environment, value in (("", "a"), ("prod", "$A"), ("test", "a")):
        assert variables.environment_scoped(found, environment)["C"].value == value
    for wrong, at in (
        ("A: {value: x, ref: y}", "1:4"),
        ("A: {value: x, more: y}", "1:4"),
        ("A: [", "2:1"),
        ("g/*: {A: {file: true}}", "1:10"),
    ):
        path.write_text(f"{wrong}\n")
        with pytest.raises(WorkflowError) as refused:
            variables.own(path, "g/p")
        assert [f"{one.line}:{one.column} {one.code}" for one in refused.value.problems] == [f"{at} CONFIG_INVALID"]


def test_the_levels_of_variables() -> None:
    """Each level sets its own name and the names of all levels above it."""
    order = ["root", "workflow", "job", "matrix", "rule", "project", "given"]
    levels = {
        level: of(**dict.fromkeys(order[number:], level))
        for number, level in enumerate(order)
        if level not in ("matrix", "given")
    }
    for level in ("matrix", "given"):
        levels[level] = dict.fromkeys(order[order.index(level) :], level)  # type: ignore[assignment]
    found = layers(inherit=None, **levels)  # type: ignore[arg-type]
    assert {name: variable.value for name, variable in found.items()} == {name: name for name in order}
    assert not layers(root={}, given={"A": "$B"})["A"].expand


@pytest.mark.parametrize(
    ("inherit", "expected"),
    [
        ("{}", ["A", "B"]),
        ("{variables: true}", ["A", "B"]),
        ("{variables: false}", []),
        ("{variables: [B]}", ["B"]),
        ("{default: false}", ["A", "B"]),
    ],
)
def test_a_job_inherits_global_variables(inherit: str, expected: list[str]) -> None:
    found = layers(root=of(A="1", B="2"), inherit=node(inherit), job=of(C="3"))
    assert list(found) == [*expected, "C"]


def test_a_value_expands_unless_it_says_otherwise() -> None:
    text = "variables: {A: {value: x}, B: {value: 1, expand: false}, C: {value: true, expand: true}, D: 5, E: {}}"
    found = variables.read(node(text).get("variables"))
    assert {name: (one.value, one.expand) for name, one in found.items()} == {
        "A": ("x", True),
        "B": ("1", False),
        "C": ("true", True),
        "D": ("5", True),
        "E": ("", True),
    }
    assert variables.read(None) == {}


@pytest.mark.slow
@fuzzed(300)
@given(
    st.dictionaries(st.sampled_from("ABCD"), st.text(alphabet="$ABCDE{}%()- ", max_size=12), max_size=4),
    st.text(alphabet="$ABCDE{}%()- ", max_size=12),
)
def test_any_text_expands_or_is_a_cycle(values: dict[str, str], text: str) -> None:
    assert isinstance(expand(text, values), str)
    assert isinstance(expand_existing(text, values), str)
    try:
        found = expand_all(of(**values), {"E": "e"})
    except CycleError:
        return
    assert found.keys() == values.keys()


def test_a_variable_that_is_not_expanded_hides_the_predefined_one_of_its_name() -> None:
    layered = {"A": Variable(value="$Z", expand=False), "B": Variable(value="$A-$Z")}
    assert expand_all(layered, {"A": "hidden", "Z": "z"}) == {"A": "$Z", "B": "$Z-z"}
    of_session = {"A": Variable(value="text", file=True), "B": Variable(value="$A")}
    assert expand_all(of_session, {"A": "hidden"}) == {"A": "text", "B": "${A}"}


def test_a_reference_without_a_name_is_empty_whatever_comes_late() -> None:
    assert expand("${}|${|$LATE|$$", {}, late=lambda _name: True) == "||${LATE}|$"
