"""A failure is what the failing command said as a whole: made in one way, and compared in one way, for all commands."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from loom.analysis import formats, patterns
from loom.record.documents import Document
from loom.record.event_files import output_in, whole_lines
from loom.record.highlights import speaks_of_error
from loom.record.reader import Reading
from loom.status import Code, Count, failing_tests_total
from loom.util.bounded import listed
from loom.util.controls import cleaned, visible
from loom.util.paths import JOB_DIRECTORY
from loom.values import Immutable

LINES_READ = 50_000
"""Of a longer output of the failing command, the last ones are read."""
_MOST = 2000
"""Findings, and lines with values, that are compared."""
_SHOWN = 3
_LONGEST = 300
_DIGITS = re.compile(r"\d+")
_NUMBER = re.compile(r"^\s*\d+\)\s")
_NAMED = re.compile(r"\s*(?:\d+\)|[✗✘✖×●]|not ok\b)\s")
"""The beginning of a line with the name of a failed test, in the lists of many tools."""
_VALUE = re.compile(
    r"(?i)\s*(?:E\s|[-+|#>]|\d+ \|)*\s*"
    r"(?:(?:expected|received|actual|got|wants?|wanted|left|right|assert\w*|but was)\b|[-+]\s?\S)"
)
"""The beginning of a line by which a test shows what it compares."""
LINE_COMPARED = 4000
"""Longer lines are compared as they are."""


class Finding(Document):
    """One thing that failed: a test, a finding of a linter or compiler, or a line that speaks of an error."""

    name: str
    is_test: bool = False
    line: Code | None = None
    """Of a finding that is no test."""
    message: str | None = None

    @property
    def text(self) -> str:
        return f"{self.name}: {self.message}" if self.message else self.name


class JobEnding(Document):
    """The end of a job on one side."""

    status: str
    command: str | None
    """The command that ended it, its first line; of a server's log and of loom alike, an entry of the script."""
    exit_code: Code | None
    error: str | None = None
    """The words of loom or the runner about a job that no command ended."""
    findings: list[Finding] = []
    """All that failed, as the tests' reports say, else as the command printed it."""
    values: list[str] = []
    """The lines by which tests show what they compare."""
    lines_total: Count = 0
    """The lines that the command printed."""

    @property
    def text(self) -> str:
        by = f"`{self.command}`" if self.command else self.status
        code = f" gave {self.exit_code}" if self.exit_code is not None else ""
        first = self.error or next((one.text for one in self.findings), "")
        return f"{by}{code}{f': {first.strip()[:_LONGEST]}' if first else ''}"


class Comparison(Immutable):
    """Two endings compared. `text` says what is the same, or the first thing that is not."""

    same: bool
    text: str


# -- making ----------------------------------------------------------------------------------------------------------


def ending(
    status: str,
    *,
    command: str | None = None,
    exit_code: int | None = None,
    error: str | None = None,
    lines: Iterable[str] = (),
    reported: Sequence[Finding] = (),
) -> JobEnding:
    """Make the ending of a job. `lines`: what the failing command printed; `reported`: the tests that reports name."""
    total, last = 0, deque[str](maxlen=LINES_READ)
    for line in lines:
        total += 1
        last.append(line)
    failed = [] if status == "success" else list(last)
    found = _findings(failed, reported, ended=status == "failure")
    values = [line.strip()[:_LONGEST] for line in failed if _VALUE.match(line)]
    return JobEnding(
        status=status,
        command=first_line(command),
        exit_code=exit_code,
        error=(error or "").strip().split("\n")[0] or None,
        findings=found[:_MOST],
        values=values[:_MOST],
        lines_total=total,
    )


def _findings(lines: Sequence[str], reported: Sequence[Finding], *, ended: bool) -> list[Finding]:
    """`ended`: the command ended by itself, so that its last line is one that it ends with."""
    printed = patterns.failures(lines, formats.readers())
    tests = [Finding(name=one.test, is_test=True, message=one.message) for one in printed if one.test]
    others = [
        Finding(name=" ".join(filter(None, (one.file, one.code))) or one.tool, line=one.line, message=one.message)
        for one in printed
        if not one.test
    ]
    if found := [*(reported or tests), *others]:
        return found
    told = dict.fromkeys(
        _NUMBER.sub("", line).strip()[:LINE_COMPARED] for line in lines if speaks_of_error(line) or _NAMED.match(line)
    )
    last = next((line.strip()[:LINE_COMPARED] for line in reversed(lines) if ended and line.strip()), None)
    return [Finding(name=line) for line in told or ([last] if last else [])]


