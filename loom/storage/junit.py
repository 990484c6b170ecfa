"""Parse JUnit XML reports of all test runners: totals, and the location of each failure.

Jobs write the reports, so they are parsed as a stream, without entities, up to `MAX_BYTES`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import IO, Literal
from xml.parsers import expat

from msgspec import Struct

from loom.status import FailingTest
from loom.storage.reports import UnreadableReport, in_project, short

MAX_BYTES = 64 << 20
MAX_FAILING = 1000
_MAX_TEXT = 64 << 10
_MAX_MESSAGE = 2000
_MAX_DEPTH = 200
_CHUNK = 1 << 16
_Inside = Callable[[str], str]


class Report(Struct, frozen=True, kw_only=True):
    """`failing` holds the first `MAX_FAILING` of `failures + errors` failed tests."""

    tests: int = 0
    failures: int = 0
    errors: int = 0
    skipped: int = 0
    failing: tuple[FailingTest, ...] = ()


def read(file: IO[bytes], *, project_dir: str = "/workspace", report: str | None = None) -> Report:
    """Parse one report. `project_dir` is the workspace path in the job; paths below it become relative.

    UnreadableReport for a file that is not XML, not JUnit, too large, or defines entities.
    """
    reader = _Reader(project_dir, report)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    size = 0
    try:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise UnreadableReport(f"it is larger than {MAX_BYTES >> 20} MiB")
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise UnreadableReport(f"it is not well-formed XML: {error}") from error
    except (LookupError, ValueError, OverflowError) as error:
        if isinstance(error, UnreadableReport):
            raise
        raise UnreadableReport(f"it can't be read: {error}") from error
    return reader.report()


def _refuse_doctype(*_: object) -> None:
    raise UnreadableReport("it has a document type declaration, which could define entities; JUnit reports have none")


class _Reader:
    """Process the elements; keep only the needed data."""

    def __init__(self, project_dir: str, report: str | None) -> None:
        self._project_dir = project_dir
        self._report_path = report
        self._suites: list[dict[str, str]] = []
        self._case: dict[str, str] | None = None
        self._outcome: tuple[Literal["failure", "error"], str, str] | None = None
        self._skipped = False
        self._text: str | None = None
        self._root: str | None = None
        self._depth = 0
        self._counts = {"tests": 0, "failure": 0, "error": 0, "skipped": 0}
        self._failing: list[FailingTest] = []

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableReport(f"its elements are nested more than {_MAX_DEPTH} deep")
        if self._root is None:
            self._root = tag
            if tag not in ("testsuites", "testsuite", "testcase"):
                raise UnreadableReport(
                    f"it is XML, but begins with <{tag[:60]}> and not with <testsuites> or <testsuite>"
                )
        if tag == "testsuite":
            self._suites.append(attributes)
        elif tag == "testcase":
            self._case, self._outcome, self._skipped, self._text = attributes, None, False, None
        elif self._case is not None and tag in ("failure", "error") and self._outcome is None:
            kind: Literal["failure", "error"] = "failure" if tag == "failure" else "error"
            self._outcome = (kind, attributes.get("message") or "", attributes.get("type") or "")
            self._text = ""
        elif tag == "skipped":
            self._skipped = True

    def text(self, data: str) -> None:
        if self._text is not None and len(self._text) < _MAX_TEXT:
            self._text += data[: _MAX_TEXT - len(self._text)]

    def end(self, tag: str) -> None:
        tag = tag.rpartition(":")[2]
        self._depth -= 1
        if tag == "testsuite" and self._suites:
            self._suites.pop()
        elif tag in ("failure", "error") and self._text is not None:
            self._finish_outcome(self._text)
            self._text = None
        elif tag == "testcase" and self._case is not None:
            self._counts["tests"] += 1
            if self._outcome is not None:
                self._counts[self._outcome[0]] += 1
            elif self._skipped:
                self._counts["skipped"] += 1
            self._case = None

    def _finish_outcome(self, text: str) -> None:
        assert self._case is not None, "the text of an outcome is within its case"
        assert self._outcome is not None, "its text began with it"
        if len(self._failing) >= MAX_FAILING:
            return
        kind, message, type_name = self._outcome
        classname = self._case.get("classname") or None
        suite = next((suite for suite in reversed(self._suites) if suite.get("file")), {})
        named = self._case.get("file") or suite.get("file")
        named = self._inside(named) if named else None
        found = _place(f"{message}\n{text}", named, classname, self._inside)
        file, line = found if found is not None else (named, self._line())
        self._failing.append(
            FailingTest(
                name=short(self._case.get("name") or "(no name)"),
                classname=short(classname) if classname else None,
                file=file,
                line=line,
                message=_message(message, text) or type_name or None,
                kind=kind,
                report=self._report_path,
            )
        )

    def _line(self) -> int | None:
        assert self._case is not None, "asked for only within a test case"
        written = self._case.get("line", "")
        if not written.isdecimal() or len(written) > 9:
            return None
        # pytest counts lines from 0
        return int(written) + (bool(self._suites) and self._suites[-1].get("name") == "pytest")

    def _inside(self, path: str) -> str:
        return in_project(path, self._project_dir)

    def report(self) -> Report:
        return Report(
            tests=self._counts["tests"],
            failures=self._counts["failure"],
            errors=self._counts["error"],
            skipped=self._counts["skipped"],
            failing=tuple(self._failing),
        )


_PATH = r"(?:[A-Za-z]:)?[\w./\\@+~-]+\.[A-Za-z]\w{0,9}"
_INNERMOST_LAST = re.compile(
    rf'File "([^"\n]+)", line (\d+)|(?:^\s*|\bat )({_PATH}):(\d+)(?::\d+)?:(?: |$)', re.MULTILINE
)
_INNERMOST_FIRST = re.compile(
    rf"\(((?:file://|webpack://)?{_PATH}):(\d+)(?::\d+)?\)|^\s*(?:at |# )?((?:file://)?{_PATH}):(\d+)(?::\d+)?(?::in .*)?\s*$",
    re.MULTILINE,
)
_NOT_THEIRS = re.compile(r"node_modules|node:internal|site-packages|dist-packages|^(?:Native)?Method|^<|/usr/lib/")


def _places(pattern: re.Pattern[str], text: str, inside: _Inside) -> Iterator[tuple[str, int]]:
    for match in pattern.finditer(text):
        path, line = (match[1], match[2]) if match[1] else (match[3], match[4])
        if len(line) < 9 and not _NOT_THEIRS.search(path):
            yield inside(path), int(line)


def _place(text: str, named: str | None, classname: str | None, inside: _Inside) -> tuple[str, int] | None:
    """Locate a failure: the innermost frame in the test's file, else in the user's code."""
    last = list(_places(_INNERMOST_LAST, text, inside))[::-1]
    first = list(_places(_INNERMOST_FIRST, text, inside))
    everything = last + first
    for file, line in everything:
        if named is not None and (file == named or file.endswith("/" + named) or named.endswith("/" + file)):
            return named, line
    if named is not None:
        return None
    words = set(re.split(r"[./\\$:]", classname)) if classname else set()
    for file, line in everything:
        if file.rpartition("/")[2].rpartition(".")[0] in words:
            return file, line
    return everything[0] if everything else None


def _message(message: str, text: str) -> str | None:
    message = message.strip() or next((line.strip() for line in text.splitlines() if line.strip()), "")
    return short(message, _MAX_MESSAGE) or None
