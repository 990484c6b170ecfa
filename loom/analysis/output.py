"""The output of a failed step as its diagnosis sees it: few lines, each looked at once, from which everything else is chosen.

The recorder keeps the lines that tell while the output comes (`record/highlights.py`). When the step has ended, these and the
last lines are read; all who choose among them ask the same `ReadLine`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from typing import Any, Literal

from msgspec import Struct

from loom.analysis.locations import Location, WorkingDirectories, locations_in
from loom.record.documents import Highlights
from loom.record.events import OutputEvent
from loom.record.highlights import clipped, form_of, speaks_of_error
from loom.record.sections import SectionReader
from loom.util.controls import visible

GAP = "…"
"""Stands between lines that do not follow each other."""
LINES_READ = 400
LINES_SHOWN = 14
MOST_REASON = 5
"""Lines of a reason that a script prints before `exit` in words that speak of no error."""
MOST_AFTER = 200
"""Lines from the end among which one whose meaning is known is looked for."""
MOST_ALIKE = 3
"""The number of shown lines that may differ in numbers alone."""

Part = Literal["before", "said", "own"]
"""The command that ended the step printed its `own` lines; `said` are those of the last one before it that printed something."""

_COUNTED: tuple[tuple[Part, str], ...] = (("own", ""), ("said", "said_"))
"""The parts of the output, and the fields in which an `EndedBy` counts the lines before them."""
_HEADING = re.compile(r"\s*(?:Traceback \(most recent call last\)|stack traceback):")
"""Its error follows it, after indented lines, or is before it."""
_PASSES_ON = re.compile(
    r"[\s|]*(?:raise|throw)\s|(?!.*Error\b)[^:]{0,60}:$|[\s|]*Traceback |[✗✘] Build failed in "
    r"|\s*Uncaught exception in |.*\*\*\* .*Error \d+|ninja: build stopped"
    r"|npm (?:ERR!|error)(?: (?:code|errno|syscall|path|A complete log)\b|\s*$|\s+/\S+\.log$)"
    r"|[\s|+]*Exception ?Group\b|Aborted with \d+ warnings?\b|={3,} (?:FAILURES|ERRORS) =|Finished in "
    r"|tar: (?:Child returned|Error is not recoverable|Exiting with)|collect2: error: ld returned"
    r"|clang\S*: error: linker command failed|fatal: Could not read from remote|BEGIN failed--|Compilation failed in require"
    r"|Node\.js v\d|FAILED \((?:errors|failures)=|\d+ errors? (?:generated\.$|in )|ERROR \S+\.py\b|[!=]{3,} "
    r"|subprocess\.CalledProcessError: |ImportError while (?:loading|importing) "
    r"|.*: finished with status 'error'$|\s*error: subprocess-exited-with-error$"
    r"|rake aborted!|-- Configuring incomplete|Execution of \S+ aborted|FAILED: "
)
"""The source of an error whose message follows, a title, or a program that reports the end of another."""
_MILD = re.compile(r"\b(?:warning|note|info|debug|hint)\b|^\s*(?:PASS|ok|OK|✓|✔)\b", re.IGNORECASE)
_EXCEPTION = re.compile(r"(?:\w+\.)*\w+(?:Error|Exception): ")
_LETTER = re.compile(r"[^\W\d_]")
_FATAL = re.compile(r".*\b(?:CRITICAL|FATAL)\b")
_LOGGED = re.compile(r"\[?(?:\d{4}-\d\d-\d\d[T ]|\d\d:\d\d:\d\d\b|(?:DEBUG|INFO|WARNING)\b|(?:ERROR|CRITICAL):)")
"""The beginning of a line that a logger wrote."""
_BY_PROGRAM = re.compile(r"(?!fatal:|error:|warning:)[a-z][\w.+-]*: ")
_FRAME = re.compile(r"\s|#\s+at |\S+:\d+: ?in ")
_SURVIVED = re.compile(
    r"(?:\S+: )*(?:fatal|error|fatal error|E): |(?:\w+\.)*\w+(?:Error|Exception): "
    r"|\S+: .*(?:command not found|: not found|No such file or directory|Permission denied)$"
)
"""The beginning of a line that is an error in the words of a tool, not a text that has such words in it."""


class ReadLine:
    """A line of output, and what it says, which is found out once."""

    def __init__(self, text: str, part: Part = "own", printed: str | None = None) -> None:
        self.text = clipped(text)
        self.part: Part = part
        self.printed = self.text if printed is None else printed
        """The line with the workflow command that people see as `text`."""

    @cached_property
    def blank(self) -> bool:
        """Return whether it says nothing: it is empty, or has no letter."""
        return _LETTER.search(self.text) is None

    @cached_property
    def tells(self) -> bool:
        return speaks_of_error(self.text)

    @cached_property
    def mild(self) -> bool:
        """Return whether it is a warning, or a success."""
        return _MILD.search(self.text) is not None

    @cached_property
    def passes_on(self) -> bool:
        """Return whether it is a title, or reports the end of another program."""
        return _PASSES_ON.match(self.text) is not None

    @cached_property
    def frame(self) -> bool:
        """Return whether it may be a line of a trace."""
        return _FRAME.match(self.text) is not None

    @cached_property
    def form(self) -> str:
        return form_of(self.text)

    @cached_property
    def locations(self) -> Sequence[Location]:
        return locations_in([self.text])


class ReadOutput(Struct, frozen=True):
    """The lines that tell, a gap between those that do not follow each other, then the last lines."""

    lines: Sequence[ReadLine] = ()
    marked: bool = False
    """Whether it is known which lines are those of the command that ended the step; else all are taken for its own."""
    complete: bool = True
    """Whether no earlier line that tells was left out."""

    def of(self, *parts: Part) -> list[ReadLine]:
        return [line for line in self.lines if line.part in parts]

    @property
    def reason(self) -> list[ReadLine]:
        """Return the lines that explain the end: the command's own; before an `exit`, those of the last command that printed,
        unless they are many and none speaks of an error: a clean-up."""
        said = self.of("said")
        short = len(said) <= MOST_REASON or any(line.tells for line in said)
        return self.of("own") or (said if short else []) or list(self.lines)

    @property
    def last(self) -> list[ReadLine]:
        """Return the end of the reason, without the earlier lines that tell."""
        reason = self.reason
        return reason[max((number + 1 for number, line in enumerate(reason) if line.text == GAP), default=0) :]


def output_of(
    last: Sequence[OutputEvent],
    highlights: Highlights,
    counts: Mapping[str, int],
    ended: Mapping[str, Any] | None,
    reader: SectionReader | None = None,
) -> ReadOutput:
    """Join the lines that tell and the last ones, as `reader` shows them. `counts`: the lines of the whole output, by
    `stdout_lines` and `stderr_lines`; `ended`: an `EndedBy`, by whose counts the parts are told apart."""
    reader = reader or SectionReader()
    starts = {
        part: {stream: ended[f"{name}{stream}_lines"] for stream in ("stdout", "stderr")}
        for part, name in _COUNTED
        if ended is not None and None not in (ended.get(f"{name}stdout_lines"), ended.get(f"{name}stderr_lines"))
    }
    marked = "own" in starts

    def part(is_after: Callable[[Mapping[str, int]], bool]) -> Part:
        return next((each for each in starts if is_after(starts[each])), "before") if marked else "own"

    number = {stream: counts.get(f"{stream}_lines", 0) for stream in ("stdout", "stderr")}

    def read(text: str, part: Part) -> list[ReadLine]:
        seen = reader.seen(text)
        return [
            ReadLine(visible(line), part, None if seen == [text] else "" if at else visible(text))
            for at, line in enumerate(seen)
        ]

    parted: list[tuple[str, Part]] = []
    for event in reversed(list(_uncut(last))):
        parted.append((event.text, part(lambda of: number[event.stream] > of[event.stream])))  # noqa: B023
        number[event.stream] -= 1
    early: list[ReadLine] = []
    before = 1  # the file's first line tells that the step began
    for line in highlights.lines if last else ():
        if line.seq >= last[0].seq:
            break
        whose = part(lambda of: line.line > 1 + sum(of.values()))  # noqa: B023
        if line.line != before + 1 and texts(early[-1:]) != [GAP]:  # a line that is not seen may stand between two
            early.append(ReadLine(GAP, whose))
        early += read(line.text, whose)
        before = line.line
    early += [ReadLine(GAP, early[-1].part)] if early and early[-1].text != GAP else []
    return ReadOutput(
        [*early, *(line for text, whose in reversed(parted) for line in read(text, whose))], marked, highlights.complete
    )


def _uncut(events: Iterable[OutputEvent]) -> Iterator[OutputEvent]:
    """Yield the lines; move those of the other stream out of a traceback, behind it: the order of two streams is arbitrary."""
    held: list[OutputEvent] = []
    inside: str | None = None
    for event in events:
        if inside not in (None, event.stream):
            held.append(event)
            continue
        yield event
        if inside is None or not event.text[:1].isspace():
            inside = event.stream if _HEADING.match(event.text) else None
            if inside is None:
                yield from held
                held = []
    yield from held


def telling_line(lines: Sequence[ReadLine], at: WorkingDirectories, message: str | None) -> str | None:
    """Choose the line to look at first: the `message` of a failure, an error in a file that is there, an error, a line that
    names such a file, the last one."""
    caught = _caught(lines)
    first = (message or "").partition("\n")[0][:100]
    named = (line for line in lines if first and first in line.text and line not in caught)
    if (line := next(named, None)) is not None:
        return line.text
    survived = max((number + 1 for number, line in enumerate(lines) if line.text.endswith("(ignored)")), default=0)
    told = [line for line in _skip_frames(lines[survived:]) if not line.blank]
    own = [line for line in told if not line.passes_on]
    errors = [line for line in own if line.tells and line not in caught and (own[-1].mild or not line.mild)]
    inside = [line for line in own if at.are_there(line.locations)]
    of_checkout = [line for line in inside if not (line.frame or line.mild)]
    plain = [line for line in errors if not line.mild]
    fatal = [line for line in plain if _FATAL.match(line.text)]
    both = [line for line in plain if line in of_checkout]
    return next(
        (line.text for each in (both, fatal, of_checkout, plain, errors, inside, own[::-1], told) for line in each),
        None,
    )


def known_at_end(lines: Sequence[ReadLine], is_known: Callable[[str], bool], command: str) -> str | None:
    """Return the last line that is known, unless a line after it is an error in the words of another tool, or what `command`
    survived: an exception in a log, or one after which its program went on; the words of another program, likewise."""
    others: set[str] = set()
    went_on = False
    for line in reversed(lines[-MOST_AFTER:]):
        if line.text.endswith("(ignored)"):
            return None
        if not line.blank and is_known(line.text):
            by_other = _BY_PROGRAM.match(line.text) and not re.search(rf"\b{re.escape(_tool(line))}\b", command)
            caught = line in _caught(lines) or (went_on and (by_other or _EXCEPTION.match(line.text)))
            return line.text if others <= {_tool(line)} and not caught else None
        went_on = went_on or not (line.blank or line.passes_on or line.text[:1].isspace())
        if line.tells and not (line.passes_on or line.text[:1].isspace()):
            others.add(_tool(line))
    return None


def _tool(line: ReadLine) -> str:
    """Return the first word, which names the tool in most messages."""
    return re.split(r"[\s:]", line.text.strip(), maxsplit=1)[0]


def _caught(lines: Sequence[ReadLine]) -> list[ReadLine]:
    """Return the exceptions that a program printed by themselves, without a trace, or in its log, and went on."""
    around = zip([ReadLine("it began"), *lines], lines, lines[1:], strict=False)
    logged = [
        next((after for after in lines[number + 2 :] if not after.text[:1].isspace()), line)
        for number, line in enumerate(lines[:-1])
        if _LOGGED.match(line.text) and _HEADING.match(lines[number + 1].text)
    ]
    return logged + [
        line
        for before, line, after in around
        if _EXCEPTION.match(line.text)
        and not line.text.endswith(":")
        and (
            _LOGGED.match(after.text)
            or (after.text.strip() and before.text.strip() and not (before.text[:1].isspace() or after.frame))
        )
    ]


def _skip_frames(lines: Sequence[ReadLine]) -> Iterator[ReadLine]:
    """Yield all lines but those of a traceback before its error."""
    inside = False
    for line in lines:
        inside = _HEADING.match(line.text) is not None or (inside and line.text[:1].isspace())
        if not inside:
            yield line


def earlier_error(output: ReadOutput, shown: str, script: str) -> str | None:
    """Choose the last error before the command's own lines: none that is shown, or that the script itself has the words of."""
    own = {line.text for line in output.of("own")} | {shown}
    errors = (line.text for line in reversed(output.of("before", "said")) if _SURVIVED.match(line.text))
    return next((text for text in errors if text not in own and text.strip() not in script), None)