def recorded(reading: Reading, job_id: str) -> JobEnding:
    """Read the ending of a job of a run."""
    if job_id not in reading.fold.jobs:
        return JobEnding(status="skipped", command=None, exit_code=None, error=reading.receipt().error)
    manifest = reading.job_manifest(job_id)
    status, step, section = str(manifest.status), manifest.failing_step, manifest.failing_section
    file = reading.unit(job_id, step, section).events if step or section else None
    tests = manifest.failing_tests
    of_run = reading.receipt().error
    return ending(
        status,
        command=manifest.failing_command,
        exit_code=manifest.exit_code,
        error=None if step else of_run if status == "skipped" and of_run else manifest.error,
        lines=(visible(event.text) for event in whole_lines(output_in(file)))
        if file is not None and file.exists()
        else (),
        reported=[Finding(name=test.full_name, is_test=True, message=test.reason or None) for test in tests]
        if len(tests) == failing_tests_total(tests, manifest.test_reports)
        else (),
    )


def first_line(command: str | None) -> str | None:
    """Return the first line of a command, which is all that a server shows of several."""
    lines = (command or "").strip().splitlines()
    return lines[0].removesuffix("# collapsed multi-line command").strip() if lines else None


# -- comparing -------------------------------------------------------------------------------------------------------


def compare(
    there: JobEnding, here: JobEnding, *, same_tree: bool = True, names: tuple[str, str] = ("there", "here")
) -> Comparison:
    """Compare two endings. `names`: of the two sides.

    `same_tree`: the values that tests compare count, and so do the lines of findings and the numbers in messages; else tests
    count by their names, since other files lead to other values.
    """
    both = ", ".join(f"{name} {one.text}" for name, one in zip(names, (there, here), strict=True))
    if there.status != here.status or (there.status in ("error", "skipped") and not same(there.error, here.error)):
        return Comparison(same=False, text=f"another end: {both}")
    by_name = not same_tree and any(one.is_test for one in there.findings)
    if not by_name and not same(there.command, here.command):
        return Comparison(same=False, text=f"another command: {both}")
    if None not in (there.exit_code, here.exit_code) and there.exit_code != here.exit_code:
        return Comparison(same=False, text=f"another exit code: {both}")
    if (other := _other_findings(there, here, names, same_tree)) is not None:
        return Comparison(same=False, text=other)
    if same_tree and (other := _other_value(there, here, names)) is not None:
        return Comparison(same=False, text=f"another value{other}")
    number = len(there.findings)
    what = "no error printed" if number == 0 else "same failure" if number == 1 else f"same {number} failures"
    cut = "" if max(there.lines_total, here.lines_total) <= LINES_READ else f", of the last {LINES_READ:,} lines"
    return Comparison(same=True, text=f"same failing command, same exit code, {what}{cut}")


def _form_of(one: Finding, *, same_tree: bool) -> tuple[str, int | None]:
    """Return what makes two findings the same one."""
    if same_tree or one.is_test:
        return value_form(one.name), one.line
    return _DIGITS.sub("#", value_form(one.text)), None


def _other_findings(there: JobEnding, here: JobEnding, names: tuple[str, str], same_tree: bool) -> str | None:
    """Return the findings of one side alone; None where there are none."""
    forms = [Counter(_form_of(one, same_tree=same_tree) for one in side.findings) for side in (there, here)]
    if forms[0] == forms[1]:
        return None
    told = []
    for side, name, only in zip((there, here), names, (forms[0] - forms[1], forms[1] - forms[0]), strict=True):
        texts = dict.fromkeys(
            one.text[:_LONGEST] for one in side.findings if _form_of(one, same_tree=same_tree) in only
        )
        told += [f"only {name}: {', '.join(listed(texts, _SHOWN))}"] if texts else []
    alike = (forms[0] & forms[1]).total()
    part = "a part of the failures" if alike else "other failures"
    return f"{part} (same command and exit code, {alike} of {max(map(Counter.total, forms))} alike); {'; '.join(told)}"


def _told(one: Finding) -> tuple[tuple[str, int | None], str]:
    return _form_of(one, same_tree=True), value_form(one.message or "")


def _other_value(there: JobEnding, here: JobEnding, names: tuple[str, str]) -> str | None:
    """Return the first message or value that only one side has, or None."""
    told = [Counter(map(_told, side.findings)) for side in (there, here)]
    for one in there.findings:
        if _told(one) in told[0] - told[1]:
            form = _form_of(one, same_tree=True)
            others = (each for each in here.findings if _form_of(each, same_tree=True) == form)
            other = next((each for each in others if _told(each) in told[1] - told[0]), one)
            return f" in {one.name}: {names[0]} {one.message or 'nothing'}, {names[1]} {other.message or 'nothing'}"
    values = [Counter(map(value_form, side.values)) for side in (there, here)]
    if values[0] == values[1]:
        return None
    only = [next(iter(one - other), "nothing") for one, other in (values, values[::-1])]
    return f": {names[0]} `{only[0]}`, {names[1]} `{only[1]}`"


