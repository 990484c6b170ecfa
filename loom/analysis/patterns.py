"""Failures and their places, read from lines of output. The formats of tools are data: `patterns.yml`, beside this module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.record.documents import Document, Why
from loom.status import Code, Count, FailingTest
from loom.util.paths import JOB_PLACE

GAP = "…"
"""Stands between lines that do not follow each other."""
MOST_FAILURES = 20
MOST_GROUPS = 10
_GROUPS = ("test", "file", "line", "column", "message", "code")


class Failure(Document, frozen=True, kw_only=True):
    """One thing that a tool reports as wrong."""

    tool: str
    """The name of the format."""
    test: str | None = None
    file: str | None = None
    line: Code | None = None
    column: Code | None = None
    message: str | None = None
    code: str | None = None
    """The tool's own name for the kind: a rule, or an error's code."""


class Group(Document, frozen=True, kw_only=True):
    """Failures of one cause: the same message but for numbers, names in quotes and paths."""

    message: str
    """That of the first one."""
    count: Count
    first: Failure


class Format(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of the table, which explains its fields."""

    name: str
    words: list[str]
    pattern: list[str]
    within: int = 0
    repeat: bool = False

    @property
    def why(self) -> Why:
        return "test" if any("(?P<test>" in pattern for pattern in self.pattern) else "error"


Search = Callable[[str], Mapping[str, str | None] | None]
"""The named groups of a pattern that is found in a line."""


class Reader(Struct, frozen=True):
    """A format that is ready to read lines."""

    format: Format
    searches: Sequence[Search]


@cache
def table() -> tuple[Format, ...]:
    data = Path(__file__).with_suffix(".yml").read_bytes()
    return msgspec.yaml.decode(data, type=tuple[Format, ...])


def words(formats: Sequence[Format]) -> dict[str, Why]:
    """What the lines of these formats contain, and what they tell."""
    return {word: each.why for each in formats for word in each.words}


@cache
def readers() -> tuple[Reader, ...]:
    return tuple(Reader(each, [_search(pattern) for pattern in each.pattern]) for each in table())


def _search(pattern: str) -> Search:
    compiled = re.compile(pattern)

    def found(line: str) -> Mapping[str, str | None] | None:
        match = compiled.search(line)
        return match.groupdict() if match else None

    return found


def failures(lines: Sequence[str], formats: Sequence[Reader]) -> list[Failure]:
    """What the lines report, in order; a test that is named several times is one failure."""
    found: dict[object, Failure] = {}
    at = 0
    while at < len(lines):
        read = next((result for reader in formats if (result := _read(reader, lines, at))), None)
        for failure in read[0] if read else ():
            key: object = (failure.tool, bare_name(failure.test)) if failure.test else failure
            found[key] = _merged(found[key], failure) if key in found else failure
        at = read[1] if read else at + 1
    return list(found.values())


def _read(reader: Reader, lines: Sequence[str], at: int) -> tuple[list[Failure], int] | None:
    """The failures that begin in this line, and where the next line to read is."""
    first, *others = reader.searches
    groups = first(lines[at])
    if groups is None:
        return None
    found = dict(groups)
    after = at + 1
    for search in others:
        place = _next(search, first, lines, after, reader.format.within)
        if place is None:
            break
        found |= {name: value for name, value in (search(lines[place]) or {}).items() if value is not None}
        after = place + 1
    if not found.get("message") and not found.get("test"):
        return None
    result = [_failure(reader.format.name, found)]
    while reader.format.repeat and (place := _next(reader.searches[-1], first, lines, after, 0)) is not None:
        result.append(_failure(reader.format.name, {**found, **(reader.searches[-1](lines[place]) or {})}))
        after = place + 1
    # What lies between the parts of a match may tell of its own; only the part that follows directly is used up.
    return result, after if reader.format.repeat or not reader.format.within else at + 1


def _next(search: Search, first: Search, lines: Sequence[str], at: int, within: int) -> int | None:
    """The line, `within` lines further at most, in which it is found; gaps do not count, another beginning ends it."""
    while at < len(lines) and within >= 0:
        if search(lines[at]) is not None:
            return at
        if first(lines[at]) is not None:
            return None
        within -= lines[at] != GAP
        at += 1
    return None


def _failure(tool: str, groups: Mapping[str, str | None]) -> Failure:
    text = {name: (groups.get(name) or "").strip() or None for name in _GROUPS}
    file = text["file"]
    return Failure(
        tool=tool,
        test=text["test"],
        file=None if file is None else from_root(file),
        line=_number(text["line"]),
        column=_number(text["column"]),
        message=text["message"],
        code=text["code"],
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 else None


def _merged(one: Failure, other: Failure) -> Failure:
    """The first one, with what it lacks: a place as a whole."""
    if one.line is None and other.line is not None:
        one = replace(one, file=other.file, line=other.line, column=other.column)
    return replace(one, message=one.message or other.message, code=one.code or other.code)


def bare_name(test: str | None) -> str | None:
    """A test's own name, without those of file and class, which tools write in several ways."""
    return None if test is None else re.split(r"::|\.(?=\w+(?:\[|$))| › | > | \(", test)[-1].rstrip(")")


_ROOTS = re.compile(rf"^(?:/workspace|\S*/{JOB_PLACE})/|^\./")


def from_root(path: str) -> str:
    """The path as it is in the project."""
    return _ROOTS.sub("", path)


# -- groups -----------------------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+|'[^']*'|\"[^\"]*\"|`[^`]*`|(?:[\w.-]*/)+[\w.-]*")


def groups(found: Sequence[Failure], tests: Sequence[FailingTest]) -> list[Group]:
    """Failures by their cause, the most frequent first; of tests that a report names, the report counts."""
    counted: dict[str, list[Failure]] = {}
    for failure in (*_of_reports(tests), *(each for each in found if not (tests and each.test))):
        counted.setdefault(_cause(failure), []).append(failure)
    result = [Group(message=_message(same[0]), count=len(same), first=same[0]) for same in counted.values()]
    return sorted(result, key=lambda group: -group.count)


def _of_reports(tests: Sequence[FailingTest]) -> Iterator[Failure]:
    for test in tests:
        yield Failure(tool="junit", test=test.full_name, file=test.file, line=test.line, message=test.reason or None)


def _message(failure: Failure) -> str:
    return failure.message or failure.code or failure.test or ""


def _cause(failure: Failure) -> str:
    return _VARIABLE.sub("·", failure.code or failure.message or "")
