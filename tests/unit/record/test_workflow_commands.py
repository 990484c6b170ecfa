"""Workflow commands in lines of output, and what people see of them."""

import pytest

from loom.record.sections import CommandReader, OutputSection, reader_for
from loom.record.workflow_commands import command_in
from tests.support.waiting import promptly


@pytest.mark.parametrize(
    ("line", "name", "properties", "value"),
    [
        ("::error::m", "error", {}, "m"),
        ("  ::Warning file=a.py,line=3,col=4::m: n", "warning", {"file": "a.py", "line": "3", "col": "4"}, "m: n"),
        (
            "::notice title=a%2Cb%3Ac,file=x%25::one%0Atwo%253A",
            "notice",
            {"title": "a,b:c", "file": "x%"},
            "one\ntwo%3A",
        ),
        ("::group::A::B", "group", {}, "A::B"),
        ("::endgroup::", "endgroup", {}, ""),
        ("text ##[error]m", "error", {}, "m"),
        ("##[warning file=a;line=2]m", "warning", {"file": "a", "line": "2"}, "m"),
        ("::set-output name=a::b=c", "set-output", {"name": "a"}, "b=c"),
    ],
)
def test_commands(line: str, name: str, properties: dict[str, str], value: str) -> None:
    found = command_in(line)
    assert found is not None
    assert (found.name, found.properties, found.value) == (name, properties, value)


@pytest.mark.parametrize(
    "line", ["text ::error::m", "::nonsense::x", ": :error::m", "::error", "std::error::code", "##[x]y", ""]
)
def test_no_commands(line: str) -> None:
    assert command_in(line) is None
    assert CommandReader().seen(line) == [line]


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("::error file=a,line=2,title=T::m", ["Error: T: m (a:2)"]),
        ("::error file=a,line=2::m%0An", ["Error: m (a:2)", "n"]),
        ("::warning::m", ["Warning: m"]),
        ("::warning title=a%0Ab,file=c%0Ad::m", ["Warning: a b: m (c d)"]),
        ("::group::A%0A\x1b[2JB", ["A B"]),
        ("::error::", ["Error: "]),
        ("::debug::m", []),
        ("::add-mask::m", []),
        ("::group::G", ["G"]),
        ("::endgroup::", []),
    ],
)
def test_what_is_seen(line: str, seen: list[str]) -> None:
    assert CommandReader().seen(line) == seen


def test_debugging_shows_debug_alone() -> None:
    reader = CommandReader(debug=True)
    assert reader.seen("::debug::a%0Ab") == ["Debug: a", "b"]
    assert reader.seen("::add-mask::a") == []


def test_groups_and_stopped_commands() -> None:
    reader = CommandReader()
    found: list[str] = []
    for line in [
        "::group::A",
        "one",
        "::group::B",
        "two",
        "::endgroup::",
        "::stop-commands::t",
        "::error::x",
        "::t::",
        "::error::y",
    ]:
        for part in reader.parts(line):
            if isinstance(part, OutputSection):
                found.append(f"{'<' if part.ended is None else '>'}{part.title}")
            else:
                found.append(part)
    assert found == ["<A", "one", ">A", "<B", "two", ">B", "::error::x", "Error: y"]
    assert reader.open == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["::error" + " " * 1_000_000, "::error " + ": " * 1_000_000, "##[a " * 1_000_000, " " * 1_000_000 + "::"]
)
def test_a_long_line_takes_no_time(line: str) -> None:
    with promptly():
        assert command_in(line) is None


@pytest.mark.parametrize(
    ("planned", "seen"),
    [({}, ["::debug::d"]), ({"commands": True}, []), ({"commands": True, "debug": True}, ["Debug: d"])],
)
def test_the_plan_says_how_a_job_s_output_is_read(planned: dict[str, bool], seen: list[str]) -> None:
    assert reader_for(planned).seen("::debug::d") == seen