def same(one: str | None, other: str | None) -> bool:
    return normalised(one or "") == normalised(other or "")


# -- what varies from run to run -------------------------------------------------------------------------------------

_SHELL = re.compile(r"^(?:(?:/[\w./-]*)?\b\w*sh|/[\w./-]*/step\.\d+): (?:eval: )?(?:line )?\d+: ")
_SECRET = re.compile(r"\[MASKED\]|\[REDACTED:\w+\]|\*\*\*")
"""The marks that GitLab, loom and GitHub print for a secret."""
_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|[+-]\d\d:?\d\d))?|\d\d:\d\d:\d\d(?:[.,]\d+)?"
_DURATION = r"\d+(?:[.,]\d+)?\s?(?:ns|µs|us|ms|s|m|sec|secs|seconds?|min|minutes?)(?:\s?\d+(?:\.\d+)?m?s)?"
_VARYING: tuple[tuple[re.Pattern[str], str], ...] = (
    (_SHELL, "<shell>: "),
    (_SECRET, "<secret>"),
    (re.compile(rf"(?:/[\w.+-]+)*/{JOB_DIRECTORY}"), "<workspace>"),
    # A log's time stands before its text; a duration in parentheses, or after words that tell what it is.
    (re.compile(rf"^([\s\[(|]*)(?:{_TIME})"), r"\1<time>"),
    (re.compile(rf"([(\[])(?:{_DURATION})(?=[)\]])"), r"\1<duration>"),
    (
        re.compile(
            r"(?i)\b((?:finished|passed|failed|completed|done|ran \d+ tests?) in|took|elapsed:?|duration:?)(\s+)"
            rf"(?:{_DURATION}|[\d.]+ *$)"
        ),
        r"\1\2<duration>",
    ),
    # Addresses of objects and of code, not numbers in base 16: after `at` and `+`, or as long as pointers are.
    (
        re.compile(
            r"(?<=\bat )0x[0-9a-fA-F]{6,}(?=[>\s,)]|$)|(?<=\+)0x[0-9a-f]+|\b0x(?:7f|5[56]|c0)[0-9a-f]{8,10}\b"
        ),
        "<address>",
    ),
    (re.compile(r"(?i)\b(pid)([ =:]+)\d+\b|(?<=^==)\d+(?===)|^(thread '.*?')( )\(\d+\)"), r"\1\2\3\4<process>"),
    (
        re.compile(
            r"(?<=/tmp/)(?:tmp[.\w]{6,}|pytest-of-\w+/pytest-\d+|go-build\d+|[\w-]*\.[A-Za-z0-9]{6,10}(?![\w.])|[\w-]+?\d{6,})"
        ),
        "<temporary>",
    ),
)  # fmt: skip
"""The forms that are known to vary from run to run, as far as their place tells them from a value under test."""
_NOISE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"\b(?:{_TIME})\b|\b\d{{1,2}}:\d\d(?::\d\d)?(?:\.\d+)?\b"), "<time>"),
    (re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)\w* (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\w* +\d+\b"), "<date>"),
    (re.compile(r"\b\d{4}-\d{2}-\d{2}\b"), "<date>"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,64}\b"), "<hex>"),
    (re.compile(r"\b\d{16,20}\b"), "<number>"),
    (re.compile(rf"\b(?:{_DURATION})\b"), "<duration>"),
    (re.compile(r"/tmp/[\w./+-]+"), "<temporary>"),
    (re.compile(r"\b(port)([ =:]+)\d+\b", re.IGNORECASE), r"\1\2<number>"),
    (re.compile(r"((?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\])):\d+"), r"\1:<port>"),
)  # fmt: skip
"""What a program that tells of its work prints: times, ids, ports. Where values are compared, it may be one of them."""
_COMPARES = re.compile(
    r"(?i)expect|assert|receiv|actual|\b(?:got|want|wanted|should|must|equal|equals|differs?|mismatch|diff|left|right)\b|[!=]=|^\s*[-+<>]\s"
)


def value_form(text: str) -> str:
    """Return a text that may hold values under test, without what is known to vary by its place."""
    if len(text) > LINE_COMPARED:
        return text
    text = cleaned(text.strip())
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return text


def normalised(line: str) -> str:
    """Return a line of output without what varies from run to run; a line that may show a value under test keeps it."""
    if len(line) > LINE_COMPARED:
        return line
    found = value_form(line)
    if _COMPARES.search(found) or speaks_of_error(found):
        return found
    for pattern, word in _NOISE:
        found = pattern.sub(word, found)
    return found
