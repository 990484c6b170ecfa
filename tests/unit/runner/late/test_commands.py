"""Commands are found at any boundaries of output, and every byte is passed on."""

import random

from loom.runner.late.commands import CommandFilter
from loom.status import Stream
from tests.support.waiting import promptly

OUTPUT = b"""one std::move
::error::first
  ::add-mask::hidden
text ::no
##[group]title
::stop-commands::pause
::error::not one
::pause::
::notice::last
a:
:
::
::debug::no end"""


def test_commands_at_any_boundaries() -> None:
    for seed in range(200):
        chance = random.Random(seed)
        passed: list[tuple[Stream, bytes]] = []
        found: list[str] = []
        commands = CommandFilter(
            lambda stream, data, passed=passed: passed.append((stream, data)),
            lambda one, found=found: found.append(one.value),
        )  # type: ignore[misc]
        at = 0
        while at < len(OUTPUT):
            size = chance.randint(1, 12)
            commands("stdout", OUTPUT[at : at + size])
            commands("stderr", b"::other")
            at += size
        commands.end()
        assert b"".join(data for stream, data in passed if stream == "stdout") == OUTPUT
        assert found == ["first", "hidden", "title", "last", "no end"], seed
        assert all(data for _, data in passed), "nothing is passed on for nothing"


def test_a_command_is_carried_out_before_its_line_is_passed_on() -> None:
    order: list[str] = []
    commands = CommandFilter(lambda _, data: order.append(data.decode()), lambda one: order.append(f"<{one.value}>"))
    commands("stdout", b"a\n::add-")
    commands("stdout", b"mask::x\nb\n")
    assert order == ["a\n", "<x>", "::add-mask::x\nb\n"]


def test_the_rest_of_a_line_is_none_of_its_own_and_the_next_line_is() -> None:
    found: list[str] = []
    looked: list[str] = []
    commands = CommandFilter(lambda *_: None, lambda one: found.append(one.value))
    commands("stdout", b"text")
    commands("stdout", b"::error::no\n::error::yes\r\n::error::too\nmore ")
    commands("stdout", b"::error::no\n")
    commands.look = looked.append
    commands("stdout", b"::error::last\n\nseen\r\n::unknown::x\nheld")
    commands.end()
    assert found == ["yes", "too", "last"]
    assert looked == ["seen", "::unknown::x", "held"]


def test_while_commands_are_stopped_their_lines_are_looked_at() -> None:
    found: list[str] = []
    looked: list[str] = []
    commands = CommandFilter(lambda *_: None, lambda one: found.append(one.value))
    commands.look = looked.append
    commands("stdout", b"::stop-commands::pause\n::error::seen\n::pause::\n::error::last\n")
    assert (found, looked) == (["last"], ["::error::seen"])


def test_blank_lines_take_no_time() -> None:
    commands = CommandFilter(lambda *_: None, lambda _: None)
    with promptly():
        commands("stdout", b"\n" * 3_000_000 + b"a::b\n")
