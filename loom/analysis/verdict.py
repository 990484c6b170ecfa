"""Compare a job that failed elsewhere with a run of it here: the same failure, another one, or none, and where they part."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import Literal

from msgspec import Struct, field
from msgspec.structs import replace

from loom.analysis.diff import Pair, normalised
from loom.record.documents import Document
from loom.status import Code, Count

_REORDERED = 40
"""Lines that one side may be ahead of the other: two streams arrive in any order."""
_LINE = 300
_SEARCHED = 100_000
"""Lines after the parting in which tests are looked for."""
_MOST_TESTS = 10_000
_TEST = re.compile(
    r"\b(?:[\w./-]+\.py::[\w:]+|[\w./-]+[._](?:test|spec)\.[\w]+|Test[A-Z]\w*|[A-Z]\w*Tests?(?!\w)|test_\w+(?: \([\w.]+\))?)"
)


class JobEnding(Document, frozen=True, kw_only=True):
    """The end of the job on one side."""

    status: str
    command: str | None
    """The command that ended it, its first line."""
    exit_code: Code | None
    telling_line: str | None

    @property
    def text(self) -> str:
        by = f"`{self.command}`" if self.command else self.status
        code = f" gave {self.exit_code}" if self.exit_code is not None else ""
        line = f": {self.telling_line.strip()[:_LINE]}" if self.telling_line else ""
        return f"{by}{code}{line}"


class LogParting(Document, frozen=True, kw_only=True):
    """The first line that only one side has; `line` counts from 1 in the output of the command."""

    command: str
    line: Count
    there: str | None
    here: str | None
    reordered: bool = False
    """Whether both sides name the same tests in another order."""


ReasonKind = Literal[
    "ignored-file", "artifact", "variable", "history", "network", "machine", "time-zone", "order", "image", "cache"
]


class Reason(Document, frozen=True, kw_only=True):
    """A likely reason why a job fails on one side."""

    kind: ReasonKind
    text: str


class Reproduction(Document, frozen=True, kw_only=True):
    """The document of `loom reproduce --json`."""

    schema_version: Literal["loom.reproduction.v1"] = "loom.reproduction.v1"
    kind: Literal["reproduction"] = "reproduction"
    origin: str
    job_id: str
    run_id: str
    """The run here."""
    verdict: Literal["reproduced", "another-failure", "passes-here", "not-run"]
    """`not-run`: loom could not run the job, which says nothing about it."""
    text: str
    reasons: list[Reason] = field(default_factory=list)
    """The reasons that the logs mention come first."""
    there: JobEnding
    here: JobEnding
    parting: LogParting | None
    differs: list[Pair]
    """The known differences: `a` there, `b` here."""
    notes: list[str]
    """Facts and files that the server does not give, and their substitutes here."""


class Block(Struct, frozen=True):
    """A command and its output, in order. `lines` can be read once, before the next block is asked for."""

    command: str
    lines: Iterable[str]


def verdict(
    there: JobEnding, here: JobEnding, parting: LogParting | None
) -> tuple[Literal["reproduced", "another-failure", "passes-here", "not-run"], str]:
    """Return the verdict, and one line that says it."""
    if here.status == "success":
        at = f"the logs part at line {parting.line} of `{parting.command}`" if parting else "the logs do not differ"
        return "passes-here", f"passes here{', as there' if there.status == 'success' else ''}; {at}"
    if here.status in ("error", "canceled", "skipped") and here.status != there.status:
        return "not-run", f"the job did not run to its end here: {here.text}"
    if there.status == "success":
        return "another-failure", f"passed there, fails here: {here.text}"
    command = _same(_first_line(there.command), _first_line(here.command))
    code = there.exit_code == here.exit_code
    line = parting is None or _same(there.telling_line, here.telling_line)
    if command and code and line:
        return "reproduced", "reproduced: same failing command, same exit code, same telling line"
    same = [name for name, is_same in (("command", command), ("exit code", code), ("telling line", line)) if is_same]
    alike = f" (same {' and '.join(same)})" if same else ""
    return "another-failure", f"another failure{alike}: there {there.text}; here {here.text}"


def _first_line(command: str | None) -> str | None:
    """Return the first line of a command, which is all that a server shows of several."""
    lines = (command or "").strip().splitlines()
    return lines[0].removesuffix("# collapsed multi-line command").strip() if lines else None


_SHELL = re.compile(r"^(?:(?:/[\w./-]*)?\b\w*sh|/run/loom/step\.\d+): (?:eval: )?(?:line )?\d+: ")


_SECRET = re.compile(r"\[MASKED\]|\[REDACTED:\w+\]|\*\*\*")
"""The marks that GitLab, loom and GitHub print for a secret."""


def _form(line: str | None) -> str:
    """Return a line without what differs between any two runs, and without the name of the shell's script."""
    return normalised(_SECRET.sub("<secret>", _SHELL.sub("<shell>: ", (line or "").strip())))