def lines_that_matter(lines: Sequence[ReadLine], *, telling: str | None) -> list[str]:
    """Select at most `LINES_SHOWN` lines: the telling one, the last ones, errors with one line of context each, the last ones
    first, and few that differ in numbers alone. A gap marks what is left out."""
    while lines and not lines[-1].text.strip():
        lines = lines[:-1]
    end = len(lines)
    if end <= LINES_SHOWN:
        return [line.text for line in lines]
    head = (telling or "").strip()[:200]
    told = [at for number, line in enumerate(lines) if line.text.strip()[:200] == head for at in (number, number + 1)]
    early = max((number for number, line in enumerate(lines) if line.text == GAP), default=0)
    wanted = chain(
        told[:2],
        range(end - 1, end - 4, -1),
        _errors(lines),
        range(early - 1, -1, -1),  # what was chosen, then the end
        range(end - 1, early, -1),
    )
    keep = sorted(islice(dict.fromkeys(at for at in wanted if 0 <= at < end), LINES_SHOWN - 3))  # room for gaps
    shown: list[str] = []
    for before, number in zip([-1, *keep], keep, strict=False):
        texts = [*([GAP] if number != before + 1 else []), lines[number].text]
        shown += [text for text in texts if text != GAP or shown[-1:] != [GAP]]
    return shown if len(shown) <= LINES_SHOWN else [GAP, *shown[len(shown) - LINES_SHOWN + 1 :]]


def _errors(lines: Sequence[ReadLine]) -> Iterator[int]:
    forms: Counter[str] = Counter()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].tells and forms[lines[number].form] < MOST_ALIKE:
            forms[lines[number].form] += 1
            yield from (number, number + 1, number - 1)


def texts(lines: Iterable[ReadLine]) -> list[str]:
    return [line.text for line in lines]
