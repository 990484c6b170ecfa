"""Read failures and their positions from lines of output by the formats of tools."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from loom.analysis.formats import Finder, Reader
from loom.analysis.locations import project_path
from loom.record.documents import Document
from loom.record.workflow_commands import unescaped
from loom.status import Count, FailingTest, Failure
from loom.util.units import line_number

MOST_FAILURES = 20
MOST_GROUPS = 10
_NO_FAILURES = ("warn", "info", "note", "notice", "hint", "suggestion")
"""The beginning of a `severity` that reports no failure."""


class FailureGroup(Document):
    """Failures of one kind: the same message but for numbers, names in quotes and paths."""

    message: str
    count: Count
    first: Failure


def failures(lines: Sequence[str], formats: Sequence[Reader]) -> list[Failure]:
    """Return the failures that the lines report, in order. A test that several formats name is one failure.

    A test that fails because a part of it does, and has nothing to add, is no failure of its own.
    """
    found = _Found()
    at = 0
    while at < len(lines):
        for reader in formats:
            read, after = _read(reader, lines, at)
            if read:
                for failure in read:
                    found.add(failure, reader)
                break
        else:
            after = at + 1
        at = after
    parents = {each.test.rpartition("/")[0] for each in found.all if each.test}
    return [each for each in found.all if each.message or each.line or each.test not in parents]


class _Found:
    """Failures, each with the formats that name it."""

    def __init__(self) -> None:
        self.all: list[Failure] = []
        self._named: dict[tuple[str, str | None], list[tuple[int, set[Reader]]]] = {}

    def add(self, failure: Failure, reader: Reader) -> None:
        if failure in self.all:
            return
        # A test's name without that of its file, its parts joined in one way.
        name = failure.test and re.sub(r"^[^:\s]+\.py::", "", failure.test).replace("::", ".")
        same = self._named.setdefault((failure.tool, name), [])
        for number, readers in same if failure.test else ():
            if reader not in readers:
                readers.add(reader)
                self.all[number] = _merged(self.all[number], failure)
                return
        same.append((len(self.all), {reader}))
        self.all.append(failure)


def _read(reader: Reader, lines: Sequence[str], at: int) -> tuple[list[Failure], int]:
    """Return the failures that begin in this line, and the next line to read."""
    first, *others = reader.searches
    tool, within = reader.format.name, reader.format.within
    match = first(lines[at])
    if match is None:
        return [], at + 1
    found, after = match.groupdict(), at + 1
    for number, search in enumerate(others, 1):
        more = _next(search, first, lines, after, within)
        if more is None:
            return [], at + 1
        if reader.format.repeat and number == len(others):
            read: list[Failure] = []
            while more is not None:
                groups, after = more
                read += _failure(tool, found | groups)
                more = _next(search, first, lines, after, within)
            return read, after
        groups, after = more
        found |= groups
    while reader.format.joined and after < len(lines) and (not lines[after].strip() or others[-1](lines[after])):
        found["message"] = f"{found['message']}\n{lines[after].strip()}".strip()
        after += 1
    return _failure(tool, found), after


def _next(
    search: Finder, first: Finder, lines: Sequence[str], at: int, within: int
) -> tuple[dict[str, str], int] | None:
    """Return the groups of the next line in which it is found, `within` lines further at most, and the line after it; another
    beginning ends it, a gap counts."""
    for number in range(at, min(len(lines), at + within + 1)):
        if match := search(lines[number]):
            return {name: value for name, value in match.groupdict().items() if value is not None}, number + 1
        if first(lines[number]):
            return None
    return None


def _failure(tool: str, groups: Mapping[str, str | None]) -> list[Failure]:
    """Return the failure that these groups describe; None for a warning."""
    text = {name: (value or "").strip() or None for name, value in groups.items()}
    if (text.get("severity") or "").lower().startswith(_NO_FAILURES):
        return []
    file, message = text.get("file"), text.get("message")
    failure = Failure(
        tool=tool,
        test=text.get("test"),
        file=None if file is None else project_path(file),
        line=line_number(text.get("line")),
        column=line_number(text.get("column")),
        message=message and (unescaped(message) if tool == "github" else message),
        code=text.get("code"),
    )
    return [failure]


def _merged(one: Failure, other: Failure) -> Failure:
    """Return the first one, with what it lacks or has cut: the location as a whole, the longer name, the whole message."""
    if one.line is None and other.line is not None:
        one = replace(one, file=other.file, line=other.line, column=other.column)
    return replace(
        one,
        test=max(one.test or "", other.test or "", key=len) or None,
        file=one.file or other.file,
        message=other.message
        if one.message is None or (one.message.endswith("...") and other.message)
        else one.message,
        code=one.code or other.code,
    )


# A path begins where no part of one stands in front: tried at each letter of a long word, it would take the square of its length.
_VARIABLE = re.compile(r"(?<![\w.-])(?:[\w.-]*/)+[\w.-]*|0x[0-9a-fA-F]+|\d+|'[^']*'|\"[^\"]*\"|`[^`]*`")


def groups(found: Sequence[Failure], tests: Sequence[FailingTest]) -> list[FailureGroup]:
    """Return failures by their cause, the most frequent first; of tests that a report names, the report counts."""
    counted: dict[str, list[Failure]] = {}
    reported = (
        Failure(tool="junit", test=test.full_name, file=test.file, line=test.line, message=test.reason or None)
        for test in tests
    )
    for each in (*reported, *(each for each in found if not (tests and each.test))):
        counted.setdefault(_VARIABLE.sub("·", f"{each.code or ''} {each.message or ''}"), []).append(each)
    result = [
        FailureGroup(message=first.message or first.code or first.test or "", count=1 + len(more), first=first)
        for first, *more in counted.values()
    ]
    return sorted(result, key=lambda group: -group.count)