def _same(one: str | None, other: str | None) -> bool:
    return _form(one) == _form(other)


def parting_of(there: Iterable[Block], here: Iterable[Block]) -> LogParting | None:
    """Return the first line, command by command, in which the two differ but for times, ids and temporary paths."""
    for one, other in zip_longest(there, here):
        command = (one or other).command
        if one is None or other is None or not _same(_first_line(one.command), _first_line(other.command)):
            texts = [None if each is None else _first_line(each.command) for each in (one, other)]
            return LogParting(command=_first_line(command) or "", line=0, there=texts[0], here=texts[1])
        if (found := _first_other(one.lines, other.lines)) is not None:
            return replace(found, command=_first_line(command) or "")
    return None


def _first_other(there: Iterable[str], here: Iterable[str]) -> LogParting | None:
    """Compare with a window, in constant memory: a line may come a few lines later on the other side."""
    waiting: tuple[deque[tuple[int, str, str]], deque[tuple[int, str, str]]] = (deque(), deque())
    tests: tuple[dict[str, None], ...] = ({}, {})
    both = zip_longest(*(_noting(lines, names) for lines, names in zip((there, here), tests, strict=True)))
    for number, lines in enumerate(both, 1):
        for side, line in enumerate(lines):
            if line is None:
                continue
            form, other = _form(line), waiting[1 - side]
            match = next((each for each in other if each[1] == form), None)
            if match is not None:
                other.remove(match)
            else:
                waiting[side].append((number, form, line))
        if any(queue and number - queue[0][0] > _REORDERED for queue in waiting):
            break
    first = [queue[0] if queue else None for queue in waiting]
    if first == [None, None]:
        return None
    number = min(each[0] for each in first if each is not None)
    texts = [each[2][:_LINE] if each is not None and each[0] - number <= _REORDERED else None for each in first]
    deque(islice(both, _SEARCHED), maxlen=0)
    orders = [[name for name in names if all(name in each for each in tests)] for names in tests]
    return LogParting(command="", line=number, there=texts[0], here=texts[1], reordered=orders[0] != orders[1])


def _noting(lines: Iterable[str], tests: dict[str, None]) -> Iterator[str]:
    """Pass lines with text on, and keep the names of tests in the order in which they come."""
    for line in filter(str.strip, lines):
        if ("est" in line or "spec" in line) and len(tests) < _MOST_TESTS and (found := _TEST.search(line[:_LINE])):
            tests.setdefault(found[0])
        yield line


def lines_of(found: Reproduction) -> Sequence[str]:
    """Return the verdict for a person."""
    lines = [found.text]
    if (parting := found.parting) is not None and found.verdict != "reproduced":
        lines.append(f"the logs part at line {parting.line} of `{parting.command}`:")
        lines += [
            f"  {side}: {'nothing' if text is None else text}"
            for side, text in (("there", parting.there), ("here ", parting.here))
        ]
    lines += [f"likely reason: {reason.text}" for reason in found.reasons]
    if found.differs:
        lines.append("what differs:")
        lines += [f"  {pair.name}: {pair.a or 'none'} there, {pair.b or 'none'} here" for pair in found.differs]
    return [*lines, *(f"note: {note}" for note in found.notes)]
