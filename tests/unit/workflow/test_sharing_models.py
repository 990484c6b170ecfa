"""Includes, interpolations and references of both dialects, made at random, give what a model of them says."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.errors import Problem
from loom.plan.model import ResolveContext
from loom.util import yaml_file
from loom.util.toposort import CycleError
from loom.util.yaml_file import YamlFile, scalars_of
from loom.workflow.gitlab import inputs, yaml
from loom.workflow.gitlab.files import MAX_INCLUDES
from loom.workflow.gitlab.loader import examine_text
from loom.workflow.gitlab.references import Resolver
from loom.workflow.interpolation import expand, expand_all, names
from loom.workflow.messages import Problems
from loom.workflow.native import loader
from tests.support.effort import fuzzed
from tests.support.targets import assert_stands_in

pytestmark = pytest.mark.slow

FOLDER = ".loom/templates/"
NAMES = ("a", "b", "deep/c", "deep/d")
INCLUDES = st.lists(st.sampled_from([*NAMES, "missing", "*", "deep/*", "none*"]), max_size=3)
GRAPHS = st.fixed_dictionaries({"main": INCLUDES.filter(bool), **dict.fromkeys(NAMES, INCLUDES)})
Graph = Mapping[str, Sequence[str]]
Place = tuple[str, int]


def meant(written: str) -> list[str]:
    """The names that an entry of `include` means; `*` stays in one folder."""
    wanted = re.compile(written.replace("*", "[^/]*"))
    return [name for name in NAMES if wanted.fullmatch(name)] if "*" in written else [written]


def include_of(graph: Graph, name: str, form: str) -> str:
    """The text of `include`, with an entry in each line from the second."""
    lines = "".join(f"  - {form.format(FOLDER + one + '.yml')}\n" for one in graph[name])
    return f"include:\n{lines}" if lines else ""


def visited(graph: Graph, *, once: bool) -> tuple[list[str], list[tuple[Place, str]]]:
    """The files in the order of their merging, and the entries that are refused."""
    order, refused, seen, read = list[str](), list[tuple[Place, str]](), {"main"}, 0

    def visit(name: str, trail: tuple[str, ...]) -> None:
        nonlocal read
        for number, written in enumerate(graph[name]):
            targets = meant(written)
            if not targets:
                refused.append(((name, number + 2), "no file matches"))
            for target in targets:
                if not once:
                    if target == "missing":
                        refused.append(((name, number + 2), "can't be read"))
                        continue
                    read += 1
                    if read > MAX_INCLUDES:
                        if read == MAX_INCLUDES + 1:
                            refused.append(((name, number + 2), "more than"))
                        continue
                if target in trail:
                    refused.append(((name, number + 2), "cycle"))
                elif not once or target not in seen:
                    seen.add(target)
                    if target == "missing":
                        refused.append(((name, number + 2), "can't be read"))
                    else:
                        visit(target, (*trail, target))
        order.append(name)

    visit("main", ("main",))
    return order, refused


def lay_out(root: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        path = root / FOLDER / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def plain(name: str) -> str:
    return name.replace("/", "_")


def short(file: str) -> str:
    return file.removeprefix(FOLDER).removesuffix(".yml")


def assert_found(found: Sequence[Problem], refused: Sequence[tuple[Place, str]], files: Sequence[YamlFile]) -> None:
    by_name = {file.name: file for file in files}
    assert {(short(one.file), one.line) for one in found} == {place for place, _ in refused}
    for one in found:
        assert_stands_in(by_name[one.file], one.line, one.column)
        assert any(place == (short(one.file), one.line) and why in one.message for place, why in refused), one


@fuzzed(60)
@given(graph=GRAPHS)
def test_a_workflow_has_each_file_once_after_its_includes(
    graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "loom-includes"
    lay_out(root, {name: f"{include_of(graph, name, '{{local: {}}}')}.t-{plain(name)}: {{}}\n" for name in NAMES})
    main = root / "main.yml"
    main.write_text(include_of(graph, "main", "{{local: {}}}") + "version: v1\nstages: [x]\nj: {stage: x, script: x}\n")
    order, refused = visited(graph, once=True)
    found = loader.examine(main, root)
    assert found.workflow is not None
    assert [short(file.name) for file in found.workflow.files] == order
    assert [name.removeprefix(".t-") for name in found.workflow.templates] == list(map(plain, order[:-1]))
    assert_found(found.problems, refused, found.workflow.files)


@fuzzed(40)
@given(graph=GRAPHS)
def test_gitlab_merges_each_include_and_hands_inputs_down(
    graph: Graph, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.getbasetemp() / "gitlab-includes"
    spec = "spec: {inputs: {way: {}}}\n---\n"
    form = "{{local: {}, inputs: {{way: $[[ inputs.way ]]-NAME}}}}"

    def text(name: str) -> str:
        content = include_of(graph, name, form.replace("NAME", plain(name)))
        return f"{content}variables: {{LAST: {name}, {plain(name)}: '$[[ inputs.way ]]'}}\nj: {{script: x}}\n"

    lay_out(root, {name: spec + text(name) for name in NAMES})
    listed = [f"{FOLDER}{name}.yml" for name in NAMES]
    context = ResolveContext(files=lambda: listed, inputs={"way": "top"})
    found = examine_text("main.yml", (spec + text("main")).encode(), root, context)
    files = [YamlFile(name=f"{FOLDER}{name}.yml", text=spec + text(name)) for name in NAMES]
    files.append(YamlFile(name="main.yml", text=spec + text("main")))
    order, refused = visited(graph, once=False)
    header = spec.count("\n")
    assert_found(found.problems, [((name, line + header), why) for (name, line), why in refused], files)
    assert refused or found.workflow is not None
    if found.workflow is not None:
        assert found.workflow.root.find("variables").plain() == dict(ways(graph, order))  # type: ignore[union-attr]


def ways(graph: Graph, order: Sequence[str]) -> Iterator[tuple[str, str]]:
    """For each file, the names of the files on the last way that led to it."""

    def visit(name: str, way: str) -> Iterator[tuple[str, str]]:
        for written in graph[name]:
            for target in meant(written):
                yield from visit(target, f"{way}-{plain(name)}")
        yield plain(name), way

    yield "LAST", order[-1]
    yield from visit("main", "top")


# `$[[ inputs.NAME | function ]]`

VALUES = st.text("ab $A{}_é-'", max_size=8)
FUNCTIONS = st.sampled_from(("expand_vars", "truncate(0,3)", "truncate( 2 , 9 )"))
BLOCKS = st.tuples(st.sampled_from(("one", "two")), st.lists(FUNCTIONS, max_size=3), st.sampled_from(("", " ", "\n  ")))
MARKS = st.integers(0, 9).map(lambda number: f"mark{number}")


def applied(function: str, value: str) -> str:
    if function == "expand_vars":
        return re.sub(r"\$\{A\}|\$A(?![A-Za-z0-9_])", "known", value)
    first, length = map(int, re.findall(r"\d+", function))
    return value[first:][:length]


@fuzzed(100)
@given(
    values=st.fixed_dictionaries({"one": VALUES, "two": VALUES}),
    rows=st.lists(st.lists(MARKS | BLOCKS, min_size=1, max_size=4), max_size=5),
)
def test_interpolation_is_a_replacement_in_the_text(values: Mapping[str, str], rows: list[list[Any]]) -> None:
    written, replaced = [], []
    for row in rows:
        old, new = "", ""
        for piece in row:
            if isinstance(piece, str):
                old, new = old + piece, new + piece
            else:
                name, functions, space = piece
                old += f"$[[{space}{f'{space}|{space}'.join([f'inputs.{name}', *functions])}{space}]]"
                value = values[name]
                for function in functions:
                    value = applied(function, value)
                new += value
        written.append(f'- "{old}"\n' if old != row[0] else f"- {old}\n")
        replaced.append(f'- "{new}"\n' if old != row[0] else f"- {new}\n")
    file = YamlFile(name="x.yml", text="spec:\n  inputs: {one: {}, two: {}}\n---\n" + "".join(written))
    root = inputs.load(file, inputs.GivenInputs(texts=values, variables={"A": "known"}))
    assert file.problems == []
    whole = yaml_file.parse("".join(replaced).encode(), "x.yml").root
    assert (root and root.plain()) == (whole and whole.plain())
    for _, node in scalars_of(root) if root is not None else ():
        assert_stands_in(file, node.line, node.column)
        if node.style == "" and node.text.startswith("mark"):
            assert (file.line(node.line) or "")[node.column - 1 :] == node.text


@fuzzed(100)
@given(st.text("ab $~%#*\n\t\"'\\é-", max_size=12))
def test_an_escaped_input_is_one_word_for_a_shell(value: str) -> None:
    file = YamlFile(name="x.yml", text="spec:\n  inputs: {a: {}}\n---\n- |\n  $[[ inputs.a | posix_escape ]]\n")
    escaped = inputs.applied("posix_escape", value, inputs.GivenInputs())
    assert shlex.split(escaped) == [value]
    if re.fullmatch(r"[ -~]+", value):
        root = inputs.load(file, inputs.GivenInputs(texts={"a": value}))
        assert root is not None
        assert root.plain() == [escaped + "\n"]


# `$NAME` of a workflow

ATOMS = {"$$": "$", "$A.": "<A>.", "${B}": "<B>", "$C ": "<C> ", "${NO}": "${NO}", "$(A)": "$(A)", "x": "x", "{": "{"}
WRITTEN = st.lists(st.sampled_from(sorted(ATOMS)), max_size=5)


@fuzzed(100)
@given(variables=st.dictionaries(st.sampled_from("ABC"), WRITTEN, max_size=3), known=st.booleans())
def test_variables_expand_to_what_their_parts_mean(variables: Mapping[str, list[str]], known: bool) -> None:
    given = dict.fromkeys("ABC", "k") if known else {}
    cycle = False

    def value(name: str, trail: tuple[str, ...]) -> str:
        nonlocal cycle
        cycle |= name in trail
        if cycle:
            return ""
        return "".join(meaning(atom, (*trail, name)) for atom in variables[name])

    def meaning(atom: str, trail: tuple[str, ...]) -> str:
        name = re.search("<(.)>", ATOMS[atom])
        if name is None or not (name[1] in variables or known):
            return atom if name else ATOMS[atom]
        return ATOMS[atom].replace(name[0], value(name[1], trail) if name[1] in variables else "k")

    expected = {name: value(name, ()) for name in variables}
    texts = {name: "".join(atoms) for name, atoms in variables.items()}
    try:
        assert expand_all(texts, given) == expected
        assert not cycle
    except CycleError as error:
        found = error.cycle
    else:
        return
    assert cycle
    assert found[0] == found[-1]
    assert all(after in names(texts[name]) for name, after in pairwise(found))


@fuzzed(200)
@given(st.text("$AB{}_ é%n", max_size=20))
def test_a_text_that_names_nothing_known_stays(text: str) -> None:
    assert expand(text, {}) == text.replace("$$", "$")
    if "$" not in text:
        assert expand(text, {"A": "x"}) == text


# `!reference [JOB, KEY, ...]`

PATHS = st.lists(st.sampled_from("ab"), min_size=1, max_size=1).flatmap(
    lambda first: st.lists(st.sampled_from(("x", "y", "0", "1")), max_size=2).map(lambda more: (*first, *more))
)
LEAVES = st.integers(0, 3).map(lambda number: f"v{number}") | PATHS
JOBS = st.fixed_dictionaries(
    dict.fromkeys(
        "ab",
        st.dictionaries(
            st.sampled_from("xy"),
            st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6),
            max_size=2,
        ),
    )
)


class Refused(Exception):
    pass


def as_yaml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key}: {as_yaml(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(as_yaml, value)) + "]"
        case tuple():
            return f"!reference [{', '.join(map(repr, value))}]"
        case _:
            return str(value)


@fuzzed(60)
@given(jobs=JOBS)
def test_references_are_the_values_at_their_paths(jobs: dict[str, Any]) -> None:
    def resolved(value: Any, trail: tuple[tuple[str, ...], ...] = ()) -> Any:
        match value:
            case dict():
                return {key: resolved(item, trail) for key, item in value.items()}
            case list():
                return [resolved(item, trail) for item in value]
            case tuple():
                if value in trail:
                    raise Refused
                found: Any = jobs
                for key in value:
                    if isinstance(found, tuple):
                        found = resolved(found, (*trail, value))
                    try:
                        found = found[int(key)] if isinstance(found, list) else found[key]
                    except (LookupError, ValueError, TypeError):
                        raise Refused from None
                return resolved(found, (*trail, value))
            case _:
                return value

    file = YamlFile(name="x.yml", text=as_yaml(jobs))
    root, problems = yaml.parse(file)[0], Problems()
    assert root is not None
    assert file.problems == []
    found = Resolver(root, problems).resolved()
    for problem in problems.found:
        assert_stands_in(file, problem.line, problem.column)
    try:
        assert found.plain() == resolved(jobs)
        assert problems.found == []
    except Refused:
        assert problems.found


def test_values_that_multiply_each_other_are_refused() -> None:
    aliases = "".join(f".a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    file = YamlFile(name="x.yml", text=f".a0: &a0 [x]\n{aliases}")
    yaml.parse(file)
    assert "the alias *a4 brings more than 100000 values" in file.problems[0].message
    chain = "".join(f".a{n}: &a{n} {{k: [[*a{n - 1}]]}}\n" for n in range(1, 60))
    file = YamlFile(name="x.yml", text=f".a0: &a0 [x]\n{chain}")
    yaml.parse(file)
    assert "leads deeper than 100 levels" in file.problems[0].message

    references = "".join(f"a{n}: {{k: [{', '.join([f'!reference [a{n - 1}, k]'] * 9)}]}}\n" for n in range(1, 9))
    file = YamlFile(name="x.yml", text=f"a0: {{k: [x]}}\n{references}")
    root, problems = yaml.parse(file)[0], Problems()
    assert root is not None
    Resolver(root, problems).resolved()
    assert "!reference [a4, k] brings more than 100000 values" in problems.found[0].message

    blocks = "$[[ inputs.a ]]" * 3000
    file = YamlFile(name="x.yml", text=f"spec: {{inputs: {{a: {{}}}}}}\n---\njob: {{script: {blocks}}}\n")
    assert inputs.load(file, inputs.GivenInputs(texts={"a": "x" * 2000})) is None
    assert [problem.message for problem in file.problems] == [
        "with its inputs, x.yml is larger than 4 MiB; hand over less"
    ]
